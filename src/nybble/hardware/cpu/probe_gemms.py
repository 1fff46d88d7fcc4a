"""Rates of Gemms of one core, from layers: torch's own, and the same layer converted.

    rate(product) = multiply-adds / (seconds of the layer's part - its quantisation - its call)

Quantisation is what `probe_quantisers` measured for as many elements, with what a layer does
beside a product to as many (`beside`); a call is what a layer on one example takes (`calls`).
What else a layer does around a product stays with it: repacking of operands. Parts that are
nearly all quantisation would leave a difference of two large numbers; at least `LEAST` of a part
is taken to be its product.

torch's layers have their images channels-last, in which float32 was fastest for every network
that is checked; the converted ones lie so anyway.

Not done here: layers of other kinds (transposed, three dimensions, groups of several channels):
`predict` finds no row for them and says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.convert import convert
from nybble.hardware.cpu import shapes
from nybble.hardware.cpu.kernels import ATTENTION, RECURRENT, kernel_of, size_of
from nybble.hardware.cpu.probe_quantisers import RECIPE, beside, eight_bit_updates
from nybble.hardware.cpu.timing import BACKWARD, Timing, time_layer, time_passes
from nybble.hardware.kinds import GEMMS, GRAD_INPUT, GRAD_WEIGHT, OUTPUT
from nybble.hardware.operation import Access, Gemm
from nybble.hardware.tasks import Task
from nybble.nn.memory import attention
from nybble.ops.spec import LayerSpec
from nybble.recipes import get_recipe

__all__ = ["LEAST", "Rate", "attention_rates", "calls", "merged", "probe_gemms"]

LEAST: Final = 0.1
NEAR: Final = 1.1
_SIGNED, _UNSIGNED = "int4_sym·sawb(ibm15)", "uint4·pact(unsigned)"
_NOTHING: Final = Access(0, 0)

Quantise = Callable[[str, float], float]
"""(name, elements) -> seconds, as probed."""


@dataclass(frozen=True)
class Rate:
    """One measured Gemm: multiply-adds and the seconds that are its own."""

    side: str
    kernel: str
    gemm: str
    size: float
    macs: float
    seconds: float
    left: str = ""
    right: str = ""

    @property
    def gmacs(self) -> float:
        """Billions of multiply-adds a second."""
        return self.macs / self.seconds / 1e9


def merged(rates: Iterable[Rate]) -> list[Rate]:
    """Rows of one kind whose sizes are within a tenth become one: the means of sizes and rates, as
    logarithms. Two shapes of one size, wide to narrow and narrow to wide, would make a jump of it.

    >>> a = Rate("torch", "matmul", "output", 64.0, 1e9, 1.0)
    >>> [round(r.gmacs, 2) for r in merged([a, replace(a, seconds=0.25)])]
    [2.0]
    """
    groups: list[list[Rate]] = []
    for rate in sorted(rates, key=lambda r: (r.side, r.kernel, r.gemm, r.left, r.right, r.size)):
        kind = (rate.side, rate.kernel, rate.gemm, rate.left, rate.right)
        last = groups[-1][0] if groups else None
        same = last and (last.side, last.kernel, last.gemm, last.left, last.right) == kind
        if same and last and rate.size <= NEAR * last.size:
            groups[-1].append(rate)
        else:
            groups.append([rate])
    found = []
    for group in groups:
        size = math.exp(sum(math.log(r.size) for r in group) / len(group))
        speed = math.exp(sum(math.log(r.macs / r.seconds) for r in group) / len(group))
        found.append(replace(group[0], size=size, macs=speed, seconds=1.0))
    return found


# ---- what a call costs --------------------------------------------------------------------------


def calls(timing: Timing, quantise: Quantise) -> dict[tuple[str, str], float]:
    """(side, "forward" or "backward") -> seconds of one product of a layer on one example, without
    the quantisers' own calls, which their rows contain at their smallest size."""
    found: dict[tuple[str, str], float] = {}
    for side in ("torch", "native"):
        layer, x = _linear((1, 64, 64), side, get_recipe(RECIPE).spec)
        times = time_layer(layer, x, timing)
        if side == "native":
            parts = _gradient_parts(get_recipe(RECIPE).spec)
            times[OUTPUT] -= quantise(_SIGNED, 64) + quantise(_SIGNED, 4096)
            times[GRAD_INPUT] -= quantise(parts[0], 64)
            times[GRAD_WEIGHT] -= quantise(parts[1], 64)
        found[side, "forward"] = max(1e-6, times[OUTPUT])
        found[side, "backward"] = max(1e-6, (times[GRAD_INPUT] + times[GRAD_WEIGHT]) / 2)
    return found


# ---- layers -------------------------------------------------------------------------------------


def probe_gemms(
    timing: Timing,
    quantise: Quantise,
    call: dict[tuple[str, str], float],
    say: Callable[[str], None] = lambda _: None,
    few: int | None = None,
) -> list[Rate]:
    """The rates of both sides; `few`: only so many shapes of each table.

    The whole table is gone through several times, and the median counts: what disturbs a machine
    for some seconds would fall on all samples of one shape otherwise.
    """
    passes = [_once(timing.part(), quantise, call, say, few) for _ in range(timing.passes)]
    return merged(
        replace(same[0], seconds=statistics.median(rate.seconds for rate in same))
        for same in zip(*passes, strict=True)
    )


def _once(
    timing: Timing,
    quantise: Quantise,
    call: dict[tuple[str, str], float],
    say: Callable[[str], None],
    few: int | None,
) -> list[Rate]:
    found: list[Rate] = []
    usual, update = get_recipe(RECIPE).spec, eight_bit_updates()
    for side in ("torch", "native"):
        for shape, spec in (
            *((s, usual) for s in shapes.CONVS[:few]),
            *((s, update) for s in shapes.SEPARABLE[:few]),
        ):
            say(f"{side}: convolution {shape}")
            stem = shape[1] <= 3
            layer, x = _conv(shape, side, None if stem else spec)
            times = time_layer(layer, x, timing, (OUTPUT, GRAD_WEIGHT) if stem else GEMMS)
            tasks = {which: _conv_task(shape, which) for which in times}
            unsigned = shape[4] > 1 or shape[1] > shape[2]
            found += _rates(side, tasks, times, quantise, call, None if stem else spec, unsigned)
        wide = [(s, None) for s in shapes.WIDE_PRODUCTS[:few]]
        for product, spec_or_none in (*((s, usual) for s in shapes.PRODUCTS[:few]), *wide):
            say(f"{side}: product {product}")
            layer, x = _linear(product, side, spec_or_none)
            times = time_layer(layer, x, timing)
            tasks = {which: _product_task(product, which) for which in times}
            found += _rates(side, tasks, times, quantise, call, spec_or_none, False)
        for heads, length, width in shapes.ATTENTIONS[:few]:
            say(f"{side}: attention {heads} x {length} x {width}")
            for causal in (False, True):
                found += attention_rates(side, (heads, length, width), causal, timing)
        for batch, steps, units in shapes.RECURRENTS[:few]:
            say(f"{side}: recurrent {batch} x {steps} x {units}")
            found += _recurrent(side, batch, steps, units, timing)
    return found


def _rates(
    side: str,
    tasks: dict[str, Task],
    times: dict[str, float],
    quantise: Quantise,
    call: dict[tuple[str, str], float],
    spec: LayerSpec | None,
    unsigned: bool,
) -> list[Rate]:
    """`spec`: None where the native side is 16 bits wide, which rounds inside the product."""
    found = []
    for which, seconds in times.items():
        task = tasks[which]
        gemm = task.gemm
        assert gemm is not None
        own = seconds - call[side, "forward" if which == OUTPUT else "backward"]
        kinds = ("", "")
        if side == "native" and spec is None:
            kinds = ("fp16", "fp16")
        elif side == "native" and spec is not None:
            parts = _gradient_parts(spec)
            if which == OUTPUT:
                own -= quantise(_UNSIGNED if unsigned else _SIGNED, gemm.left.elements)
                own -= quantise(_SIGNED, gemm.right.elements)
            else:
                own -= quantise(parts[which == GRAD_WEIGHT], gemm.left.elements)
                own -= sum(
                    quantise(name, elements)
                    for name, elements in beside(gemm, _kinds(spec, which)[0], unsigned)
                )
            kinds = _kinds(spec, which)
        kernel = kernel_of(task)
        size = size_of(gemm, kernel)
        own = max(own, LEAST * seconds)
        found.append(Rate(side, kernel, which, size, float(gemm.macs), own, *kinds))
    return found


def _gradient_parts(spec: LayerSpec) -> tuple[str, str]:
    first, second = spec.grad_input_grad, spec.grad_weight_grad
    assert first is not None and second is not None
    return first.short, second.short


def _kinds(spec: LayerSpec, which: str) -> tuple[str, str]:
    from nybble.hardware.quantise import operand_of

    if which == OUTPUT:
        return "int4", "int4"
    return operand_of(spec.slot(f"{which}_grad")).kind, "int4"


def _converted(layer: nn.Module, spec: LayerSpec | None) -> nn.Module:
    """`spec`: None for what a first and last layer becomes."""
    model = nn.Sequential(layer)
    usual = spec == get_recipe(RECIPE).spec
    rule = RECIPE if usual else spec  # by name it has its own form for a hidden state
    convert(model, RECIPE, None if spec is None else {"re:.": rule}, activations="4bit")
    return model[0]


def _conv(shape: shapes.Conv, side: str, spec: LayerSpec | None) -> tuple[nn.Module, Tensor]:
    _, inputs, outputs, _, kernel, stride, groups = shape
    layer: nn.Module = nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    x = _images(shape)
    if side == "native":
        # Behind a ReLU the clip is learned; a layer to more channels sees negative values too.
        layer = _converted(layer, spec)
        if kernel == 1 and inputs <= outputs:
            x = x - 0.5
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return layer, x


def _images(shape: shapes.Conv) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(shapes.images(shape), generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def _linear(
    shape: tuple[int, int, int], side: str, spec: LayerSpec | None
) -> tuple[nn.Module, Tensor]:
    rows, inputs, outputs = shape
    layer: nn.Module = nn.Linear(inputs, outputs)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1))
    return (_converted(layer, spec) if side == "native" else layer), x


def _task(gemm: Gemm, layer: str = "") -> Task:
    return Task(gemm.which, layer, "", "", "", (), (), gemm=gemm)


def _conv_task(shape: shapes.Conv, which: str) -> Task:
    batch, inputs, outputs, side, kernel, stride, groups = shape
    taps, ins, outs = kernel * kernel, inputs // groups, outputs // groups
    out = (side + 2 * (kernel // 2) - kernel) // stride + 1
    pixels = batch * out * out
    m, n, k = {
        OUTPUT: (pixels, outs, ins * taps),
        GRAD_INPUT: (pixels, ins, outs * taps),
        GRAD_WEIGHT: (outs, ins * taps, pixels),
    }[which]
    kind = "depthwise" if groups > 1 else "conv1x1" if taps == 1 else "conv"
    x, w, y = batch * inputs * side * side, outputs * ins * taps, pixels * outputs
    return _task(
        Gemm(
            which,
            groups,
            m,
            n,
            k,
            *_operands(which, x, w, y),
            taps,
            kernel=kind,
            stride=stride,
            image=side * side,
        )
    )


def _product_task(shape: tuple[int, int, int], which: str) -> Task:
    rows, inputs, outputs = shape
    m, n, k = {
        OUTPUT: (rows, outputs, inputs),
        GRAD_INPUT: (rows, inputs, outputs),
        GRAD_WEIGHT: (outputs, inputs, rows),
    }[which]
    sizes = (rows * inputs, inputs * outputs, rows * outputs)
    return _task(Gemm(which, 1, m, n, k, *_operands(which, *sizes)))


def _operands(which: str, x: int, w: int, y: int) -> tuple[Access, Access, Access]:
    """Left, right and result by elements."""
    sizes = {OUTPUT: (x, w, y), GRAD_INPUT: (y, w, x), GRAD_WEIGHT: (y, x, w)}[which]
    a, b, c = (Access(0, size) for size in sizes)
    return a, b, c


# ---- what runs fused ----------------------------------------------------------------------------


def attention_rates(
    side: str, shape: tuple[int, int, int], causal: bool, timing: Timing
) -> list[Rate]:
    """Both products of each pass, with softmax, scale and mask; of the native side with the packing
    of query, key and value, and the forward pass that it repeats in backward. shape: heads of all
    examples, length, width of a head."""
    heads, length, width = shape
    function: Any = F.scaled_dot_product_attention if side == "torch" else attention
    whole = torch.randn(1, length, 3, heads, width)

    def run(x: Tensor) -> Tensor:
        q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = function(q, k, v, is_causal=causal)
        return y

    macs = 2.0 * heads * length * length * width
    size = 3 / (2 / length + 1 / width)
    kernel = f"{ATTENTION}_causal" if causal else ATTENTION
    forward, backward = time_passes(run, whole, timing)
    # The gradients of the three parts are put together outside attention.
    backward -= time_passes(_parts, whole, timing)[1]
    found = [Rate(side, kernel, OUTPUT, size, macs, forward)]
    for which in (GRAD_INPUT, GRAD_WEIGHT):
        found.append(Rate(side, kernel, which, size, 2 * macs, max(backward, LEAST * forward)))
    return found


def _parts(x: Tensor) -> Tensor:
    q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)
    return torch.add(torch.add(q, k), v)


def _recurrent(side: str, batch: int, steps: int, units: int, timing: Timing) -> list[Rate]:
    """An LSTM: both products of every step with its gates. Backward is one loop, so its products of
    both kinds have one rate."""
    layer: nn.Module = nn.LSTM(units, units, batch_first=True)
    if side == "native":
        layer = _converted(layer, get_recipe(RECIPE).spec)
    x = torch.randn(batch, steps, units, generator=torch.Generator().manual_seed(1))
    times = time_layer(layer, x, timing, (OUTPUT, BACKWARD))
    macs = 2.0 * batch * steps * 4 * units * units
    size = 2.0 * units
    found = [Rate(side, RECURRENT, OUTPUT, size, macs, times[OUTPUT])]
    for which in (GRAD_INPUT, GRAD_WEIGHT):
        found.append(Rate(side, RECURRENT, which, size, 2 * macs, times[BACKWARD]))
    return found
