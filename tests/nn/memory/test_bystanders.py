"""Joined and in-place modules change nothing that somebody else can see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nybble
from nybble.ops import native

BACKENDS = ["reference", *(["native"] if native.available() else [])]


class Net(nn.Module):
    """conv, batch norm, ReLU, and a `forward` that a test chooses."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.chosen = forward
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.chosen(self, self.first(x))


def two_ways(forward: Callable[[Net, Tensor], Tensor], backend: str) -> tuple[Net, Tensor, Tensor]:
    """(the compressed net, its output, the output without compression); float32 products."""
    outputs = []
    for activations in ("4bit", None):
        torch.manual_seed(0)
        net = Net(forward)
        nybble.convert(net, "fp32", activations=activations, backend=backend)
        net.to(memory_format=torch.channels_last)
        x = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        outputs.append((net, net(x)))
    return outputs[0][0], outputs[0][1], outputs[1][1]


def in_place_sum(net: Net, x: Tensor) -> Tensor:
    o = net.relu1(net.norm(net.conv(x)))
    o += -x.abs()
    return net.relu2(o)


def in_place_product(net: Net, x: Tensor) -> Tensor:
    o = net.relu1(net.norm(net.conv(x)))
    return net.relu2(o.mul_(-1.0))


def kept_for_later(net: Net, x: Tensor) -> Tensor:
    net.kept = net.conv(x)
    return net.relu1(net.norm(net.kept)) + net.kept


def held_by_a_variable(net: Net, x: Tensor) -> Tensor:
    held = [net.conv(x)]
    return net.relu1(net.norm(held[0])) * held[0]


def sum_that_is_kept(net: Net, x: Tensor) -> Tensor:
    net.kept = net.conv(x) + x
    return net.relu1(net.kept) - net.kept


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "forward",
    [in_place_sum, in_place_product, kept_for_later, held_by_a_variable, sum_that_is_kept],
)
def test_outputs_are_those_of_the_plain_net(forward, backend: str) -> None:
    _, ours, plain = two_ways(forward, backend)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_module_stores_is_not_overwritten(backend: str) -> None:
    def store_only(net: Net, x: Tensor) -> Tensor:
        net.kept = net.conv(x)
        return net.relu1(net.norm(net.kept))

    net, _, _ = two_ways(store_only, backend)
    x = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    net(x)
    assert net.kept is not None
    torch.testing.assert_close(net.kept, net.conv(net.first(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_of_a_model_leave_the_callers_tensors_alone(backend: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    nybble.convert(net, "fp32", activations="4bit", backend=backend)
    net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    features = net[0](x)
    before = features.detach().clone()
    net[2](net[1](features))
    assert torch.equal(features, before)
    z = torch.randn(2, 16, 6, 6, requires_grad=True).contiguous(memory_format=torch.channels_last)
    z = z * 2
    before = z.detach().clone()
    net[1:](z)
    assert torch.equal(z, before)


@pytest.mark.skipif(not native.available(), reason="needs the compiled module")
def test_a_temporary_is_written_over() -> None:
    def watched(net: Net, x: Tensor) -> Tensor:
        y = net.norm(net.conv(x))
        net.kept = y
        return net.relu1(y)

    net, _, _ = two_ways(watched, "native")
    assert net.kept is not None
    assert net.kept._version > 0  # batch norm wrote over the convolution's result
