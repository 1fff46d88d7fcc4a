"""Which of a layer's three Gemms run on the native kernels, and why one does not.

A Gemm is native when both of its operands are codes of at most 8 bits that a table turns into
integers, their scales can leave the sum, and the accumulator is exact. The others run through the
reference backend's own functions on the same codes: for operands wider than 8 bits that is the
definition (both backends use the same torch operator on decoded values), and for the rest it is a
fall-back that `nybble.summary` shows and `strict=True` refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nybble.errors import NybbleError
from nybble.formats import Stochastic
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import both_ways
from nybble.ops.native.codes import table_of
from nybble.ops.native.integers import LARGEST, covers
from nybble.ops.native.quantize import packs
from nybble.ops.spec import SLOTS, LayerSpec, Slot
from nybble.quantizers import PACT, SAWB, AbsMax, BestOfTwo, Quantizer, StatefulScale

__all__ = ["GEMMS", "Reason", "has_lines", "is_code_slot", "why_not"]

GEMMS = ("output", "grad_input", "grad_weight")

# (operand slot, the dimension of it that becomes a dimension of the result) on both sides
_OPERANDS: dict[str, tuple[tuple[str, int], tuple[str, int]]] = {
    "output": (("output_input", 0), ("output_weight", 0)),
    "grad_input": (("grad_input_grad", 0), ("grad_input_weight", 1)),
    "grad_weight": (("grad_weight_grad", 1), ("grad_weight_input", 1)),
}


@dataclass(frozen=True)
class Reason:
    """Why a Gemm is not native. `by_recipe`: the recipe asks for an operand wider than 8 bits, so
    this is no fall-back."""

    text: str
    by_recipe: bool


@lru_cache(maxsize=4096)
def is_code_slot(slot: Slot) -> bool:
    """Whether a slot's operand is codes with a table of integers.

    >>> is_code_slot(None)
    False
    """
    if slot is None or slot.format.unit is None or slot.format.bits > 8:
        return False
    try:
        table_of(slot.format)
    except NybbleError:
        return False
    return True


@lru_cache(maxsize=4096)
def why_not(spec: LayerSpec, geometry: Geometry, gemm: str) -> Reason | None:
    """None if the Gemm is native, else the reason.

    >>> why_not(LayerSpec(), Geometry("linear"), "output").text
    'output_input is float32'
    """
    if spec.accumulator.format is not None:
        return Reason(f"accumulates in {spec.accumulator}", by_recipe=True)
    if spec.composite:
        return _composite(spec, geometry)
    if gemm != "output" and len(ways := both_ways(spec)) > 1:
        return next(filter(None, (why_not(way, geometry, gemm) for way in ways)), None)
    for name, free in _OPERANDS[gemm]:
        slot = spec.slot(name)
        if slot is None:
            return Reason(f"{name} is float32", by_recipe=True)
        if not is_code_slot(slot):
            return Reason(f"{name} is {slot.format.name}", by_recipe=True)
        if not _leaves_the_sum(slot, name, free, geometry):
            return Reason(f"the scale of {name} varies along the sum", by_recipe=False)
    return None


def _composite(spec: LayerSpec, geometry: Geometry) -> Reason | None:
    """The Gemms of a layer of scales by line: all three are native, or none.

    Scales of blocks along the sum make the Gemm one of values by definition; the rest could be
    integers, and is not all here yet.
    """
    slots = {name: spec.slot(name) for name in SLOTS}
    blocks = any(
        getattr(q.scale, "granularity", "") in ("block", "tile") for q in slots.values() if q
    )
    if blocks or spec.outliers is not None:
        return Reason("scales vary along the sum", by_recipe=True)
    for name, slot in slots.items():
        if slot is None or not is_code_slot(slot):
            kind = "float32" if slot is None else slot.format.name
            return Reason(f"{name} is {kind}", by_recipe=True)
    if _requantised(spec, geometry):
        return None
    plain = spec.grad_input_weight == "same" and spec.grad_weight_input == "same"
    # Groups cut the dimension of a transposed convolution's weight that its scale follows.
    fits = covers(geometry) and (geometry.mirror is None or geometry.groups == 1)
    if not plain or spec.double or spec.weight_gradient is not None or not fits:
        return Reason("has no integer kernel", by_recipe=False)
    for name, slot in slots.items():
        if slot is not None and not _by_line(slot, spec.fold, name.endswith("_grad")):
            return Reason(f"{name} has no integer kernel", by_recipe=False)
    return None


def _requantised(spec: LayerSpec, geometry: Geometry) -> bool:
    """Whether backward operands are made of the forward codes by the reference's quantizers, with
    or without a transform, and are integers of a byte: `ops/native/integers.py`. Groups cut the
    dimension that their scales follow."""
    if not covers(geometry) or geometry.groups > 1 or not spec.double:
        return False
    if spec.fold or spec.weight_gradient:
        return False
    forward = (spec.output_input, spec.output_weight)
    if any(slot is None or not _by_line(slot, True, False) for slot in forward):
        return False
    backward = [spec.slot(name) for name in SLOTS if not name.startswith("output")]
    return all(
        slot is not None
        and (slot.format.max_integer or LARGEST + 1) <= LARGEST
        and getattr(slot.scale, "granularity", "tensor") in ("tensor", "free")
        and not isinstance(slot.scale, StatefulScale)
        for slot in backward
    )


def has_lines(geometry: Geometry) -> bool:
    """Whether the kernels of scales by line have it: `composite.py`, `composite_conv.py`. Other
    convolutions' operands are made by the reference: `integers.py`.

    >>> has_lines(Geometry("conv2d")), has_lines(Geometry("conv3d"))
    (True, False)
    """
    return geometry.kind in ("linear", "conv2d")


def _by_line(slot: Quantizer, fold: bool, gradient: bool) -> bool:
    """Whether `ops/native/composite.py` has the operand."""
    draws = isinstance(slot.rounding, Stochastic)
    if slot.transform is not None or not packs(slot.format) or draws != gradient:
        return False
    scale = slot.scale
    if gradient:
        return isinstance(scale, AbsMax) and scale.granularity == "free" and not scale.power_of_two
    if isinstance(scale, AbsMax | BestOfTwo):
        return scale.granularity == "tensor" or (scale.granularity == "free" and fold)
    return isinstance(scale, PACT | SAWB) and not getattr(scale, "per_channel", False)


def _leaves_the_sum(slot: Slot, name: str, free: int, geometry: Geometry) -> bool:
    """Whether a scale per tensor, or per index of the free dimension, is all there is."""
    granularity = getattr(slot.scale, "granularity", "tensor")  # type: ignore[union-attr]
    if getattr(slot.scale, "per_channel", False):  # type: ignore[union-attr]
        granularity = "channel"
    if granularity == "tensor":
        return True
    axis = getattr(slot.scale, "axis", None)  # type: ignore[union-attr]
    if granularity == "row":
        if axis not in (None, -1):
            return False
        axis = 0
    if geometry.kind == "linear":
        return (axis or 0) == free and granularity in ("channel", "row")
    # Convolution kernels take one number, or one for each output channel of the weight; the other
    # products one number.
    channel = name == "output_weight" and granularity == "channel" and (axis or 0) == 0
    return channel and geometry.kind in ("conv2d", "conv3d")
