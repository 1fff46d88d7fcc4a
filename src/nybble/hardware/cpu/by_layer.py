"""Predicted seconds of the products of each layer, with what quantises their operands.

    output        quantising input and weight, and the product
    grad_input    quantising the gradient for it alone, and the product; grad_weight the same
    backward      of layers that run fused (recurrent ones, attention): all products at once

This is what `time_layer` measures of one layer. A step quantises a gradient for both products in
one pass, so its prediction is less than the sum of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nybble.hardware.chip import Chip
from nybble.hardware.cpu.kernels import ATTENTION, RECURRENT, is_recurrent, kernel_of, owner_of
from nybble.hardware.cpu.predict import Predictor
from nybble.hardware.cpu.timing import BACKWARD
from nybble.hardware.kinds import OUTPUT, QUANTISE
from nybble.hardware.operation import Gemm
from nybble.hardware.tasks import Workload

__all__ = ["LayerTime", "layer_times"]


@dataclass
class LayerTime:
    """`seconds` by product. attention: (heads of all examples, length, width of a head)."""

    kernel: str
    seconds: dict[str, float] = field(default_factory=dict)
    attention: tuple[int, int, int] | None = None

    def add(self, which: str, seconds: float) -> None:
        """Another part of a product."""
        self.seconds[which] = self.seconds.get(which, 0.0) + seconds


def layer_times(workload: Workload, chip: Chip) -> dict[str, LayerTime]:
    """By layer, as the trace names them; of recurrent modules the module."""
    predictor = Predictor(workload, chip)
    found: dict[str, LayerTime] = {}
    waiting: dict[str, list[tuple[str, int]]] = {}  # backward: parts of a gradient in order
    forward: dict[str, float] = {}
    for task in workload.tasks:
        inside = is_recurrent(task.layer)
        layer = owner_of(task.layer) if inside else task.layer
        if task.cause == QUANTISE and not inside:
            if task.phase == "forward":
                seconds = predictor.cost(task).seconds
                forward[layer] = forward.get(layer, 0.0) + seconds
            else:
                parts = task.name.split(" + ")
                waiting[layer] = [(part, task.elements) for part in parts]
        if task.gemm is None:
            continue
        kernel = kernel_of(task, task.layer in predictor.layers.causal)
        fused = kernel == RECURRENT or kernel.startswith(ATTENTION)
        row = found.setdefault(layer, LayerTime(kernel))
        which = BACKWARD if fused and task.gemm.which != OUTPUT else task.gemm.which
        row.add(which, predictor.cost(task).seconds)
        if kernel.startswith(ATTENTION):
            row.attention = row.attention or _heads(task.gemm)
        elif which == OUTPUT:
            row.add(which, forward.pop(layer, 0.0))
        elif waiting.get(layer):
            part, elements = waiting[layer].pop(0)
            if not part.startswith("fp16"):
                row.add(which, predictor.quantise(part, elements) or 0.0)
    return found


def _heads(gemm: Gemm) -> tuple[int, int, int]:
    """Of the first product of attention, queries by keys."""
    return gemm.count, gemm.m, gemm.k
