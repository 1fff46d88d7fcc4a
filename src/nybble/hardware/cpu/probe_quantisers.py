"""What the native side takes to quantise one element, by the name that a task has.

Every row is one call of the function that a layer calls: scale or statistic, rounding, packing,
mask, and at the smallest size nearly nothing but the call itself. A name joined by " + " is a
gradient's two operands, which come out of one pass; `joined` sorts it, as a row holds for both
orders.

Two more rows are of what a layer does beside its products, in the backward pass:

    decode      a kept operand as float32, for a product that is no integer kernel's (FP8 x INT4)
    clip        the mask and the gradient of a learned clip (PACT), in the gradient of the input

FP16 has no row: those layers round their operands slice by slice inside their products, and their
Gemm's rate contains it (predict.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from nybble.formats import get_format
from nybble.hardware.cpu.shapes import COLUMNS, QUANTISED
from nybble.hardware.cpu.timing import Timing, call_of
from nybble.hardware.kinds import GRAD_INPUT, GRAD_WEIGHT
from nybble.hardware.operation import Gemm
from nybble.ops.native.gradient import quantize_gradient
from nybble.ops.native.operand import mask_gradient_, quantize_kept
from nybble.ops.reference.operand import INPUT, Draw, restore
from nybble.ops.spec import LayerSpec, Slot
from nybble.quantizers import PACT, Quantizer, Unit
from nybble.recipes import get_recipe

__all__ = ["CLIP", "DECODE", "RECIPE", "beside", "eight_bit_updates", "joined", "probe_quantisers"]

RECIPE: Final = "sun2020"
CLIP, DECODE = "clip", "decode"
_BOTH: Final = {(True, True): 2, (True, False): 1, (False, True): 1}

Row = tuple[str, int, float]
"""(name, elements, seconds)."""


def joined(name: str) -> str:
    """The name of a quantisation with its parts in order.

    >>> joined("b + a"), joined("a")
    ('a + b', 'a')
    """
    return " + ".join(sorted(name.split(" + ")))


def beside(gemm: Gemm, left: str, clipped: bool) -> list[tuple[str, int]]:
    """(row, elements) of what a layer does beside a product of the backward pass; left: the kind of
    its gradient, clipped: whether the layer's input has a learned clip."""
    if gemm.which == GRAD_WEIGHT and left == "fp8":
        return [(DECODE, gemm.right.elements)]
    if gemm.which == GRAD_INPUT and clipped:
        return [(CLIP, gemm.result.elements)]
    return []


def eight_bit_updates() -> LayerSpec:
    """The recipe's layer as depthwise-separable networks have it: FP8 for gradients of weights."""
    update = Quantizer(get_format("fp8_152"), Unit())
    return replace(get_recipe(RECIPE).spec, grad_weight_grad=update)


def _inputs() -> list[tuple[Quantizer, Tensor | None]]:
    unsigned = Quantizer(get_format("uint4"), PACT("unsigned"))
    weight = get_recipe(RECIPE).spec.output_weight
    assert weight is not None
    return [(unsigned, torch.tensor([3.0])), (weight, None)]


def _gradients() -> Iterator[tuple[str, LayerSpec, tuple[bool, bool]]]:
    for spec in (get_recipe(RECIPE).spec, eight_bit_updates()):
        slots: tuple[Slot, Slot] = (spec.grad_input_grad, spec.grad_weight_grad)
        for wanted in _BOTH:
            parts = [s.short for s, want in zip(slots, wanted, strict=True) if s and want]
            yield joined(" + ".join(parts)), spec, wanted


def probe_quantisers(
    timing: Timing, sizes: tuple[int, ...] = QUANTISED, say: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """(name, elements, seconds) of every quantiser at every size. Every round goes through all of
    them: what they share a cache with changes within seconds, and FP8, which makes several passes
    over float32, takes up to twice as long then."""
    rows: dict[tuple[str, int], list[float]] = {}
    for _ in range(max(1, timing.repeats)):
        for key, seconds in _once(replace(timing, repeats=1), sizes, say).items():
            rows.setdefault(key, []).append(seconds)
    return [(name, size, statistics.median(own)) for (name, size), own in rows.items()]


def _once(
    timing: Timing, sizes: tuple[int, ...], say: Callable[[str], None]
) -> dict[tuple[str, int], float]:
    rows: dict[tuple[str, int], float] = {}
    for size in sizes:
        x = torch.randn(size, generator=torch.Generator().manual_seed(1)).view(-1, COLUMNS)
        for slot, clip in _inputs():
            say(f"{slot.short}, {size} elements")
            rows[slot.short, size] = timing.seconds(call_of(_operand(x, slot, clip)))
        say(f"{CLIP} and {DECODE}, {size} elements")
        for name, call in _backward(x):
            rows[name, size] = timing.seconds(call_of(call))
        for name, spec, wanted in _gradients():
            if (name, size) not in rows:
                say(f"{name}, {size} elements")
                rows[name, size] = timing.seconds(call_of(_gradient(x, spec, wanted)))
    return rows


def _backward(x: Tensor) -> list[tuple[str, Callable[[], Any]]]:
    slot, clip = _inputs()[0]
    kept = quantize_kept(x, slot, Draw(0, 0, 1), INPUT, clip, want_inside=True)
    shape = tuple(x.shape)

    def decoded() -> Any:
        return restore(kept, slot, None, shape, False)

    def masked() -> Any:
        return mask_gradient_(dx, kept, slot, slot, False, decoded, need_dalpha=True)

    dx = torch.full_like(x, 1e-9)
    return [(CLIP, masked), (DECODE, decoded)]


def _operand(x: Tensor, slot: Quantizer, clip: Tensor | None) -> Callable[[], Any]:
    return lambda: quantize_kept(x, slot, Draw(0, 0, 1), INPUT, clip, want_inside=True)


def _gradient(x: Tensor, spec: LayerSpec, wanted: tuple[bool, bool]) -> Callable[[], Any]:
    scale = torch.tensor([2.0**4])
    return lambda: quantize_gradient(x, spec, scale, Draw(0, 0, 1), wanted)
