"""Matrix products that belong to no layer of nybble's: what else a forward pass multiplies.

`OtherProducts` watches every torch operator of a forward pass and counts those that multiply
matrices (attention's QK^T and PV, `nn.Conv1d`, `nn.Bilinear`, ...), by the formulas of
`torch.utils.flop_counter`, while no layer that is listed elsewhere runs. An operand that has a
gradient adds one backward product of the same size:

    MACs = (flops / 2) * (1 + operands with a gradient, at most two)

A custom autograd function runs its forward without gradients, and says by `differentiated` that it
has some, and how often it computes its forward again in backward.

Source: torch's flop counter, to which the CPU's fused attention is added. Not done here: operators
that it does not know, such as fused recurrent layers; backward products of a forward that runs
without gradients first (reentrant checkpointing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


_OWN: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
# Their first argument is added to the product.
_ADDED = (aten.addmm, aten.baddbmm)


_again: ContextVar[int | None] = ContextVar("again", default=None)


@contextmanager
def differentiated(again: int) -> Iterator[None]:
    """While it lasts, products have their gradients though gradients are off, and are computed
    `again` times more.

    >>> with OtherProducts([]) as other, torch.no_grad(), differentiated(again=1):
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4, requires_grad=True)
    >>> other.macs
    72
    """
    token = _again.set(again)
    try:
        yield
    finally:
        _again.reset(token)


class OtherProducts(TorchDispatchMode):
    """Counts in `macs` while `inside`, the stack of listed layers that are running, is empty.

    >>> with OtherProducts([]) as other:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4, requires_grad=True)
    >>> other.macs
    48
    """

    def __init__(self, inside: Sequence[object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside = inside
        self.macs = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.inside:
            self.macs += _macs(func._overloadpacket, args, kwargs or {}, result)
        return result


def _macs(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    own = _OWN.get(operator)
    if own is None and operator not in flop_registry:
        return 0
    operands = [a for a in (args[1:] if operator in _ADDED else args) if isinstance(a, Tensor)]
    flops = (
        own(*(a.shape for a in operands[:3]))
        if own is not None
        else int(flop_registry[operator](*args, **kwargs, out_val=result))
    )
    learned = sum(a.requires_grad for a in operands if a.dim() > 1)
    again = _again.get()
    gradients = min(learned, 2) if torch.is_grad_enabled() or again is not None else 0
    return flops // 2 * (1 + gradients + (again or 0))
