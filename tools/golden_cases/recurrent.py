"""Family `recurrent` (csrc/recurrent): whole sequences of every cell, forward and backward, as the
reference backend computes them with exact sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from golden_cases.values import Case, Value, generator
from nybble.formats import get_format
from nybble.ops.geometry import Geometry
from nybble.ops.native.codes import Codes, table_of
from nybble.ops.native.composite import forward_slots
from nybble.ops.native.mask import sides
from nybble.ops.native.recurrent import CELLS, step_rule
from nybble.ops.recurrent import GATES, Mode, Sequence, StepGemm
from nybble.ops.reference.operand import GRAD_INPUT_GRAD, Draw, fit_slot
from nybble.ops.reference.recurrent import Gradients, Outputs, Weights, backward, forward
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, SAWB, GradScale, Quantizer
from nybble.recipes import get_recipe

SHAPES: tuple[tuple[Mode, tuple[int, ...], bool, int, str], ...] = (
    ("lstm", (3, 3, 2, 1), False, 21, "symmetric"),
    ("lstm", (7, 7), True, 64, "two_sided"),
    ("gru", (5, 4, 4), True, 19, "symmetric"),
    ("tanh", (1,), False, 3, "two_sided"),
    ("relu", (9, 2), False, 33, "symmetric"),
    ("lstm", (2,), False, 257, "symmetric"),  # backward: two pieces of the contraction
)


def _spec(kind: str, per_channel: bool) -> LayerSpec:
    two = kind == "two_sided"
    spec = get_recipe("sun2020").spec
    return replace(
        spec,
        output_input=Quantizer(
            get_format("int4" if two else "int4_sym"), PACT("two_sided" if two else "symmetric")
        ),
        output_weight=Quantizer(get_format("int4_sym"), SAWB("ibm15", per_channel=per_channel)),
        grad_input_weight=Quantizer(get_format("int4_sym"), SAWB("ibm15")),
        grad_input_grad=Quantizer(get_format("fp4_e2m1"), GradScale())
        if two
        else (spec.grad_input_grad),
    )


def _rule(name: str, rule: tuple[object, ...], table: tuple[Tensor, int, int]) -> dict[str, Value]:
    kind, data, factor, multiplier = rule[:4]
    fit, fitted, unit = rule[7:10]
    assert isinstance(data, bytes) and isinstance(kind, int) and isinstance(fit, int)
    assert isinstance(factor, float) and isinstance(multiplier, float)
    more: dict[str, Value] = {}
    if fit:
        assert isinstance(fitted, bytes) and isinstance(unit, float)
        bytes_of = torch.frombuffer(bytearray(fitted), dtype=torch.uint8)
        more = {f"fit_{name}": fit, f"fitted_{name}": bytes_of, f"unit_{name}": unit}
    return {
        **more,
        f"kind_{name}": kind,
        f"rule_{name}": torch.frombuffer(bytearray(data), dtype=torch.uint8),
        f"factor_{name}": factor,
        f"multiplier_{name}": multiplier,
        f"table_{name}": table[0],
        f"low_{name}": table[1],
        f"high_{name}": table[2],
    }


def _weights(name: str, codes: Codes, scale: Tensor) -> dict[str, Value]:
    return {
        f"packed_{name}": codes.packed,
        f"wtable_{name}": codes.table,
        f"wlow_{name}": codes.low,
        f"whigh_{name}": codes.high,
        f"wscale_{name}": scale.reshape(-1),
    }


@dataclass(frozen=True)
class _Given:
    """What a case starts from: the sequence, one weight, and the input of every pass."""

    sequence: Sequence
    weight: Tensor
    bias: Tensor | None
    gx: Tensor
    h0: Tensor
    c0: Tensor | None

    @staticmethod
    def draw(make: torch.Generator, sequence: Sequence, hidden: int, biased: bool) -> _Given:
        batch, rows = sequence.sizes[0], sum(sequence.sizes)
        wide = GATES[sequence.mode] * hidden
        return _Given(
            sequence,
            torch.randn(wide, hidden, generator=make) / hidden**0.5,
            torch.randn(wide, generator=make) if biased else None,
            torch.randn(rows, wide, generator=make),
            torch.randn(batch, hidden, generator=make) * 0.5,
            torch.randn(batch, hidden, generator=make) if sequence.mode == "lstm" else None,
        )

    def gradients(self, make: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of y, and of the last h and c."""
        rows, hidden = self.gx.shape[0], self.h0.shape[1]
        return (
            torch.randn(rows, hidden, generator=make),
            torch.randn(self.h0.shape, generator=make),
            None if self.c0 is None else torch.randn(self.c0.shape, generator=make),
        )

    def forward(self, out: Outputs, of_x: dict[str, Value]) -> dict[str, Value]:
        """What the forward pass reads and gives; `of_x`: the rule and the weight of its Gemm."""
        inputs = out.inputs[0]
        assert inputs is not None
        values: dict[str, Value] = {
            "cell": CELLS[self.sequence.mode],
            "sizes": list(self.sequence.sizes),
            "reverse": int(self.sequence.reverse),
            "hidden": self.h0.shape[1],
            **of_x,
            "gx": self.gx,
            "h0": self.h0,
            "y": out.y,
            "h": out.h,
            "gates": out.gates,
            "multiplied": inputs,
        }
        if self.bias is not None:
            values["bias"] = self.bias
        if self.c0 is not None:
            values |= {"c0": self.c0, "c": out.c, "before": out.before}
        return values


def _backward(upstream: tuple[Tensor, Tensor, Tensor | None], found: Gradients) -> dict[str, Value]:
    """What the backward pass reads and gives."""
    dy, dh, dc = upstream
    values: dict[str, Value] = {
        "dy": dy,
        "dh0": dh,
        "dh": found.h,
        "dgx": found.gx,
        "dgh": found.results[0],
    }
    return values if dc is None else values | {"dc0": dc, "dc": found.c}


def recurrent() -> Iterator[Case]:
    """Scales that all steps share, then those of a step or of its rows."""
    yield from _shared()
    yield from _fitted()


FITTED: tuple[tuple[str, Mode, tuple[int, ...], bool, int], ...] = (
    ("luq", "lstm", (3, 3, 2, 1), False, 21),
    ("luq", "tanh", (7, 7), True, 64),
    ("nybble4", "lstm", (5, 4, 4), True, 19),
    ("nybble4", "gru", (9, 2), False, 40),
)


def _fitted() -> Iterator[Case]:
    make = generator(17)
    for recipe, mode, sizes, reverse, hidden in FITTED:
        spec = get_recipe(recipe).spec
        if spec.signed_slot is not None:  # a hidden state has both signs
            spec = replace(spec, output_input=spec.signed_slot, signed_slot=None)
        slot_x, slot_g = spec.output_input, spec.grad_input_grad
        _, slot_w = forward_slots(spec, Geometry("linear"))
        assert slot_x is not None and slot_g is not None
        sequence, draw = Sequence(mode, sizes, reverse, accumulate="exact"), Draw(2**33, 5, 6)
        given = _Given.draw(make, sequence, hidden, biased=False)
        gemms, weights = [StepGemm(spec, draw)], Weights(given.weight, None, None)
        out = forward(given.gx, given.h0, given.c0, weights, sequence, gemms, True)
        kept = out.kept[0]
        codes = Codes.of(kept[4], tuple(given.weight.shape), slot_w.format)
        scale = kept[5].reshape(-1)
        values = given.forward(
            out,
            {
                **_rule("x", step_rule(slot_x, spec), table_of(slot_x.format)),
                **_weights("x", codes, scale),
            },
        )
        upstream = given.gradients(make)
        unused = [torch.zeros(1)]
        found = backward(*upstream, out, weights, sequence, gemms, unused, [False])
        key = draw.key(GRAD_INPUT_GRAD)
        values |= {
            **_rule("g", step_rule(slot_g, spec, key=key), table_of(slot_g.format)),
            **_weights("g", codes, torch.ones(1) if spec.composite else scale),
            "stream_g": [key.seed, key.rank, key.layer, key.call, key.operand],
            **_backward(upstream, found),
        }
        del values["packed_g"]  # those of x
        if spec.composite:
            values["fold_g"] = scale
        yield f"{recipe}: {mode} {len(sizes)}x{sizes[0]}x{hidden} reverse={reverse}", values


def _shared() -> Iterator[Case]:
    """Lengths that differ, sizes that end inside a block of codes, clips that stop numbers."""
    make = generator(7)
    for mode, sizes, reverse, hidden, clip in SHAPES:
        spec = _spec(clip, per_channel=hidden == 19)
        slot_x, slot_w, slot_g = spec.output_input, spec.output_weight, spec.grad_input_grad
        assert slot_x is not None and slot_w is not None and slot_g is not None
        alpha = torch.tensor([0.4, 0.3] if clip == "two_sided" else [0.4])
        sequence, draw = Sequence(mode, sizes, reverse), Draw(0, 0, 0)
        given = _Given.draw(make, sequence, hidden, biased=mode == "gru")
        gemms, weights = [StepGemm(spec, draw)], Weights(given.weight, given.bias, alpha)
        out = forward(given.gx, given.h0, given.c0, weights, sequence, gemms, True)
        kept, shape = out.kept[0], tuple(given.weight.shape)
        # The backward pass keeps weights of its own; the forward pass's are kept by "same".
        same = [StepGemm(replace(spec, grad_input_weight="same"), draw)]
        again = forward(given.gx, given.h0, given.c0, weights, sequence, same, True)
        forward_w = again.kept[0][4:]
        fit = fit_slot(given.weight, slot_x, alpha)
        zero = None if fit.zero_point is None else float(fit.zero_point)
        table = table_of(slot_x.format, int(zero or 0))
        rule = step_rule(slot_x, spec, float(fit.inv), float(fit.scale), zero)
        codes = Codes.of(forward_w[0], shape, slot_w.format)
        values = given.forward(
            out, {**_rule("x", rule, table), **_weights("x", codes, forward_w[1])}
        )
        upstream = given.gradients(make)
        found = backward(*upstream, out, weights, sequence, gemms, [torch.tensor([64.0])], [True])
        unit = slot_g.format.unit or 1.0
        dalpha, amax = found.dalpha[0], found.amax[0]
        assert dalpha is not None and amax is not None
        values |= {
            **_rule("g", step_rule(slot_g, spec, 64.0, unit / 64.0), table_of(slot_g.format)),
            **_weights("g", Codes.of(kept[4], shape, slot_w.format), kept[5]),
            "mask": kept[3],
            "codes": kept[0],
            "sides": torch.frombuffer(
                bytearray(sides(slot_x.format, int(zero or 0))), dtype=torch.int8
            ),
            "two_sided": int(clip == "two_sided"),
            **_backward(upstream, found),
            "dalpha": dalpha,
            "amax": amax,
        }
        if torch.equal(kept[4], forward_w[0]):
            del values["packed_g"]  # those of x
        yield f"{mode} {len(sizes)}x{sizes[0]}x{hidden} reverse={reverse}", values
