"""Backward functions that cannot be differentiated again, and say so.

torch's own `once_differentiable` raises only where a second gradient flows back to one of its
outputs. `torch.autograd.grad(first, some_parameters)` may have no such path left and then answers
without the layer's share: a number, and a wrong one. Gradients that are to be differentiated again
(`create_graph=True`) are therefore refused as soon as they are asked for: rounding has no second
derivative, and that of a straight-through estimator would be another estimate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from nybble.errors import UserError

__all__ = ["once_differentiable"]

Result = TypeVar("Result")


def once_differentiable(backward: Callable[..., Result]) -> Callable[..., Result]:
    """The `backward` of an autograd function, without a graph of its own; raises UserError where
    one is asked for."""

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Result:
        if torch.is_grad_enabled():  # the engine's: it says whether create_graph was given
            raise UserError(
                "create_graph=True: converted layers have no second derivatives, since rounding has"
                " none; for a gradient penalty or a Hessian use nybble.revert(model), or leave the"
                " layers out by a rule"
            )
        return backward(ctx, *gradients)

    return checked
