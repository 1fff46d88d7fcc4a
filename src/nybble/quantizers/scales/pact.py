"""PACT, a learned clip for activations (Choi et al., arXiv 1805.06085).

    unsigned    y = clip(x, 0, alpha)              on uint4: 16 levels, scale = alpha / 15
    symmetric   y = clip(x, -alpha, alpha)         on int4_sym: 15 levels, scale = alpha / 7
    two_sided   y = clip(x, -lower, upper)         on int4: 16 levels and a zero point; alpha is
                                                   [upper, lower], two magnitudes

    scale = max(fl(max(alpha, 2**-126) / levels), 2**-126)         inv = fl(1 / scale)
    two_sided: the affine formulas of minmax.py with lo = -lower, hi = upper

A clip that training pushed to zero or below is used as 2**-126: every number is clipped then, and
the gradient of alpha brings it back. A NaN or infinite clip makes the scale NaN.

Gradient of alpha, for an incoming gradient g (that of y, of the same shape as x); an element is
`above` or `below` when fl(x * inv) (plus the zero point) lies outside of the format's range:

    unsigned    dalpha = tree_sum(g where above, else 0)
    symmetric   dalpha = tree_sum(g where above, -g where below, else 0)
    two_sided   dupper = tree_sum(g where above), dlower = tree_sum(-g where below)
    dx = g where neither (and, unsigned, x >= 0), else 0

Layers compute it, from the codes and the mask that they kept (`ops/reference/layer.py`). An element
that lies exactly on the clip is inside: it passes its gradient to x, and to x alone. In IBM's code
(x >= alpha for alpha, x <= alpha for x) it would count twice.

Initial clip: with rate and decay as they are, alpha hardly moves from where it starts, so it starts
where the quantisation error of the first batch is least. Tried are top * 2**(-k/8), k = 0..63,
with top = the largest magnitude on each side; the one with the least tree_sum((x' - x)**2) wins,
ties going to the larger clip. Beyond 2**16 elements every `step`-th is used, `step` odd so that it
walks through all channels. NaN and infinite elements count as 0. Data without an element that a
clip could hold give alpha = 1; of two clips the one without elements gets 2**-126. No random
numbers: the same batch gives the same clip.

Not done here: the parameter itself, its decay and rate (nn makes them); PACT+ (a gradient of the
rounding error inside the range).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import MIN_SCALE, clamp, scale_of, to_array, to_tensor
from nybble.quantizers.scales.fit import Fit, ScaleConfig, value_range
from nybble.quantizers.scales.minmax import affine_fit
from nybble.quantizers.sums import tree_sum

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["PACT"]

Kind = Literal["unsigned", "symmetric", "two_sided"]

_CANDIDATES = 64
_STEPS_PER_OCTAVE = 8
_SAMPLE = 1 << 16
_PART = 1 << 18


@dataclass(frozen=True)
class PACT(ScaleConfig):
    """A clip that is learned; see the module. `kind`: "unsigned", "symmetric" or "two_sided"."""

    kind: Kind = "unsigned"

    def __post_init__(self) -> None:
        if self.kind not in ("unsigned", "symmetric", "two_sided"):
            raise UserError(
                f"PACT: kind must be 'unsigned', 'symmetric' or 'two_sided', got {self.kind!r}"
            )

    @property
    def clips(self) -> int:
        """How many clips there are to learn: 2 for "two_sided", else 1."""
        return 2 if self.kind == "two_sided" else 1

    def fit(self, x: Tensor, format: Format) -> Fit:
        """The fit of the initial clip of `x` (what the first batch gets).

        >>> from nybble.formats import get_format
        >>> PACT().fit(torch.tensor([15.0, 3.0]), get_format("uint4")).scale
        tensor(1.)
        """
        return self.fit_alpha(self.initial_alpha(x, format), format)

    def fit_alpha(self, alpha: Tensor, format: Format) -> Fit:
        """The fit of given clips: `alpha` has 1 element, or 2 `[upper, lower]` for "two_sided".

        >>> from nybble.formats import get_format
        >>> PACT("symmetric").fit_alpha(torch.tensor([3.5]), get_format("int4_sym")).scale
        tensor(0.5000)
        """
        levels = self._levels(format)
        if alpha.numel() != self.clips:
            raise UserError(
                f"PACT: kind {self.kind!r} takes {self.clips} clip(s), got {alpha.numel()}"
            )
        clips = alpha.detach().to(torch.float32).reshape(-1)
        upper = clamp(to_array(clips[0]), low=MIN_SCALE)
        if self.kind != "two_sided":
            return Fit.of_array(scale_of(upper, levels), bound=to_tensor(upper))
        lower = clamp(to_array(clips[1]), low=MIN_SCALE)
        fit = affine_fit(to_tensor(-lower), to_tensor(upper), format)
        bound = torch.stack([to_tensor(upper), to_tensor(lower)])
        return Fit(fit.scale, fit.inv, fit.zero_point, bound=bound)

    def initial_alpha(self, x: Tensor, format: Format) -> Tensor:
        """The clip(s) of least squared quantisation error on `x`; float32 `[clips]`, positive.

        `x`: any shape and float type. Deterministic; see the module.

        >>> from nybble.formats import get_format
        >>> PACT().initial_alpha(torch.linspace(0, 15, 16), get_format("uint4"))
        tensor([15.])
        """
        self._levels(format)
        x = x.detach()
        count = x.numel()
        if count == 0:
            return torch.ones(self.clips, dtype=torch.float32, device=x.device)
        lo, hi = finite_range(x)
        if self.kind == "symmetric":
            tops = torch.maximum(-lo, hi).reshape(1)
        else:
            tops = torch.stack([hi, -lo])[: self.clips].clamp(min=0.0)
        # Taken by index: a flattened copy of channels-last memory is as large as the activation.
        chosen = torch.arange(0, count, _odd_step(count), device=x.device)
        sample = _finite(torch.take(x, chosen).to(torch.float32))
        candidates = [tops * 2.0 ** (-k / _STEPS_PER_OCTAVE) for k in range(_CANDIDATES)]
        best: Tensor = candidates[0]
        least = math.inf
        for candidate in candidates:
            fit = self.fit_alpha(candidate, format)
            error = fit.dequantize(format.round(fit.scaled(sample))).sub_(sample)
            total = float(tree_sum(error.mul_(error)))
            if total < least:
                best, least = candidate, total
        if not bool((tops > 0).any()):
            return torch.ones_like(tops)
        return best.clamp(min=MIN_SCALE)

    def _levels(self, format: Format) -> float:
        low, high = value_range(format)
        fits = {
            "unsigned": low == 0,
            "symmetric": low == -high,
            "two_sided": format.unit == 1.0 and high - low == 2**format.bits - 1,
        }
        if not fits[self.kind]:
            use = {"unsigned": "uint4", "symmetric": "int4_sym", "two_sided": "int4"}[self.kind]
            raise UserError(
                f"PACT: kind {self.kind!r} does not fit format {format.name!r}; use {use!r}"
            )
        return high

    @property
    def short(self) -> str:
        return f"pact({self.kind})"


def finite_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of `x` as float32, numbers that are not finite taken as 0.

    Slice by slice: a first batch should not need more memory than those after it.

    >>> finite_range(torch.tensor([[1.0, -2.0], [float("inf"), 3.0]]))
    (tensor(-2.), tensor(3.))
    """
    ends = [torch.aminmax(_finite(part.to(torch.float32))) for part in _slices(x)]
    lows, highs = zip(*ends, strict=True)
    return torch.stack(lows).amin(), torch.stack(highs).amax()


def has_negative(x: Tensor) -> bool:
    """Whether a value of `x` is below 0 (NaN is not), without a mask as large as `x`.

    >>> has_negative(torch.tensor([0.0, float("nan")])), has_negative(torch.tensor([1.0, -1.0]))
    (False, True)
    """
    return any(bool((part < 0).any()) for part in _slices(x))


def _slices(x: Tensor) -> Sequence[Tensor]:
    if not x.dim() or not x.numel():
        return (x,)
    parts: Sequence[Tensor] = x.split(max(1, len(x) * _PART // x.numel()))
    return parts


def _finite(x: Tensor) -> Tensor:
    return torch.where(torch.isfinite(x), x, 0.0)


def _odd_step(n: int) -> int:
    """The sampling step: 1 up to 2**16 elements, else the next odd number that gets there."""
    return 1 if n <= _SAMPLE else -(-n // _SAMPLE) | 1
