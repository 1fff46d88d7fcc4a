"""Look-up tables of few bits: values, gradients, options, against scalar Python and torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nybble
from nybble.formats import oracle
from nybble.ops import native
from nybble.ops.spec import LayerSpec
from nybble.quantizers import SAWB
from nybble.recipes import get_recipe

TABLE = "sun2020:embedding=yes"
CORE, MISSING = native.core()
BACKENDS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(CORE is None, reason=MISSING or "-")),
]


def table(
    rows: int, width: int, recipe: object = TABLE, backend: str = "auto", **options
) -> nn.Embedding:
    torch.manual_seed(0)
    layer = nn.Embedding(rows, width, **options)
    rules = None if isinstance(recipe, str) else {"0": recipe}
    base = recipe if isinstance(recipe, str) else "fp32"
    return nybble.convert(nn.ModuleList([layer]), base, rules, backend=backend)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 40),
    count=st.integers(0, 60),
    padding=st.booleans(),
    switches=st.sampled_from(["", "ste=clip", "sawb=ibm16", "sawb_channel=yes", "phases=odd-even"]),
    seed=st.integers(0, 999),
)
def test_rows_and_sums_are_those_of_python(backend, rows, width, count, padding, switches, seed):
    recipe = f"{TABLE}+{switches}" if switches else TABLE
    layer = table(rows, width, recipe, backend, padding_idx=0 if padding else None)
    torch.manual_seed(seed)
    index = torch.randint(0, rows, (count,))
    slot = layer.nybble_spec.output_weight
    weight = layer.weight.detach()
    fit = slot.scale.fit(weight, slot.format)
    y = layer(index)
    grad = torch.randn(count, width) * 1e-3
    y.backward(grad)
    # Forward: the oracle rounds each number of the rows that are looked up.
    inv, scale = (t.expand(rows, 1).reshape(-1).tolist() for t in (fit.inv, fit.scale))
    for i, row in enumerate(index.tolist()):
        for j in range(width):
            scaled = float(torch.tensor(weight[row, j].item()) * torch.tensor(inv[row]))
            value = oracle.decode(oracle.encode(scaled, slot.format, slot.rounding), slot.format)
            unit = slot.format.unit
            expected = torch.tensor(value / unit) * (
                torch.tensor(scale[row]) * unit if unit != 1 else torch.tensor(scale[row])
            )
            assert float(y[i, j]) == float(expected)
    # Backward: integers of the gradient, added in Python's integers.
    g = layer.nybble_spec.grad_weight_grad
    kept = [i for i, row in enumerate(index.tolist()) if not (padding and row == 0)]
    state = float(layer.nybble_grad_scale)
    sums: dict[tuple[int, int], int] = {}
    for i in kept:
        for j in range(width):
            code = oracle.encode(float(grad[i, j]) * state, g.format, g.rounding)
            whole = round(oracle.decode(code, g.format) / g.format.unit)
            key = (int(index[i]), j)
            sums[key] = sums.get(key, 0) + whole
    multiplier = torch.tensor(1.0) / torch.tensor(state or 1.0) * g.format.unit
    inside = torch.ones_like(weight)
    if isinstance(slot.scale, SAWB) and slot.scale.ste == "clip":
        scaled = weight * fit.inv
        inside = (scaled.clamp(slot.format.low, slot.format.high) == scaled).float()
    for row in range(rows):
        for j in range(width):
            expected = torch.tensor(float(sums.get((row, j), 0))) * multiplier * inside[row, j]
            assert float(layer.weight.grad[row, j]) == float(expected), (row, j)


@pytest.mark.parametrize(
    "recipe", ["hfp8", "fp16", "sun2020:sawb=ibm16", "sun2020:factor=stochastic"]
)
@pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
def test_backends_agree_in_every_format(recipe):
    results = []
    for backend in ("reference", "native"):
        layer = table(30, 8, get_recipe(recipe).spec, backend)
        torch.manual_seed(1)
        for _ in range(2):
            y = layer(torch.randint(0, 30, (4, 5)))
            (y.square().sum() * 1e-2).backward()
        results.append((y.detach(), layer.weight.grad, layer.nybble_grad_scale))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_operators_pass_torchs_own_checks():
    for switches in ("", "+ste=clip"):
        layer = table(9, 4, TABLE + switches, "reference")
        plan = (layer.nybble_spec.key, False, 0, 0, 1)
        index = torch.tensor([[1, 2], [8, 1]])
        forward = (layer.weight.detach(), index, *plan, True)
        torch.library.opcheck(torch.ops.nybble.embedding_forward.default, forward)
        y, mask = torch.ops.nybble.embedding_forward(*forward)
        backward = (torch.randn_like(y), index, mask, torch.zeros(1), [9, 4], -1, *plan)
        torch.library.opcheck(torch.ops.nybble.embedding_backward.default, backward)


def test_recipes_leave_tables_alone_unless_asked():
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))

    def converted(*arguments: object) -> list[str]:
        return [n for n, _ in nybble.quantized_layers(nybble.convert(model(), *arguments))]

    assert converted("sun2020") == ["1", "2", "3"]
    assert converted("sun2020", {"re:.*": "hfp8"}) == ["1", "2", "3"]
    assert converted("sun2020", {"0": "hfp8"}) == ["0", "1", "2", "3"]
    assert converted(TABLE) == ["0", "1", "2", "3"]
    assert converted("sun2020-strict:embedding=yes") == ["0", "1", "2", "3"]
    assert converted(TABLE, {"re:^0": None}) == ["1", "2", "3"]
    net = nybble.convert(model(), TABLE)
    # The first layer is the first that multiplies.
    assert net[1].nybble_rule == "sun2020: first layer" and "embedding" in net[0].nybble_rule
    text = str(nybble.summary(net, torch.tensor([[1, 2]])))
    assert "look-up" in text and "a look-up in float32" not in text
    net = nybble.convert(model(), "sun2020", strict=True)
    assert "a look-up in float32, which multiplies nothing: 0 (Embedding)" in str(
        nybble.summary(net, torch.tensor([[1, 2]]))
    )


def test_a_subclass_stays_in_float32_and_strict_says_so():
    class Positions(nn.Embedding):
        def forward(self, x):
            return super().forward(x + 1)

    model = nn.Sequential(Positions(9, 4), nn.Linear(4, 4))
    with pytest.raises(nybble.UserError, match=r"0 \(Positions\)"):
        nybble.convert(model, TABLE, strict=True)
    nybble.convert(model, TABLE, {"0": None}, strict=True)
    summary = nybble.summary(model, torch.tensor([[1, 2]]))
    assert summary.tables == (("0", "Positions"),)


def test_max_norm_shortens_the_master_rows_as_torch_does():
    layer = table(5, 8, max_norm=1.0)
    torch.manual_seed(0)
    plain = nn.Embedding(5, 8, max_norm=1.0)
    index = torch.tensor([0, 3, 3])
    plain(index), layer(index)
    assert torch.equal(layer.weight, plain.weight)
    assert float(layer.weight[0].norm()) <= 1.0001 < float(layer.weight[1].norm())


@pytest.mark.parametrize("option", ["sparse", "scale_grad_by_freq"])
def test_what_has_no_dense_gradient_is_refused_by_name(option):
    with pytest.raises(nybble.UserError, match=f"^0: an Embedding with {option}=True"):
        table(5, 4, **{option: True})


def test_a_wrong_index_is_one_clear_line():
    layer = table(5, 4)
    with pytest.raises(nybble.UserError, match=r"from 0 to 4, but 1 to 5 came in"):
        layer(torch.tensor([1, 5]))
    with pytest.raises(nybble.UserError, match="indices are integers"):
        layer(torch.tensor([1.0]))


def test_the_slots_that_a_table_has_no_use_for_are_dropped():
    layer = table(5, 4)
    assert layer.nybble_alpha is None
    full = get_recipe("sun2020").spec
    assert layer.nybble_spec == LayerSpec(
        output_weight=full.output_weight,
        grad_weight_grad=full.grad_weight_grad,
        grad_input_weight=None,
    )
