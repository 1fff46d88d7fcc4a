"""GradScale: a power of two per layer that keeps gradients on the format (Sun et al., NeurIPS
2020, "trainable" gradient scale; the rule is read from reading notes of the paper, see below).

The gradient is multiplied by s, a power of two; the statistic is max|s * g| against the format's
largest value Max:

    max in (Max/2, Max]    keep
    max in (0, Max/2]      s * 2       (underflow)
    max >  Max             s / 2       (overflow)

Zero (an idle layer) and NaN or infinity (a step that a loss scaler skips) never move it. s stays
within [2**-126, 2**126]: both s and 1 / s are normal float32 numbers. One step an iteration, so a
drift of 2**k is tracked in k iterations.

What no stored text of the paper says, and is decided here: the start. The first usable gradient
sets s by one exact fit, `warm_start`: the power of two with max in (Max/2, Max], so no iteration
is lost to a search. Whether the new s is used at once or in the next iteration is `mode`.

All of it is exact: multiplying by a power of two rounds nothing (short of overflow), and exponents
come from frexp. Fit.scale = 1 / s and Fit.inv = s.

Not done here: the state. A layer keeps s, and calls these functions once an iteration.
"""

from __future__ import annotations

import math
from ctypes import c_float
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.fit import Fit
from nybble.quantizers.scales.stateful import StatefulScale

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = [
    "MAX_EXPONENT",
    "GradScale",
    "absolute_max",
    "is_number",
    "update",
    "update_number",
    "usable",
    "warm_start",
]

MAX_EXPONENT = 126
_LOW, _HIGH = 2.0**-MAX_EXPONENT, 2.0**MAX_EXPONENT


def absolute_max(x: Tensor) -> Tensor:
    """max|x| as a float32 scalar tensor: NaN if there is one, 0 for an empty tensor.

    >>> absolute_max(torch.tensor([1.0, -3.0]))
    tensor(3.)
    """
    x = x.detach()
    if x.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=x.device)
    lo, hi = torch.aminmax(x)  # one read, no |x| in memory
    return torch.maximum(-lo, hi).to(torch.float32)


def usable(statistic: Tensor) -> Tensor:
    """Whether a statistic may set or move a scale: finite and not zero. Boolean tensor.

    >>> usable(torch.tensor([0.0, 2.0, float("inf"), float("nan")]))
    tensor([False,  True, False, False])
    """
    return (statistic > 0) & torch.isfinite(statistic)


def warm_start(statistic: Tensor, max_value: float, default: float = 1.0) -> Tensor:
    """The power of two s with `statistic * s` in (max_value / 2, max_value].

    `statistic`: float32, max|g| of the unscaled gradient; the result has its shape. `default`
    where the statistic is zero or not finite. Exponents are kept within +-126.

    >>> warm_start(torch.tensor([64.0, 65.0, 33.0, 0.75]), 64.0)
    tensor([ 1.0000,  0.5000,  1.0000, 64.0000])
    """
    statistic = statistic.detach().to(torch.float32)
    if is_number(statistic):
        return _number(statistic.shape, _fitted(statistic.item(), max_value, default))
    ok = usable(statistic)
    # statistic = m * 2^e and max_value = t * 2^f with m, t in [1/2, 1): the exponent is f - e, or
    # one less when m > t.
    m, e = torch.frexp(torch.where(ok, statistic, 1.0))
    t, f = torch.frexp(torch.tensor(max_value, dtype=torch.float32))
    exponent = int(f) - e - (m > float(t)).to(e.dtype)
    return torch.where(ok, power_of_two(exponent), default)


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent, exactly, from integers; exponents are first kept within +-126.

    >>> power_of_two(torch.tensor([-3, 200], dtype=torch.int32)).tolist() == [0.125, 2.0**126]
    True
    """
    biased = exponent.to(torch.int32).clamp(-MAX_EXPONENT, MAX_EXPONENT) + 127
    return (biased << 23).view(torch.float32)


def update(scale: Tensor, scaled_max: Tensor, max_value: float) -> Tensor:
    """The next s after an iteration in which max|s * g| was `scaled_max`; float32, as `scale`.

    >>> s = torch.tensor(4.0)
    >>> [float(update(s, torch.tensor(m), 64.0)) for m in (64.0, 32.0, 64.5, 0.0, float("nan"))]
    [4.0, 8.0, 2.0, 4.0, 4.0]
    """
    scale = scale.detach()
    if is_number(scale) and is_number(scaled_max):
        return _number(scale.shape, update_number(scale.item(), scaled_max.item(), max_value))
    doubled = (scale * 2.0).clamp(max=_HIGH)
    halved = (scale * 0.5).clamp(min=_LOW)
    moved = torch.where(scaled_max > max_value, halved, scale)
    moved = torch.where(scaled_max <= max_value / 2, doubled, moved)
    return torch.where(usable(scaled_max), moved, scale)


def is_number(x: Tensor) -> bool:
    """Whether `x` is one number that may be read without a synchronisation: then Python's own
    arithmetic, exact for powers of two, is ten times faster than tensors of one element."""
    return x.numel() == 1 and x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter)


def _number(shape: torch.Size, value: float) -> Tensor:
    return torch.full(shape, value, dtype=torch.float32, device="cpu")


def _fitted(statistic: float, max_value: float, default: float) -> float:
    """`warm_start` on numbers."""
    if not 0.0 < statistic < math.inf:
        return default
    m, e = math.frexp(statistic)
    t, f = math.frexp(max_value)
    return 2.0 ** min(max(f - e - (m > t), -MAX_EXPONENT), MAX_EXPONENT)


def update_number(scale: float, scaled_max: float, max_value: float) -> float:
    """`update` on numbers.

    >>> update_number(4.0, 32.0, 64.0)
    8.0
    """
    if max_value < scaled_max < math.inf:
        return max(scale * 0.5, _LOW)
    if 0.0 < scaled_max <= max_value / 2:
        return min(scale * 2.0, _HIGH)
    return scale


@dataclass(frozen=True)
class GradScale(StatefulScale):
    """The scale of a layer's output gradient; see the module.

    mode: "delayed" uses the stored s and moves it afterwards; "immediate" moves it by the same
    rule first and uses the moved one; "fit" takes the exact power of two at every step.
    start: "fit" sets the first s by one exact fit, "one" starts at s = 1 and lets the rule find the
    range, a factor of 2 an iteration.
    scope: "layer", or "global": all layers of a model share one s, moved by the largest gradient of
    all of them. It is the adaptive loss scale that GradScale is compared with.
    """

    mode: Literal["delayed", "immediate", "fit"] = "delayed"
    start: Literal["fit", "one"] = "fit"
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        if self.start not in ("fit", "one"):
            raise UserError(f"GradScale: start must be 'fit' or 'one', got {self.start!r}")
        if self.mode not in ("delayed", "immediate", "fit"):
            raise UserError(
                f"GradScale: mode must be 'delayed', 'immediate' or 'fit', got {self.mode!r}"
            )
        if self.scope not in ("layer", "global"):
            raise UserError(f"GradScale: scope must be 'layer' or 'global', got {self.scope!r}")
        if self.scope == "global" and self.mode != "delayed":
            raise UserError(
                f"GradScale: one scale for all layers is moved after all of them, so scope='global'"
                f" takes mode='delayed', not {self.mode!r}"
            )

    def fit(self, x: Tensor, format: Format) -> Fit:
        """The exact fit to `x`: what the first gradient of a layer gets (no state is read).

        >>> from nybble.formats import get_format
        >>> GradScale().fit(torch.tensor([0.75, -0.1]), get_format("fp4_radix4")).inv
        tensor(64.)
        """
        statistic = absolute_max(x)
        return self.fit_scale(self.warm_start(statistic, format.max_value)).poisoned(statistic)

    @staticmethod
    def fit_scale(s: Tensor) -> Fit:
        """The fit of a given s: scale = 1 / s (exact), inv = s; both `()`.

        >>> GradScale.fit_scale(torch.tensor([64.0])).scale
        tensor(0.0156)
        """
        s = s.detach().to(torch.float32).reshape(())
        return Fit(scale=torch.reciprocal(s), inv=s)

    def factors(self, state: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
        """(s, 1 / s).

        >>> GradScale().factors(torch.tensor([64.0]), 64.0)
        (tensor([64.]), tensor([0.0156]))
        """
        return state, state.reciprocal()

    def advance(self, state: Tensor, statistic: Tensor, max_value: float) -> Tensor:
        """`update` by the statistic of the unscaled gradient."""
        return update(state, statistic * state, max_value)

    def advance_number(self, state: float, statistic: float, max_value: float) -> float:
        # float32, as in the tensor form: exact but beyond either end of its range.
        return update_number(state, c_float(statistic * state).value, max_value)

    @staticmethod
    def warm_start(statistic: Tensor, max_value: float, default: float = 1.0) -> Tensor:
        """`warm_start` of this module."""
        return warm_start(statistic, max_value, default)

    @staticmethod
    def update(scale: Tensor, scaled_max: Tensor, max_value: float) -> Tensor:
        """`update` of this module."""
        return update(scale, scaled_max, max_value)

    def first(self, statistic: Tensor, max_value: float) -> Tensor:
        """The first s of a layer, from max|g| of its first gradient; the shape of `statistic`.

        >>> GradScale(start="one").first(torch.tensor([0.1]), 64.0)
        tensor([1.])
        """
        if self.start == "one" and self.mode != "fit":
            return torch.ones_like(statistic, dtype=torch.float32)
        return warm_start(statistic, max_value)

    def step(self, scale: Tensor, statistic: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
        """(s to use now, s to keep for the next iteration), from the stored s and max|g|.

        A stored s of 0 means "none yet": the first usable statistic sets it by `warm_start`, and
        until then s = 1 is used and 0 is kept. Works without a synchronisation.

        >>> used, kept = GradScale().step(torch.tensor(1.0), torch.tensor(16.0), 64.0)
        >>> used, kept
        (tensor(1.), tensor(2.))
        """
        statistic = statistic.detach().to(torch.float32)
        if is_number(statistic) and is_number(scale):
            numbers = self._step(scale.item(), statistic.item(), max_value)
            return _number(scale.shape, numbers[0]), _number(scale.shape, numbers[1])
        started, ok = scale > 0, usable(statistic)
        fresh = self.first(statistic, max_value)
        moved = update(scale, statistic * scale, max_value)
        if self.mode == "fit":
            moved = torch.where(ok, fresh, scale)
        used = scale if self.mode == "delayed" else moved
        return torch.where(started, used, fresh), torch.where(
            started, moved, torch.where(ok, fresh, 0.0)
        )

    def _step(self, scale: float, statistic: float, max_value: float) -> tuple[float, float]:
        ok = 0.0 < statistic < math.inf
        slow = self.start == "one" and self.mode != "fit"
        fresh = 1.0 if slow else _fitted(statistic, max_value, 1.0)
        if not scale > 0.0:
            return fresh, fresh if ok else 0.0
        if self.mode == "fit":
            moved = fresh if ok else scale
        else:
            # float32, as in the tensor form: exact but beyond either end of its range.
            product = statistic * scale
            product = float(np.float32(product)) if product < 2.0**128 else math.inf
            moved = update_number(scale, product, max_value)
        return (scale if self.mode == "delayed" else moved), moved

    @property
    def short(self) -> str:
        start = "" if self.start == "fit" else ", 1"
        scope = "" if self.scope == "layer" else ", global"
        return f"gradscale({self.mode}{start}{scope})"
