"""int8: its layer against the scalar oracle, and what stays native."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nybble
from nybble.formats.oracle import decode, encode
from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import GRAD_INPUT_GRAD
from nybble.ops.spec import SLOTS
from nybble.quantizers import PACT, RandomKey
from nybble.quantizers import oracle as scalar
from nybble.recipes import get_recipe

SEED, LAYER, CALL = 5, 2, 9


def integers(rows: list[list[float]], slot, operand: int | None = None):
    """(integers, scale) with one scale for all numbers, by the scalar oracle."""
    flat = [v for row in rows for v in row]
    fit = scalar.absmax([max(map(abs, flat))], 127.0)
    key = None if operand is None else RandomKey(SEED, 0, LAYER, CALL, operand)
    codes = [
        encode(
            scalar.mul(v, fit.inv),
            slot.format,
            slot.rounding,
            None if key is None else scalar.random24(i, key),
        )
        for i, v in enumerate(flat)
    ]
    ints = [round(decode(code, slot.format)) for code in codes]
    assert max(map(abs, ints)) == 127
    width = len(rows[0])
    return [ints[i : i + width] for i in range(0, len(ints), width)], fit.scale


def dot(a, b, scale_a, scale_b):
    total = float(sum(p * q for p, q in zip(a, b, strict=True)))
    return scalar.mul(scalar.f32(total), scalar.mul(scale_a, scale_b))


def same(ours: torch.Tensor, expected: list[list[float]]) -> bool:
    return torch.equal(ours.view(torch.int32), torch.tensor(expected).view(torch.int32))


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_linear_layer_equals_the_oracle(backend: str) -> None:
    if backend == "native" and nybble.ops.native.core()[0] is None:
        pytest.skip("no compiled module")
    spec = get_recipe("int8").spec
    rng = np.random.default_rng(0)
    m, k, n = 5, 17, 4
    x, w, dy = (
        torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        for shape in ((m, k), (n, k), (m, n))
    )
    call = LayerCall(spec, Geometry("linear"), "exact", backend, SEED, LAYER, CALL)
    y, saved = torch.ops.nybble.layer_forward(x, w, None, None, *call.arguments(), True)
    dx, dw, *_ = torch.ops.nybble.layer_backward(
        dy, None, None, saved, torch.zeros(1), [m, k], [n, k], *call.arguments(),
        [False, False], [True, True, False],
    )  # fmt: skip
    xs, ws, gs = x.tolist(), w.tolist(), dy.tolist()
    qx, sx = integers(xs, spec.output_input)
    channels = [integers([row], spec.output_weight) for row in ws]
    assert same(y, [[dot(row, q[0], sx, s) for q, s in channels] for row in qx])
    whole, sw = integers(ws, spec.grad_input_weight)
    g1, sg = integers(gs, spec.grad_input_grad, GRAD_INPUT_GRAD)
    assert same(dx, [[dot(row, c, sg, sw) for c in zip(*whole, strict=True)] for row in g1])
    columns = list(zip(*qx, strict=True))
    assert same(dw, [[dot(row, c, sg, sx) for c in columns] for row in zip(*g1, strict=True)])


def test_every_slot_is_a_symmetric_integer_of_8_bits() -> None:
    for switches in ("", ":inputs=row", ":weights=tensor", ":rounding=nearest"):
        spec = get_recipe(f"int8{switches}").spec
        assert {spec.slot(name).format.name for name in SLOTS} == {"int8_sym"}


def test_a_network_runs_natively_without_a_fall_back() -> None:
    if nybble.ops.native.core()[0] is None:
        pytest.skip("no compiled module")
    torch.manual_seed(0)
    for switches in ("", ":inputs=row"):
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 8),
            nn.ReLU(), nn.Linear(8, 2),
        )  # fmt: skip
        nybble.convert(model, f"int8{switches}", strict=True)
        rows = nybble.summary(model, torch.randn(3, 2, 6, 6)).rows
        inner = [row for row in rows if row.bits == (8, 8)]
        assert {row.layer for row in inner} == {"2", "4"}
        assert all(row.backend.startswith("native") and not row.fallback for row in inner)


def test_it_is_close_to_float32() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x = torch.randn(128, 64)
    plain(x).square().mean().backward()
    exact = [p.grad.clone() for p in plain.parameters()]
    plain.zero_grad()
    nybble.convert(plain, "int8:first_last=same")
    plain(x).square().mean().backward()
    for p, g in zip(plain.parameters(), exact, strict=True):
        assert torch.nn.functional.cosine_similarity(p.grad.flatten(), g.flatten(), 0) > 0.999


def test_a_transposed_convolution_has_a_scale_for_each_output_channel() -> None:
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose2d(16, 4, 2, stride=2, bias=False), torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        layer.weight[:, 0] *= 50  # dimension 0 is summed over
    exact = layer(x).detach()
    y = nybble.convert(nn.Sequential(layer), "int8:first_last=same")(x)
    error = (y - exact).square().sum((0, 2, 3)).sqrt() / exact.square().sum((0, 2, 3)).sqrt()
    assert float(error.max()) < 0.02


def test_a_learned_clip_for_hidden_states_and_for_nothing_else() -> None:
    net = nybble.convert(nn.ModuleList([nn.Linear(4, 4), nn.LSTM(4, 6, 2), nn.Linear(6, 3)]),
                         "int8:recurrent=hidden")  # fmt: skip
    clipped = {
        name
        for name, layer in nybble.quantized_layers(net)
        if isinstance(getattr(layer.nybble_spec.output_input, "scale", None), PACT)
    }
    assert clipped == {"1.hh_l0", "1.hh_l1"}
    y, _ = net[1](torch.randn(5, 2, 4))
    y.square().sum().backward()
    for name, layer in nybble.quantized_layers(net):
        assert (layer.nybble_alpha is not None) == (name in clipped)
    assert all(net[1].get_submodule(f"hh_l{i}").nybble_alpha.grad is not None for i in (0, 1))
    codes = net[1].hh_l0.nybble_spec
    assert codes.output_input.format.bits == 8 and codes.grad_weight_input == "same"
