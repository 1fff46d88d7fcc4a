"""A gradient is written over only where nobody else holds it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nybble
from nybble.nn import owned
from nybble.nn.owned import counts, may_overwrite
from nybble.ops import native
from nybble.ops.native import pool

pytestmark = pytest.mark.skipif(native.core()[0] is None, reason="compiled module present")


class Probe(torch.autograd.Function):
    """Identity that notes whether its gradient may be written over, and does so."""

    notes: list[bool]

    @staticmethod
    def forward(ctx: Any, x: Tensor, notes: list[bool]) -> Tensor:
        ctx.notes = notes
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mine = may_overwrite(counts(grad))
        ctx.notes.append(mine)
        return (grad.mul_(1e6) if mine else grad * 1e6), None


class Fed(torch.autograd.Function):
    """Three times its input, with a gradient in the pool's memory, as nybble's layers give it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 3.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return pool.result(grad.shape).copy_(grad * 3.0)


N = 1 << 17  # large enough for the pool


def leaf() -> Tensor:
    return torch.arange(float(N)).requires_grad_()


def fed(x: Tensor) -> Tensor:
    return Fed.apply(x)  # type: ignore[no-any-return]


def probe(x: Tensor, notes: list[bool]) -> Tensor:
    return Probe.apply(x, notes)  # type: ignore[no-any-return]


def test_a_gradient_that_nobody_holds() -> None:
    notes: list[bool] = []
    fed(probe(leaf() * 2.0, notes)).sum().backward()
    assert notes == [True]


def test_the_first_of_two_branches_shares_it() -> None:
    notes: list[bool] = []
    x, y = leaf(), leaf()
    fed(probe(x * 2.0, notes) + probe(y * 2.0, notes)).sum().backward()
    assert notes == [False, True]
    assert torch.equal(x.grad, torch.full((N,), 6e6))  # type: ignore[arg-type]
    assert torch.equal(y.grad, torch.full((N,), 6e6))  # type: ignore[arg-type]


def test_callers_own_gradient() -> None:
    own = torch.ones(N)
    for given in (own, own.view(N), own.detach(), own.view(2, -1).view(N)):
        probe(leaf() * 2.0, []).backward(given)
        assert torch.equal(own, torch.ones(N))


@pytest.mark.parametrize("alias", [lambda g: g, lambda g: g.detach(), lambda g: g.view(2, -1)])
def test_a_hook_that_keeps_it(alias: Any) -> None:
    held: list[Tensor] = []
    y = probe(leaf() * 2.0, [])
    y.register_hook(lambda g: held.append(alias(g)))
    fed(y).sum().backward()
    assert torch.equal(held[0].reshape(-1), torch.full((N,), 3.0))


def test_a_retained_or_captured_gradient() -> None:
    y = probe(leaf() * 2.0, [])
    y.retain_grad()
    fed(y).sum().backward()
    assert torch.equal(y.grad, torch.full((N,), 3.0))  # type: ignore[arg-type]
    x = leaf()
    y = probe(x * 2.0, [])
    captured, _ = torch.autograd.grad(fed(y).sum(), [y, x])
    assert torch.equal(captured, torch.full((N,), 3.0))


def test_a_parameter_that_took_it() -> None:
    p = leaf()
    y = probe(leaf() * 2.0, [])
    fed(y + p).sum().backward()
    assert torch.equal(p.grad, torch.full((N,), 3.0))  # type: ignore[arg-type]


def test_an_expanded_gradient() -> None:
    x = leaf()
    probe(x * 2.0, []).sum().backward()
    assert torch.equal(x.grad, torch.full((N,), 2e6))  # type: ignore[arg-type]


def test_memory_that_is_not_the_pools() -> None:
    """A gradient that is somebody's array with a tensor around it."""
    notes: list[bool] = []
    (probe(leaf() * 2.0, notes) * 3.0).sum().backward()
    assert notes == [False]
    array = np.ones(N, dtype=np.float32)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return torch.from_numpy(array)

    Loss.apply(probe(leaf() * 2.0, notes)).backward()  # type: ignore[no-untyped-call]
    assert notes == [False] * 2 and bool((array == 1.0).all())
    # Even where the array lies in the pool: its tensor is another one.
    kept = pool.result((N,)).fill_(1.0)
    array = kept.numpy()
    Loss.apply(probe(leaf() * 2.0, notes)).backward()  # type: ignore[no-untyped-call]
    assert notes == [False] * 3 and bool((kept == 1.0).all())


class Holding(TorchDispatchMode):
    """Keeps what goes by."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.held.append(result)
        return result


def test_a_watched_first_backward_is_no_measure() -> None:
    """What a watcher holds must not count as nobody's."""
    owned._alone.cache_clear()
    found = owned._alone()
    owned._alone.cache_clear()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        _ = frame.f_locals
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with Holding():
            assert owned._alone() == found
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("activations", ["exact", "4bit"])
def test_an_activation_whose_view_is_kept(activations: str) -> None:
    """The trace of the model did not see it: logging began later."""

    class Model(nn.Module):
        log: list[tuple[Any, Any]] | None = None

        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
            self.bn, self.relu = nn.BatchNorm2d(16), nn.ReLU()

        def watch(self, y: Tensor) -> Tensor:
            if self.log is not None:
                self.log.append((y.detach().numpy(), y.detach().clone().numpy()))
            return y

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            out: Tensor = self.relu(self.watch(self.bn(self.watch(self.conv(x))) + x))
            return out

    torch.manual_seed(0)
    model = nybble.convert(Model(), "sun2020", activations=activations)
    model.log = []
    model(torch.randn(4, 3, 34, 34)).sum().backward()
    assert len(model.log) == 2
    assert all(np.array_equal(view, copy) for view, copy in model.log)
