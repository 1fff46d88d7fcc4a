"""A gradient is written over only where nobody else holds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nybble.nn.owned import counts, may_overwrite


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


def leaf() -> Tensor:
    return torch.arange(4.0).requires_grad_()


def probe(x: Tensor, notes: list[bool]) -> Tensor:
    return Probe.apply(x, notes)  # type: ignore[no-any-return]


def test_a_gradient_that_nobody_holds() -> None:
    notes: list[bool] = []
    (probe(leaf() * 2.0, notes) * 3.0).sum().backward()
    assert notes == [True]


def test_the_first_of_two_branches_shares_it() -> None:
    notes: list[bool] = []
    x, y = leaf(), leaf()
    ((probe(x * 2.0, notes) + probe(y * 2.0, notes)) * 3.0).sum().backward()
    assert notes == [False, True]
    assert torch.equal(x.grad, torch.full((4,), 6e6))  # type: ignore[arg-type]
    assert torch.equal(y.grad, torch.full((4,), 6e6))  # type: ignore[arg-type]


def test_callers_own_gradient() -> None:
    own = torch.ones(4)
    for given in (own, own.view(4), own.detach(), own.view(2, 2).view(4)):
        probe(leaf() * 2.0, []).backward(given)
        assert torch.equal(own, torch.ones(4))


@pytest.mark.parametrize("alias", [lambda g: g, lambda g: g.detach(), lambda g: g.view(2, 2)])
def test_a_hook_that_keeps_it(alias: Any) -> None:
    held: list[Tensor] = []
    y = probe(leaf() * 2.0, [])
    y.register_hook(lambda g: held.append(alias(g)))
    (y * 3.0).sum().backward()
    assert torch.equal(held[0].reshape(-1), torch.full((4,), 3.0))


def test_a_retained_or_captured_gradient() -> None:
    y = probe(leaf() * 2.0, [])
    y.retain_grad()
    (y * 3.0).sum().backward()
    assert torch.equal(y.grad, torch.full((4,), 3.0))  # type: ignore[arg-type]
    x = leaf()
    y = probe(x * 2.0, [])
    captured, _ = torch.autograd.grad((y * 3.0).sum(), [y, x])
    assert torch.equal(captured, torch.full((4,), 3.0))


def test_a_parameter_that_took_it() -> None:
    p = leaf()
    y = probe(leaf() * 2.0, [])
    ((y + p) * 3.0).sum().backward()
    assert torch.equal(p.grad, torch.full((4,), 3.0))  # type: ignore[arg-type]


def test_an_expanded_gradient() -> None:
    x = leaf()
    probe(x * 2.0, []).sum().backward()
    assert torch.equal(x.grad, torch.full((4,), 2e6))  # type: ignore[arg-type]
