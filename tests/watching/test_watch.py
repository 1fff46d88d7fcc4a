"""Looking changes nothing, sees what the quantisers do, and costs little."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nybble
from nybble.errors import UserError
from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import Draw
from nybble.quantizers import get_quantizer, quantize
from nybble.recipes import RECIPES
from nybble.watching import OPERANDS, Record, read_records
from nybble.watching.measure import SAMPLE, Look, look


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def train(
    model: nn.Module, steps: int, each: Callable[[int], None] = lambda step: None
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.05), momentum=0.9)
    for step in range(steps):
        each(step)
        x = torch.randn(8, 2, 6, 6, generator=generator)
        y = torch.randint(0, 4, (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [t.detach().clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("recipe", ["sun2020", "luq", "nybble4"])
def test_weights_after_100_steps_are_the_same_bits(recipe: str, backend: str) -> None:
    plain = train(nybble.convert(network(), recipe, backend=backend), 100)
    model = nybble.convert(network(), recipe, backend=backend)
    with nybble.watch(model, every=3) as seen:
        watched = train(model, 100)
    assert len(seen.records) > 100
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert all(layer.nybble_observer is None for _, layer in nybble.quantized_layers(model))


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"fp32"}))
def test_every_recipe_can_be_watched(recipe: str) -> None:
    model = nybble.convert(network(), recipe)
    plain = nybble.convert(network(), recipe)
    with nybble.watch(model, every=1) as seen:
        watched = train(model, 3)
    assert all(torch.equal(a, b) for a, b in zip(train(plain, 3), watched, strict=True))
    for record in seen.records:
        assert record.operand in OPERANDS and record.finite
        assert record.bits > 4 or not record.histogram or record.used
        for share in (record.underflow, record.saturation, record.zeros):
            assert share is None or 0 <= share <= 1


def test_layers_take_turns_and_every_layer_has_one() -> None:
    model = nybble.convert(network(), "sun2020:first_last=int4")
    with nybble.watch(model, every=4) as seen:
        train(model, 12)
    turns: dict[str, set[int]] = {}
    for record in seen.records:
        if record.operand == "input":
            turns.setdefault(record.layer, set()).add(record.step)
    assert {name: sorted(steps) for name, steps in turns.items()} == {
        "0": [1, 5, 9],
        "3": [4, 8, 12],
        "6": [3, 7, 11],
        "8": [2, 6, 10],
    }


def test_figures_are_those_of_the_quantiser() -> None:
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(3))
    x[0, :7] = 0.0
    quantizer = get_quantizer("int4_sym:sawb(ibm15)")
    what = Look("input", "output", 0, 0)
    found = look(x, quantizer, what, Geometry("linear"), Draw(0, 0, 0)).read()
    packed = quantize(x, quantizer)
    q = packed.dequantize()
    counts = torch.bincount(packed.codes().reshape(-1).long(), minlength=16)
    assert found["histogram"] == counts.tolist()
    assert found["used"] == int((counts > 0).sum())
    live = x != 0
    assert found["underflow"] == pytest.approx(float((live & (q == 0)).sum() / live.sum()))
    assert found["scale"] == pytest.approx(float(packed.scale))
    assert found["saturation"] == pytest.approx(
        float((x.abs() > 7.5 * packed.scale).float().mean()), abs=1e-3
    )
    noise = (q - x).double()
    snr = 10 * math.log10(float(x.double().square().sum() / noise.square().sum()))
    assert found["snr_db"] == pytest.approx(snr)
    assert found["cosine"] == pytest.approx(float(F.cosine_similarity(x.view(-1), q.view(-1), 0)))
    assert found["norm_ratio"] == pytest.approx(float(q.norm() / x.norm()))
    assert found["bias"] == pytest.approx(float(noise.sum() / x.abs().sum()))
    assert found["noise_ratio"] == pytest.approx(10 ** (snr / 20))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3 * SAMPLE),
    st.sampled_from(["int4_sym:absmax", "uint4:pact", "fp4_e2m1:absmax(mx32)", "fp16:unit"]),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_figures_of_any_tensor(n: int, name: str, size: float) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)) * size
    slot = get_quantizer(name)
    what = Look("input", "output", 0, 0)
    shaped = x.reshape(1, -1)
    found = look(shaped, slot, what, Geometry("linear"), Draw(0, 0, 0)).read()
    json.dumps(found, allow_nan=False)
    if size == 0.0:
        assert found["zeros"] == 1.0 and found["snr_db"] is None


def test_gradients_are_seen_with_the_layers_own_scale() -> None:
    model = nybble.convert(network(), "sun2020")
    scales: list[float] = []
    layer = dict(nybble.quantized_layers(model))["3"]
    with nybble.watch(model, every=1) as seen:
        train(model, 6, lambda step: scales.append(float(layer.nybble_grad_scale)))
    looks = [r for r in seen.records if (r.layer, r.operand) == ("3", "grad_input")]
    # the state multiplies: it is the inverse of a record's scale, as it stood at that step
    assert scales[-1] != 0.0 and looks[-1].scale is not None
    assert math.log2(looks[-1].scale * scales[-1]) in (-1.0, 0.0, 1.0)
    assert math.log2(looks[-1].scale).is_integer()
    assert looks[-1].format == "fp4_radix4"
    assert any(r.format == "fp4_radix4_odd" for r in seen.records)


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "watch.jsonl"
    model = nybble.convert(network(), "sun2020")
    with nybble.watch(model, every=2, to=path) as seen:
        train(model, 8)
    head, looks, alarms = read_records(path)
    assert head == {"schema": "nybble.watch/1", "every": 2} and alarms == []
    assert len(looks) == len(seen.records)
    kept = {(r.step, r.layer, r.operand): r for r in looks}
    for record in seen.records:
        line = kept[record.step, record.layer, record.operand]
        assert line.histogram == record.histogram
        assert record.scale is None or line.scale == pytest.approx(record.scale, rel=1e-5)
    with path.open("a") as file:  # a crash cuts a line off; a resumed run repeats a step
        file.write(looks[0].to_json().replace('"used":', '"used":1') + "\n" + '{"step": 9, "la')
    again = read_records(path)[1]
    assert len(again) == len(looks)
    with nybble.watch(nybble.convert(network(), "sun2020"), every=2, to=path):
        pass
    assert path.read_text().endswith('"la\n')
    with path.open("a") as file:  # lines of JSON that are no look, and a look after them
        file.write('5\nnull\n["alarm"]\n"operand"\n{"operand": "input"}\n' + "[" * 9999 + "\n")
        file.write(looks[0].to_json().replace('"step":1', '"step":99') + "\n")
    after = read_records(path)[1]
    assert len(after) == len(looks) + 1 and after[-1].step == 99
    (tmp_path / "other").write_text('{"schema": "nybble.watch/9"}\n')
    with pytest.raises(UserError, match=r"nybble\.watch/9"):
        read_records(tmp_path / "other")
    with pytest.raises(UserError, match="cannot be read"):
        read_records(tmp_path / "gone")


def test_tensorboard_and_latest() -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.seen.append((name, value, step))

    writer = Writer()
    model = nybble.convert(network(), "sun2020")
    with nybble.watch(model, every=1, tensorboard=writer) as seen:
        train(model, 2)
    assert any(name == "watch/3/grad_input/underflow" for name, _, _ in writer.seen)
    record = seen.latest("3", "weight")
    assert isinstance(record, Record) and record.step == 2
    with pytest.raises(UserError, match="no converted layer is called '33'"):
        seen.latest("33", "weight")


def test_tests_between_steps_recomputation_and_shared_layers_are_no_steps() -> None:
    model = nybble.convert(network(), "sun2020")
    seen = nybble.watch(model, every=1)

    def test(step: int) -> None:
        with torch.no_grad():
            model(torch.randn(2, 2, 6, 6))
        model.eval()
        with torch.no_grad():
            model(torch.randn(2, 2, 6, 6))
        model.train()

    train(model, 3, test)
    seen.close()
    assert seen.step == 3
    assert {r.step for r in seen.records} == {1, 2, 3}


def test_copies_and_pickles_are_not_watched() -> None:
    model = nybble.convert(network(), "sun2020")
    with nybble.watch(model, every=1):
        twin = copy.deepcopy(model)
        again = pickle.loads(pickle.dumps(dict(nybble.quantized_layers(model))["3"]))
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
    layers: list[Any] = [layer for _, layer in nybble.quantized_layers(twin)]
    assert all(layer.nybble_observer is None for layer in [*layers, again])
    twin(torch.randn(2, 2, 6, 6)).sum().backward()


def test_a_watched_model_can_be_pickled_reverted_and_written_to_a_bad_place(
    tmp_path: Path,
) -> None:
    model = nybble.convert(network(), "sun2020")
    seen = nybble.watch(model, every=1)
    again = pickle.loads(pickle.dumps(model))
    again(torch.randn(2, 2, 6, 6)).sum().backward()
    nybble.revert(model)
    model(torch.randn(2, 2, 6, 6)).sum().backward()
    seen.close()
    model = nybble.convert(network(), "sun2020")
    foreign = tmp_path / "notes.txt"
    foreign.write_text("mine\n")
    for place in (tmp_path, tmp_path / "gone" / "x.jsonl", foreign):
        with pytest.raises(UserError):
            nybble.watch(model, to=place)
    assert foreign.read_text() == "mine\n"
    nybble.watch(model).close()
    with pytest.raises(UserError, match="no converted layer"):
        nybble.watch(network())
    with pytest.raises(UserError, match="Did you mean 'weight'"):
        seen.latest("3", "weigth")


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"give a model, a torch\.nn\.Module, not 5"):
        nybble.watch(5)  # type: ignore[arg-type]
    model = nybble.convert(network(), "sun2020")
    for every in (0, -1, 1.5, True):
        with pytest.raises(UserError, match="every must be a whole number"):
            nybble.watch(model, every=every)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Did you mean 'warn'"):
        nybble.watch(model, on_alarm="wern")  # type: ignore[arg-type]
    seen = nybble.watch(model)
    with pytest.raises(UserError, match="watched already"):
        nybble.watch(model)
    seen.close()
    seen.close()
    nybble.watch(model).close()
