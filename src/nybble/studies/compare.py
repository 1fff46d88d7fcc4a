"""The same model trained with several recipes and seeds, and what came of it as one record.

    1. check everything that can be checked: recipes, data, model, rules, folder
    2. if asked: choose a switch setting by short runs on other seeds; it becomes one more recipe
    3. run every (seed, recipe), or take over what an earlier call finished
    4. measure step times, all recipes in turn in this process
    5. write OUT/comparison.json (after every run too, so that a stopped comparison has a record)

The seeds that choose a setting must not be among the seeds that are reported: the best of several
settings on the same seeds would look better than it is.  The test items are the same for both, so
a small optimism remains, which the report says.

Not done: tuning learning rates per recipe; correction for the number of recipes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.studies.outcome import Outcome
from nybble.studies.plan import FLOAT32, Plan, claim, shared
from nybble.studies.record import make_record, read_record, write_record
from nybble.studies.runs import run_all
from nybble.studies.statistics import spread
from nybble.training.config import SESSION_FIELDS, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nybble.training.tasks.base import Inputs, Task

RECORD = "comparison.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class CompareConfig:
    """What to compare and how.

    base: the training configuration of every run (its recipe, seed and out are not used).
    recipes, best_of: texts that `get_recipe` reads; best_of are settings to choose one from.
    select_seeds, select_epochs: of the choosing runs; None epochs means a quarter of the others'.
    step_pairs: interleaved pairs of steps that are timed; 0 leaves step times out.
    """

    base: TrainConfig
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path
    jobs: int = 1
    step_pairs: int = 20
    retry_failed: bool = False
    best_of: tuple[str, ...] = ()
    select_seeds: tuple[int, ...] = ()
    select_epochs: int | None = None

    @property
    def choosing_epochs(self) -> int:
        """Epochs of the runs that choose a setting: a quarter of the others', if not given."""
        return self.select_epochs or max(1, self.base.resolved().epochs // 4)

    def __post_init__(self) -> None:
        for name, low in (("jobs", 1), ("step_pairs", 0)):
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, not {getattr(self, name)}.")
        if not self.recipes or not self.seeds:
            raise UserError("compare: give at least one recipe and one seed.")
        if self.best_of and not self.select_seeds:
            raise UserError("--best-of needs --select-seeds: seeds that are not reported.")
        both = sorted(set(self.select_seeds) & set(self.seeds))
        if self.best_of and both:
            raise UserError(
                f"seed {both[0]} is in --seeds and in --select-seeds; a setting must be chosen on "
                "seeds that are not reported."
            )

    @property
    def baseline(self) -> str | None:
        """The recipe that others are compared with, if it is there."""
        return FLOAT32 if FLOAT32 in self.recipes else None


def compare(config: CompareConfig, say: Say = lambda line: None) -> dict[str, Any]:
    """Run the comparison and return its record, which is also in OUT/comparison.json.

    `say` gets the lines that tell what is going on.

    Raises:
        UserError: bad input, or an OUT that holds something else; nothing was overwritten.
        Interrupted: a signal; everything is saved, and the same call continues.
    """
    from nybble.training.tasks import make_task

    for recipe in (*config.recipes, *config.best_of):
        get_recipe(recipe)
    task = make_task(config.base)
    check_models(config, task)
    claim(config.out, config.base)
    earlier = _earlier(config.out / RECORD)
    choice = choose(config, task.higher_is_better, say) if config.best_of else None
    recipes = config.recipes
    if choice and choice["winner"] and choice["winner"] not in recipes:
        recipes = (*recipes, choice["winner"])

    outcomes: list[Outcome] = []
    where = environment()

    def record(timing: dict[str, Any] | None) -> dict[str, Any]:
        made = assemble(config, recipes, outcomes, task, where, timing, choice)
        write_record(config.out / RECORD, made)
        return made

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        record(None)

    plan = Plan(config.base, recipes, config.seeds, config.out / "runs")
    run_all(plan.configs(), jobs=config.jobs, retry_failed=config.retry_failed, say=say, done=done)
    timing = None
    if config.step_pairs and earlier and all(outcome.reused for outcome in outcomes):
        timing = _same_timing(earlier, config, recipes, where)
    if config.step_pairs and not timing:
        say(f"step times: {config.step_pairs} interleaved pairs of every recipe")
        timing = measure_steps(config.base, recipes, task, config.step_pairs)
    return record(timing)


def _earlier(path: Path) -> dict[str, Any] | None:
    """The record that an earlier call left; one that cannot be read is made anew."""
    try:
        return read_record(path)
    except UserError:
        return None


def _same_timing(
    earlier: dict[str, Any], config: CompareConfig, recipes: tuple[str, ...], where: dict[str, Any]
) -> dict[str, Any] | None:
    """The step times of the earlier record, where measuring again would measure the same."""
    timing: dict[str, Any] | None = earlier.get("timing")
    commit = str(where["commit"] or "-dirty")
    same = (
        timing is not None
        and not commit.endswith("-dirty")  # the code may be another one
        and timing.get("pairs") == config.step_pairs
        and set(timing.get("ratios", ())) == set(recipes)
        and earlier.get("environment") == where
    )
    return timing if same else None


def check_models(config: CompareConfig, task: Task) -> None:
    """Build and convert the model once for every recipe, so that what cannot work fails now.

    Raises:
        UserError: an unknown model, a rule that matches nothing, ...
    """
    from nybble.training.prepare import build_model

    plan = Plan(config.base, (*config.recipes, *config.best_of), config.seeds[:1], config.out)
    for run in plan.configs():
        build_model(run, task)


def choose(config: CompareConfig, higher_is_better: bool, say: Say) -> dict[str, Any]:
    """Run every setting of `best_of` on the choosing seeds; the one with the best mean wins.

    A setting of which a run failed cannot win; of equal means, the first one written wins.
    """
    epochs = config.choosing_epochs
    base = replace(config.base, epochs=epochs)
    plan = Plan(base, config.best_of, config.select_seeds, config.out / f"selection-{epochs}")
    say(f"choosing among {len(config.best_of)} settings on seeds {config.select_seeds}")
    outcomes = run_all(plan.configs(), jobs=config.jobs, retry_failed=config.retry_failed, say=say)
    candidates: list[dict[str, Any]] = []
    for recipe in config.best_of:
        values = [o.metric if o.finished else None for o in outcomes if o.recipe == recipe]
        candidates.append({"recipe": recipe, "values": values, "mean": spread(values).mean})
    whole = [c for c in candidates if None not in c["values"] and c["mean"] is not None]
    best = max if higher_is_better else min
    winner = best(whole, key=lambda c: c["mean"])["recipe"] if whole else None
    say(f"chosen: {winner}" if winner else "no setting finished: none is chosen")
    return {
        "winner": winner,
        "seeds": list(config.select_seeds),
        "epochs": epochs,
        "candidates": candidates,
    }


def measure_steps(
    base: TrainConfig, recipes: tuple[str, ...], task: Task, pairs: int
) -> dict[str, Any]:
    """Step times of the real models on the first batch, interleaved; see `steptime`."""
    import torch

    from nybble.convert import loss_scale
    from nybble.nn import quantized_layers
    from nybble.ops.dispatch import BACKENDS, runs_native
    from nybble.studies.steptime import interleave, loss_step, ratios
    from nybble.training.inputs import laid_out
    from nybble.training.prepare import build_model
    from nybble.training.seeds import derive, globals_restored, seed_globals

    threads = torch.get_num_threads()
    try:
        if base.threads is not None:
            torch.set_num_threads(base.threads)
        with globals_restored():
            inputs, target = task.batch(0, 0)
            inputs = laid_out(inputs, base.channels_last)
            steps, backends = {}, {}
            for run in Plan(base, recipes, (base.seed,), Path()).configs():
                seed_globals(derive(base.seed, "init"))
                model, _ = build_model(run, task)
                scale = run.loss_scale or loss_scale(model)
                model.train()
                loss = partial(_loss, task, model, inputs, target)
                steps[run.recipe] = loss_step(model, loss, loss_scale=scale)
                native = {
                    runs_native(m.nybble_backend, m.weight) for _, m in quantized_layers(model)
                }
                used = [name for name in BACKENDS if (name == "native") in native]
                backends[run.recipe] = "+".join(used) or "torch"
            samples = interleave(steps, pairs)
        baseline = FLOAT32 if FLOAT32 in recipes else recipes[0]
        return {
            "backend": backends,
            "baseline": baseline,
            "threads": torch.get_num_threads(),
            "batch_size": base.resolved().batch_size,
            "pairs": pairs,
            "ratios": ratios(samples, baseline),
        }
    finally:
        torch.set_num_threads(threads)


def _loss(task: Task, model: nn.Module, inputs: Inputs, target: Any) -> Tensor:
    from nybble.training.inputs import call

    return task.loss(call(model, inputs), target)


def environment() -> dict[str, Any]:
    """Versions, machine and commit, as the record holds them."""
    from nybble.training.machine import commit, machine, versions

    return {"versions": versions(), "machine": machine(), "commit": commit()}


def assemble(
    config: CompareConfig,
    recipes: tuple[str, ...],
    outcomes: list[Outcome],
    task: Task,
    where: dict[str, Any],
    timing: dict[str, Any] | None,
    choice: dict[str, Any] | None,
) -> dict[str, Any]:
    """The record of what is known so far, made in the environment `where`."""
    whole = config.base.resolved()
    return make_record(
        title=f"{whole.model} on {whole.data}",
        command=command(config),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=config.base.task,
        metric={
            "name": task.metric,
            "unit": task.unit,
            "digits": task.digits,
            "higher_is_better": task.higher_is_better,
            "comparison": task.comparison,
        },
        baseline=config.baseline,
        configuration={**shared(config.base), "data_set": task.describe()},
        environment=where,
        recipes=recipes,
        seeds=config.seeds,
        outcomes=outcomes,
        timing=timing,
        selection=choice,
        jobs=config.jobs,
    )


def command(config: CompareConfig) -> str:
    """The command that repeats the comparison, without the place it was written to.

    >>> base = TrainConfig(data="fashion-mnist", epochs=3)
    >>> print(command(CompareConfig(base, ("fp32", "sun2020"), (0, 1), Path("out"))))
    nybble compare vision --data fashion-mnist --model resnet8 --recipes fp32,sun2020
        --seeds 0,1 --epochs 3 --best-of none
    """
    base, default, whole = config.base, TrainConfig(), config.base.resolved()
    words = ["nybble", "compare", base.task, "--data", whole.data, "--model", whole.model]
    words += ["--recipes", ",".join(config.recipes), "--seeds", ",".join(map(str, config.seeds))]
    told = {"task", "data", "model", "recipe", "seed", "rules", "task_options", *SESSION_FIELDS}
    for entry in fields(TrainConfig):
        value = getattr(base, entry.name)
        if entry.name in told or value == getattr(default, entry.name):
            continue
        option = entry.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{option}", text]
    for key, text in base.task_options:
        words += ["--set", f"{key}={text}"]
    for pattern, recipe in base.rules:
        words += ["--rule", f"{pattern}={recipe}"]
    if config.best_of:
        words += ["--best-of", ",".join(config.best_of)]
        words += ["--select-seeds", ",".join(map(str, config.select_seeds))]
        words += ["--select-epochs", str(config.choosing_epochs)]
    else:
        words += ["--best-of", "none"]
    return shlex.join(words)
