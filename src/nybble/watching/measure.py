"""What a quantiser does to one operand, in numbers: codes, underflow, saturation, error.

    used        how many of the format's codes occur; the histogram counts each (16 bins at most)
    underflow   share of the numbers that are not zero and become zero
    saturation  share beyond the format's largest value
    snr_db      10 log10(sum x^2 / sum (q - x)^2)
    cosine      sum x q / sqrt(sum x^2 sum q^2)
    norm_ratio  sqrt(sum q^2 / sum x^2)
    shrinkage   sum x q / sum x^2: 1 where the quantiser is unbiased along x
    bias        sum (q - x) / sum |x|: 0 where errors cancel
    noise_ratio sqrt(sum x^2 / sum (q - x)^2): of a gradient, below sqrt(3) is where training in
                few bits stops to pay (Chmiel et al., NeurIPS 2025, of the whole gradient)

of at most `SAMPLE` numbers, evenly spread over the tensor where its scale is one number, else of
its first rows. The scale is that of the layer's own call where a state or a learned clip gives it,
and is found from the whole tensor where it is a statistic of it. Random bits are a pure function of
their key, so a look changes none that training uses.

"Beyond the largest value" means where the next level would have been nearer, had there been one:
half a step beyond it; of powers of a base, (1 + base) / 2 times it.

Everything stays on the tensor's device until somebody reads it (`Numbers.read`): no host waits.

Not done here: what folding and outliers do to a gradient before it is quantised; a Hadamard's
operands are measured in rotated form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from nybble.formats import Format, LogFormat, Stochastic
from nybble.ops.geometry import Geometry
from nybble.ops.reference.composite_operand import Streams, quantize, turn, values
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.places import places
from nybble.ops.spec import is_composite
from nybble.quantizers import LSQ, PACT, Quantizer, StatefulScale, Unit, random24
from nybble.quantizers.layout import flatten

__all__ = ["BINS", "SAMPLE", "Look", "Numbers", "look"]

SAMPLE: Final = 1 << 15
BINS: Final = 16
_SUMS: Final = ("n", "zeros", "under", "over", "xx", "qq", "xq", "diff", "absolute", "scale")


@dataclass(frozen=True)
class Look:
    """Which operand of which Gemm is looked at: see `look`."""

    role: str
    gemm: str
    side: int
    number: int


@dataclass
class Numbers:
    """The sums of one look, still on the device."""

    sums: Tensor
    coded: bool

    def read(self) -> dict[str, Any]:
        """The figures of the module, as Python numbers; None where they mean nothing."""
        return figures(self.sums.tolist(), self.coded)


def look(
    x: Tensor,
    slot: Quantizer,
    what: Look,
    geometry: Geometry,
    draw: Draw,
    *,
    alpha: Tensor | None = None,
    state: Tensor | None = None,
    top: float = 1.0,
) -> Numbers:
    """Measure what `slot` does to `x`.

    alpha: PACT's clip. state, top: of a scale with a state, as the layer holds it.
    """
    x = x.detach()
    if _has_one_scale(slot):
        found = _plain(x, slot, what, draw, alpha, state, top)
    else:
        found = _composite(x, slot, what, geometry, draw, alpha)
    given, quantised, codes, scale, limit = found
    return _sums(given, quantised, codes, slot.format, scale, limit)


def _has_one_scale(slot: Quantizer) -> bool:
    """Whether the whole tensor has one number, and its codes are found by it alone."""
    scale = slot.scale
    if isinstance(scale, Unit | PACT | LSQ | StatefulScale):
        return slot.transform is None
    plain = getattr(scale, "granularity", "tensor") == "tensor"
    plain = plain and not getattr(scale, "per_channel", False)
    return plain and not is_composite(slot)


@lru_cache(maxsize=256)
def edge(fmt: Format) -> float:
    """From where on a magnitude lies beyond the format; see the module.

    >>> from nybble.formats import get_format
    >>> edge(get_format("int4_sym")), edge(get_format("fp4_radix4"))
    (7.5, 160.0)
    """
    if isinstance(fmt, LogFormat):
        return fmt.max_value * (1 + fmt.base) / 2
    if fmt.bits > 8:
        return fmt.max_value
    levels = sorted({abs(float(v)) for v in fmt.values() if math.isfinite(float(v))})
    top = fmt.max_value  # a symmetric format has a code beyond it, which it does not use
    below = max((level for level in levels if level < top), default=top)
    return top + (top - below) / 2


Found = tuple[Tensor, Tensor, "Tensor | None", Tensor, "Tensor | None"]
"""(numbers, what they became, codes, scale, the largest magnitude that is not clipped)."""


def _plain(
    x: Tensor,
    slot: Quantizer,
    what: Look,
    draw: Draw,
    alpha: Tensor | None,
    state: Tensor | None,
    top: float,
) -> Found:
    fmt, rounding = slot.format, slot.rounding or slot.format.default_rounding
    flat = flatten(x).float()
    step = max(1, flat.numel() // SAMPLE)
    part = flat[::step][:SAMPLE]
    zero: Tensor | None = None
    if isinstance(slot.scale, StatefulScale):
        known = state if state is not None else x.new_zeros(1)
        largest = flat.abs().amax().reshape(1) if flat.numel() else known
        used = torch.where(known > 0, known, slot.scale.step(known, largest, top)[0])
        inv, scale = slot.scale.factors(used, top)
    elif isinstance(slot.scale, Unit | LSQ):
        inv = scale = x.new_ones(1)
    else:
        if isinstance(slot.scale, PACT):
            clip = slot.scale.initial_alpha(flat, fmt) if alpha is None else alpha.detach()
            fit = slot.scale.fit_alpha(clip, fmt)
        else:
            fit = slot.scale.fit(x.float(), fmt)
        inv, scale, zero = fit.inv.reshape(-1), fit.scale.reshape(-1), fit.zero_point
    y = part * inv
    if zero is not None:
        y = y + zero
    random = None
    if isinstance(rounding, Stochastic):
        random = random24(y.shape, draw.key(what.number), y.device)
    decoded = fmt.round(y, rounding, random)
    if zero is not None:
        decoded = decoded - zero
    codes = fmt.encode(y, rounding, random) if fmt.bits <= 4 else None
    return part, decoded * scale, codes, scale[:1], scale[:1] * edge(fmt)


def _composite(
    x: Tensor,
    slot: Quantizer,
    what: Look,
    geometry: Geometry,
    draw: Draw,
    alpha: Tensor | None,
) -> Found:
    rows = max(1, SAMPLE * x.shape[0] // max(1, x.numel())) if x.dim() else 1
    part = x[:rows].float() if x.dim() else x.float().reshape(1)
    place = places(geometry, what.gemm)[what.side]
    found, _ = quantize(part, slot, place, Streams(draw, what.number), alpha)
    given = turn(part, slot.transform, place, draw)
    codes = None
    fmt = slot.format
    if fmt.bits <= 4 and fmt.unit is not None and found.limit is not None:
        codes = fmt.integers_to_codes(found.tensor)
    scale = found.multiplier
    one = given.new_ones(1) if scale is None else scale.float().abs().mean().reshape(1)
    return given, values(found), codes, one * (1.0 / (fmt.unit or 1.0)), None


def _sums(
    x: Tensor,
    q: Tensor,
    codes: Tensor | None,
    fmt: Format,
    scale: Tensor,
    limit: Tensor | None,
) -> Numbers:
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    a, b = x.reshape(-1).to(dtype), q.reshape(-1).to(dtype)
    over = (a.abs() > limit.to(dtype)).sum() if limit is not None else a.new_tensor(0.0)
    parts = [
        a.new_tensor(float(a.numel())),
        (a == 0).sum(),
        ((a != 0) & (b == 0)).sum(),
        over,
        (a * a).sum(),
        (b * b).sum(),
        (a * b).sum(),
        (b - a).sum(),
        a.abs().sum(),
        scale.reshape(-1)[0],
    ]
    sums = torch.stack([part.to(dtype) for part in parts])
    histogram = a.new_zeros(BINS)
    if codes is not None:
        histogram = torch.bincount(codes.reshape(-1).long(), minlength=BINS)[:BINS].to(dtype)
    return Numbers(torch.cat([sums, histogram]), codes is not None)


def figures(sums: list[float], coded: bool) -> dict[str, Any]:
    """The figures of the module from its sums.

    >>> figures([4, 0, 1, 0, 30.0, 29.0, 29.0, -1.0, 10.0, 1.0] + [0.0] * 16, True)["underflow"]
    0.25
    """
    v = dict(zip(_SUMS, sums, strict=False))
    histogram = [int(count) for count in sums[len(_SUMS) :] if count == count]
    n, xx, qq = v["n"], v["xx"], v["qq"]
    noise = xx + qq - 2 * v["xq"]
    finite = math.isfinite(xx) and math.isfinite(qq)
    live = n - v["zeros"]

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole > 0 and math.isfinite(part) else None

    signal = finite and xx > 0
    # Sums of squares of equal numbers differ in their last bits; that is no noise.
    silent = noise <= 1e-12 * xx if finite else False
    return {
        "histogram": histogram if coded else [],
        "used": sum(1 for count in histogram if count) if coded else None,
        "zeros": share(v["zeros"], n),
        "underflow": share(v["under"], live),
        "saturation": share(v["over"], n),
        "scale": v["scale"] if math.isfinite(v["scale"]) else None,
        "rms": math.sqrt(xx / n) if signal and n else (0.0 if finite else None),
        "snr_db": 10 * math.log10(xx / noise) if signal and not silent else None,
        "cosine": v["xq"] / math.sqrt(xx * qq) if signal and qq > 0 else None,
        "norm_ratio": math.sqrt(qq / xx) if signal else None,
        "shrinkage": v["xq"] / xx if signal else None,
        "bias": share(v["diff"], v["absolute"]),
        "noise_ratio": math.sqrt(xx / noise) if signal and not silent else None,
        "finite": finite and math.isfinite(v["scale"]),
    }
