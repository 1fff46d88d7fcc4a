"""LSQ, a learned step size (Esser et al., ICLR 2020, arXiv 1902.08153; Xi et al., NeurIPS 2023, use
it for both operands of the forward Gemm after a Hadamard).

    scale  = max(step, 2**-126)             inv = fl(1 / scale)
    v      = fl(x * inv)                    q = nearest(v), within the format's lowest and highest
                                            values -Qn and Qp: -8 and 7 for int4

A step that training pushed to zero or below is used as 2**-126, a NaN or infinite one makes the
scale NaN, as with PACT's clip. Gradients for an incoming gradient g, that of fl(q * scale):

    dx     = g where -Qn < v < Qp, else 0
    t      = fl(q - v) where -Qn < v < Qp;  -Qn where v <= -Qn;  Qp where v >= Qp
    dstep  = fl(a * tree_sum(fl(g * t)))    a = fl(1 / sqrt(n * Qp)), n the number of elements of x

The factor a makes the step's relative update about as large as that of the weights. An element that
lies exactly on an end is beyond it, as in the paper; public code of Xi et al. takes it as inside.

Initial step, from the first batch or the weights:

    step0  = fl(fl(2 * tree_mean(|x|)) / fl(sqrt(Qp)))       1 where that is 0

Not done here: the parameter itself and its update (nn/steps.py); steps for each channel; for
activations the paper's n, the features of one sample, in place of all elements (give `count`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import Integer
from nybble.quantizers.scales.arithmetic import (
    MIN_SCALE,
    clamp,
    divide,
    finite,
    select,
    times,
    to_array,
    to_tensor,
)
from nybble.quantizers.scales.fit import Fit, ScaleConfig, value_range
from nybble.quantizers.sums import tree_mean, tree_sum

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["LSQ"]


@dataclass(frozen=True)
class LSQ(ScaleConfig):
    """One learned step a tensor; see the module."""

    @property
    def clips(self) -> int:
        """How many numbers there are to learn: the step."""
        return 1

    def fit(self, x: Tensor, format: Format) -> Fit:
        """The fit of the initial step of `x`.

        >>> from nybble.formats import get_format
        >>> LSQ().fit(torch.tensor([3.0, -1.0]), get_format("uint2")).scale
        tensor(2.3094)
        """
        return self.fit_alpha(self.initial_alpha(x, format), format)

    def fit_alpha(self, alpha: Tensor, format: Format) -> Fit:
        """The fit of a given step: `alpha` has 1 element.

        >>> from nybble.formats import get_format
        >>> fit = LSQ().fit_alpha(torch.tensor([0.5]), get_format("int4"))
        >>> fit.scale, fit.bound
        (tensor(0.5000), tensor(3.5000))
        """
        _, high = _ends(format)
        if alpha.numel() != 1:
            raise UserError(f"LSQ: there is 1 step to learn, got {alpha.numel()}")
        step = to_array(alpha.detach().to(torch.float32).reshape(()))
        scale = select(finite(step), clamp(step, low=MIN_SCALE), float("nan"))
        return Fit.of_array(scale, bound=to_tensor(times(scale, high)))

    def initial_alpha(self, x: Tensor, format: Format) -> Tensor:
        """The step to start from; float32 `[1]`.

        >>> from nybble.formats import get_format
        >>> LSQ().initial_alpha(torch.zeros(3), get_format("int4"))
        tensor([1.])
        """
        _, high = _ends(format)
        mean = tree_mean(x.detach().to(torch.float32).abs())
        step = torch.as_tensor(divide(mean + mean, math.sqrt(high)))
        return torch.where(step == 0, 1.0, step).reshape(1)

    def gradient(
        self, x: Tensor, alpha: Tensor, grad: Tensor, format: Format, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(dx, dstep `[1]`) for the gradient of the dequantised `x`; `count` replaces n.

        >>> from nybble.formats import get_format
        >>> x, grad = torch.tensor([0.75, 9.0, -1.0]), torch.ones(3)
        >>> LSQ().gradient(x, torch.tensor([1.0]), grad, get_format("int4"), count=7)
        (tensor([1., 0., 1.]), tensor([1.0357]))
        """
        low, high = _ends(format)
        fit = self.fit_alpha(alpha, format)
        v = fit.scaled(x)
        grad = grad.detach().to(torch.float32)
        inside = (v > low) & (v < high)
        term = torch.where(inside, format.round(v) - v, v.clamp(low, high))
        n = max(x.numel() if count is None else count, 1)
        step = times(tree_sum(grad * term), 1.0 / math.sqrt(n * high))
        return torch.where(inside, grad, 0.0), torch.as_tensor(step).reshape(1)

    @property
    def short(self) -> str:
        return "lsq"


def _ends(format: Format) -> tuple[float, float]:
    if not isinstance(format, Integer):
        raise UserError(f"LSQ: a step is that of an integer grid, not of {format.name!r}; use int4")
    return value_range(format)
