"""What every task is promised: defaults, options, tuples, carried states, scores, old folders."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy_task import Echo, Listen

from nybble.cli.app import main
from nybble.errors import UserError
from nybble.training.checkpoint import load_checkpoint, save_checkpoint
from nybble.training.config import SESSION_FIELDS, ResolvedConfig, TrainConfig
from nybble.training.data.registry import SOURCES, load_data
from nybble.training.inputs import call, laid_out, mapped
from nybble.training.loop import NonFiniteError, Run, train
from nybble.training.optimizers import build_optimizer, clip_gradients_
from nybble.training.result import read_result
from nybble.training.state import RunState
from nybble.training.tasks import TASKS, make_task, task_class
from nybble.training.tasks.base import FALLBACK_LR
from nybble.training.tasks.vision import VisionTask

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "echo", f"{Echo.__module__}:Echo")
    monkeypatch.setitem(TASKS, "listen", f"{Echo.__module__}:Listen")


@pytest.fixture
def echo(tmp_path: Path) -> Make:
    def make(**changes: Any) -> TrainConfig:
        fields = {"task": "echo", "recipe": "fp32", "out": str(tmp_path / "run"), "quiet": True}
        return TrainConfig(**{"checkpoint_every": 0, **fields, **changes})

    return make


# -- defaults and options ---------------------------------------------------------------------


def test_what_the_user_says_goes_before_the_model_the_task_and_the_fallback() -> None:
    plain = TrainConfig(task="echo").resolved()
    assert (plain.data, plain.model, plain.optimizer) == ("noise", "cell", "adamw")
    assert (plain.lr, plain.clip_norm, plain.batch_size) == (0.02, 0.5, 6)
    assert (plain.momentum, plain.betas) == (0.9, (0.9, 0.999))
    assert plain.task_options == (("carry", "true"), ("noise", "low"), ("width", "8"))
    assert TrainConfig(task="echo", model="wide").resolved().lr == 0.01
    assert TrainConfig(task="echo", model="wide", lr=0.5).resolved().lr == 0.5
    assert TrainConfig(task="echo", clip_norm=0.0).resolved().clip_norm == 0
    # a rate belongs to the optimizer that it was found for
    assert TrainConfig(task="echo", optimizer="sgd").resolved().lr == FALLBACK_LR["sgd"]


def test_resolving_is_done_once_and_survives_json() -> None:
    config = TrainConfig(task="echo", betas=(0.9, 0.98), rules=(("head", "none"),))
    whole = config.resolved()
    assert whole.resolved() is whole
    assert ResolvedConfig.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.identity() == whole.identity()


def test_vision_has_the_defaults_it_always_had() -> None:
    whole = TrainConfig().resolved()
    assert {k: v for k, v in whole.to_dict().items() if k not in SESSION_FIELDS} == {
        **VERSION_1,
        "task_options": [],
        "lr": 0.2,
        "betas": [0.9, 0.999],
        "clip_norm": 0.0,
        "start": None,
        "new_head": False,
    }
    assert TrainConfig(batch_size=64).resolved().lr == 0.1
    assert TrainConfig(model="cnn", optimizer="adamw").resolved().lr == 2e-3
    assert TrainConfig(model="mine:net").resolved().lr == 0.05


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task_options": (("widht", "8"),)}, "no option 'widht'; it has width .* mean 'width'"),
        ({"task_options": (("width", "many"),)}, "width=many: it must be a whole number"),
        ({"task_options": (("width", "0"),)}, "width=0: it must be at least 1"),
        ({"task_options": (("width", "65"),)}, "width=65: it must be at most 64"),
        ({"task_options": (("carry", "perhaps"),)}, "carry=perhaps: it must be true or false"),
        ({"task_options": (("noise", "lo"),)}, "choose one of low, high. Did you mean 'low'"),
        ({"task_options": (("floor", "nan"),)}, "floor=nan"),
        ({"task_options": (("width", "1"), ("width", "2"))}, "--set width is given twice"),
        ({"resize": 32}, "task echo does not use resize"),
        ({"augmentation": "crop"}, "does not use augmentation"),
        ({"task": "vision", "task_options": (("width", "1"),)}, "vision has no option.*width"),
        ({"task": "ecko"}, "Unknown task 'ecko'.*Did you mean 'echo'"),
        ({"task": "json:dumps"}, "not a class that inherits from"),
        ({"task": "no_such_module:Task"}, "cannot be imported"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"clip_norm": -1.0}, "clip_norm must be"),
    ],
)
def test_what_a_task_does_not_understand_is_refused(
    changes: dict[str, Any], says: str, echo: Make
) -> None:
    with pytest.raises(UserError, match=says):
        train(echo(**changes))
    assert not Path(echo().run_folder()).exists()


def test_options_reach_the_task_and_are_part_of_the_run(echo: Make) -> None:
    config = echo(task_options=(("width", "5"), ("carry", "no")), epochs=1)
    task = make_task(config)
    assert isinstance(task, Echo)
    assert task.settings == {"width": 5, "carry": False, "noise": "low", "floor": None}
    record = train(config)
    assert ["width", "5"] in record["config"]["task_options"]
    with pytest.raises(UserError, match=r"holds another run.*task_options"):
        train(echo(epochs=1, resume=True))


# -- the loop ---------------------------------------------------------------------------------


def test_a_run_of_another_task(echo: Make) -> None:
    record = train(echo())
    assert record == read_result(echo().run_folder())
    assert (record["metric"], record["unit"], record["higher_is_better"]) == (
        "perplexity",
        "",
        False,
    )
    tests = [epoch["test_perplexity"] for epoch in record["epochs"]]
    assert tests[-1] < tests[0] < 8 and record["best_perplexity"] == min(tests)
    final = record["final"]
    # the loss is weighted by tokens, of which the second test batch has fewer
    assert final["test_perplexity"] == pytest.approx(math.exp(final["test_loss"]), rel=1e-6)
    assert final["test_extras"]["bits"] == pytest.approx(final["test_loss"] / math.log(2))
    assert final["train_perplexity"] == pytest.approx(math.exp(final["train_loss"]), rel=1e-6)
    log = (echo().run_folder() / "log.txt").read_text()
    assert f"perplexity {tests[-1]:.2f}  " in log and "%" not in log


def test_a_task_that_is_scored_by_decoding(echo: Make, capsys: Any) -> None:
    record = train(echo(task="listen", epochs=2, quiet=False))
    assert record["final"]["train_wer"] is None
    assert 0 <= record["final"]["test_wer"] <= 1 and record["unit"] == "%"
    err = capsys.readouterr().err
    assert f"wer {100 * record['final']['test_wer']:.2f} %" in err
    assert Listen.scores_training is False


class Killed(BaseException):
    """Stands for a process that vanishes."""


@pytest.mark.parametrize("changes", [{}, {"recipe": "sun2020", "optimizer": "sgd"}], ids=str)
def test_a_carried_state_is_resumed_bit_for_bit(
    changes: dict[str, Any],
    echo: Make,
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = echo(**changes, checkpoint_every=1)
    train(config)
    expected = final_state(config)
    for stop in (0, 1, 3, 4, 6, 9):
        stopped = replace(config, out=str(tmp_path / f"killed-{stop}"))

        def batch(self: Echo, epoch: int, step: int, stop: int = stop) -> Any:
            if 4 * epoch + step == stop:
                raise Killed
            return self.rows(6, epoch, step)

        with monkeypatch.context() as patch:
            patch.setattr(Echo, "batch", batch)
            with pytest.raises(Killed):
                train(stopped)
        train(replace(stopped, resume=True))
        assert final_state(stopped) == expected


def test_the_state_is_carried_within_an_epoch_only(
    echo: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    run = Run(echo(epochs=2))
    forward = run.model.forward

    def spy(tokens: Any, keep: Any, state: Any = None) -> Any:
        assert state is None or not state.requires_grad
        output = forward(tokens, keep, state)
        seen.append((state, output[1].detach()))
        return output

    run.model.forward = spy  # type: ignore[method-assign]
    run.train()
    states = [state for state, _ in seen]
    assert [state is None for state in states] == [True, False, False, False, True, False] * 2
    for (_, left), (state, _) in itertools.pairwise(seen):
        assert state is None or torch.equal(state, left)
    with_none = train(echo(task_options=(("carry", "no"),), out=f"{run.folder}-2", epochs=2))
    assert with_none["final"]["train_loss"] != run.state.epochs[-1]["train_loss"]


def test_gradients_are_clipped_as_torch_does_it(echo: Make, tmp_path: Path) -> None:
    record = train(echo(clip_norm=0.05, epochs=1))
    assert record["final"]["clipped_steps"] == 4
    free = train(echo(clip_norm=0.0, epochs=1, out=str(tmp_path / "free")))
    assert "clipped_steps" not in free["final"]

    layers = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        (layer(torch.ones(3, 2)).square().sum() * 10).backward()
    torch.nn.utils.clip_grad_norm_(layers[0].parameters(), 0.1)
    optimizer = build_optimizer(layers[1], TrainConfig())
    assert clip_gradients_(optimizer, 0.1) is True
    assert clip_gradients_(optimizer, 0.2) is False
    for one, two in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert one.grad is not None and two.grad is not None and torch.equal(one.grad, two.grad)


def test_learned_clips_do_not_count_for_the_norm() -> None:
    import nybble

    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    nybble.convert(model, "sun2020")
    optimizer = build_optimizer(model, TrainConfig())
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 1e6 if group["name"] == "clips" else 1e-3)
    assert {group["name"] for group in optimizer.param_groups} >= {"clips", "weights"}
    assert clip_gradients_(optimizer, 1.0) is False


def test_betas_reach_adamw() -> None:
    model = torch.nn.Linear(2, 2)
    config = TrainConfig(optimizer="adamw", betas=(0.8, 0.98))
    assert all(g["betas"] == (0.8, 0.98) for g in build_optimizer(model, config).param_groups)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_metric_that_is_no_number_stops_the_run(
    value: float, echo: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(echo(epochs=1))
    monkeypatch.setattr(run.task, "summarise", lambda scores: value if len(scores) > 1 else 1.0)
    with pytest.raises(NonFiniteError, match=f"the test perplexity is {value}"):
        run.train()


def test_a_loss_that_is_no_number_names_the_layer(echo: Make) -> None:
    run = Run(echo())
    with torch.no_grad():
        run.model.head.weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"parameter 'head\.weight' was not finite"):
        run.train()


def test_an_empty_test_set_is_named(echo: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "test_batches", lambda self: iter(()))
    with pytest.raises(UserError, match="test set of 'noise' gave nothing to measure"):
        train(echo())


def test_inputs_are_handed_over_as_they_are() -> None:
    seen: list[Any] = []

    class Spy(torch.nn.Module):
        def forward(self, *arguments: Any) -> None:
            seen.append(arguments)

    image, words = torch.zeros(1, 2, 3, 3), torch.zeros(2)
    for inputs, state in ((image, None), ((image, words), None), ((image, words), 7)):
        call(Spy(), inputs, state)
    assert [len(arguments) for arguments in seen] == [1, 2, 3] and seen[2][2] == 7
    turned = laid_out((image, words, [image]), True)
    assert turned[0].is_contiguous(memory_format=torch.channels_last)
    assert turned[2][0].is_contiguous(memory_format=torch.channels_last)
    assert laid_out(image, False) is image
    lengths = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    packed = mapped(lengths, lambda t: t)
    assert type(packed) is type(lengths) and torch.equal(packed.data, lengths.data)


# -- the command line -------------------------------------------------------------------------


def test_a_task_of_your_own_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_echo.py").write_text(
        "from tests.training.toy_task import Echo\nclass Mine(Echo):\n    metric = 'surprise'\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["train", "my_echo:Mine", "--recipe", "fp32", "--epochs", "1", "--set", "width=4"]
    assert main([*words, "--betas", "0.9,0.98", "--clip-norm", "1"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "my_echo_Mine-noise-cell-fp32-s0"
    record = read_result(folder)
    assert record is not None and record["metric"] == "surprise"
    final = record["final"]
    assert out.startswith(
        f"surprise {final['test_surprise']:.2f}, bits {final['test_extras']['bits']:.4g}, "
    )
    assert record["config"]["betas"] == [0.9, 0.98] and record["config"]["clip_norm"] == 1
    assert task_class("my_echo:Mine").metric == "surprise"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "width"], "--set must be KEY=VALUE"),
        (["--set", "height=3"], "has no option 'height'; it has width (Size of the state)"),
        (["--betas", "0.9"], "--betas must be two numbers"),
        (["--resize", "32"], "does not use resize (--resize)"),
    ],
)
def test_bad_options_end_in_one_line(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "echo", *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_sources_belong_to_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = replace(SOURCES["mnist5k"], name="novel", usage="novel", tasks=("echo", "listen"))
    monkeypatch.setitem(SOURCES, "novel", text)
    with pytest.raises(UserError, match="'novel' is for echo and listen, not for vision; choose"):
        load_data("novel")
    with pytest.raises(UserError, match=r"Unknown data 'novle'; choose one of novel\. Did you"):
        load_data("novle", task="echo")
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    groups = [line for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert groups[0] == "vision:" and {"echo:", "listen:"} <= set(groups)
    assert out.count("\nnovel ") == 2
    assert main(["data", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["tasks"] for row in rows if row["name"] == "novel"] == [["echo", "listen"]]


# -- run folders of earlier versions ----------------------------------------------------------

VERSION_1: dict[str, Any] = {
    "task": "vision",
    "data": "mnist5k",
    "model": "resnet8",
    "recipe": "sun2020",
    "rules": [],
    "seed": 0,
    "epochs": 8,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": None,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.0005,
    "schedule": "onecycle",
    "warmup": 0.2,
    "label_smoothing": 0.0,
    "zero_init": False,
    "augmentation": "auto",
    "alpha_lr": None,
    "alpha_weight_decay": None,
    "loss_scale": None,
    "backend": "auto",
    "accumulate": "fast",
    "activations": "none",
    "resize": None,
    "on_corrupt": "stop",
    "limit_train": None,
    "limit_test": None,
    "channels_last": True,
    "threads": None,
    "on_alarm": "warn",
}
"""What version 1 of config.json held (and a plan.json of then, without recipe and seed)."""


def make_version_1(config: TrainConfig) -> None:
    """Rewrite a run folder as a nybble before the fields of tasks wrote it."""
    folder = config.run_folder()
    path = folder / "config.json"
    record = json.loads(path.read_text())
    assert record["schema_version"] == 3
    old = {k: record["config"][k] for k in VERSION_1}
    path.write_text(json.dumps({**record, "schema_version": 1, "config": {**old, "lr": config.lr}}))
    found = load_checkpoint(folder / "checkpoints")
    assert found is not None
    state = found.content["state"]
    score = state.pop("score")
    del state["clipped"]
    state["score_sum"], state["score_count"] = score or (0.0, 0)
    save_checkpoint(folder / "checkpoints", found.step, found.content)
    result = json.loads((folder / "result.json").read_text())
    del result["unit"]
    (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize("lr", [None, 0.05])
def test_a_run_folder_of_version_1_goes_on(
    lr: float | None,
    tiny: Make,
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny(lr=lr, checkpoint_every=3)
    train(config)
    stopped = replace(config, out=str(tmp_path / "stopped"))
    original = VisionTask.batch

    def batch(self: VisionTask, epoch: int, step: int) -> Any:
        if 4 * epoch + step == 7:
            raise Killed
        return original(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(VisionTask, "batch", batch)
        with pytest.raises(Killed):
            train(stopped)
    make_version_1(stopped)
    with pytest.raises(UserError, match=r"holds another run \(epochs is 3 there, 4 was asked for"):
        train(replace(stopped, epochs=4))
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_a_finished_run_of_version_1_is_shown(
    tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    from nybble.cli.train import summary_line
    from nybble.studies.runs import read_outcome

    config = tiny()
    record = train(config)
    make_version_1(config)
    old = train(replace(config, resume=True))
    assert old["final"] == record["final"] and "unit" not in old
    assert summary_line(old) == summary_line(record) and " %," in summary_line(old)
    assert read_outcome(config, old).metric == 100 * record["final"]["test_accuracy"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 4}, "has schema version 4; this nybble reads up to 3. Update nybble"),
        ({"config": {**VERSION_1, "colour": 1}}, "the setting colour is not known to this version"),
        ({"config": {**VERSION_1, "epochs": "x"}}, "its settings cannot be used"),
        ({"config": 3}, "is not the configuration of a nybble run"),
    ],
)
def test_a_folder_that_cannot_be_read_says_so(
    change: dict[str, Any], says: str, tiny: Make
) -> None:
    config = tiny(epochs=1)
    train(config)
    path = config.run_folder() / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        train(replace(config, resume=True))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_state_of_version_1() -> None:
    old = RunState.from_dict({"epoch": 2, "step": 1, "score_sum": 7.0, "score_count": 9})
    assert old == RunState(epoch=2, step=1, score=[7.0, 9])
    assert RunState.from_dict({"score_sum": 0.0, "score_count": 0}) == RunState()


def test_the_task_of_the_documentation_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = Path(__file__).parents[2] / "docs" / "tasks.md"
    if not docs.is_file():
        pytest.skip("not a source checkout")
    code = docs.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    (tmp_path / "parity_of_docs.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = {"task": "parity_of_docs:Parity", "recipe": "sun2020", "quiet": True}
    record = train(TrainConfig(**options, task_options=(("bits", "3"),), epochs=4))
    assert record["final"]["test_accuracy"] > 0.9
