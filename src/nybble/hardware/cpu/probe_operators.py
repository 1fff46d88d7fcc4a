"""What torch takes for one element of every operator that a trace names, and for the optimizer.

    nanoseconds an element = CPU seconds of a call / elements        elements as a task counts them

At the smallest size that is the call itself, at the largest the memory. Caches are as in a network
(timing.py): what an operator of the forward pass reads was made just before, and its result lies
where nothing has been written for a while, as all results are kept; what a backward operator reads
of the forward pass is another tensor each time, of so many that they do not stay in a cache.
Images are channels-last.

Autograd adds its own work to a backward operator: `engine` measures it with the shortest chain, and
every backward operator of a small size carries it.

Source: the operators themselves, as torch's autograd formulas call them. Not done here: other
operators (`predict` lists them), other shapes than [rows, 64] and images of 64 channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from nybble.hardware.cpu.shapes import COLUMNS, ELEMENTS, TINY
from nybble.hardware.cpu.timing import Timing, call_of, copies
from nybble.training.optimizers import unscale_

__all__ = ["OPERATORS", "probe_operators", "probe_optimizers"]

Make = Callable[["Tensors"], Callable[[], Any]]
Row = tuple[str, int, float]
"""(name, elements, seconds)."""
_aten: Final = torch.ops.aten


def columns_of(elements: int) -> int:
    """Columns of so many elements, such that 64 rows make an image of 8 x 8.

    >>> columns_of(64), columns_of(1 << 20)
    (1, 64)
    """
    return max(1, min(COLUMNS, elements // 64))


class Tensors:
    """What operators of `elements` elements work on: `fresh` is the same each time,
    `kept()` another one, both [rows, columns]; `image()` is channels-last."""

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.columns = columns_of(elements)
        self.rows = elements // self.columns
        many = copies(4 * elements)
        generator = torch.Generator().manual_seed(1)
        self.fresh = torch.randn(self.rows, self.columns, generator=generator)
        self._kept = itertools.cycle([self.fresh.clone() for _ in range(many)])
        self.ones = torch.ones(self.columns)
        self.zeros = torch.zeros(self.columns)

    def kept(self) -> Tensor:
        return next(self._kept)

    def image(self, x: Tensor | None = None) -> Tensor:
        """[N, columns, H, W] in the order of [rows, columns]."""
        x = self.fresh if x is None else x
        high = 8 if self.rows % 64 == 0 else 1
        return x.view(-1, high, high, self.columns).permute(0, 3, 1, 2)

    def heads(self) -> Tensor:
        """Not contiguous: rows and columns changed over in small blocks, as heads are."""
        high = 8 if self.columns % 8 == 0 else 1
        return self.fresh.view(self.rows, high, -1).transpose(0, 1)


def _norms(t: Tensors) -> tuple[Tensor, Tensor]:
    return t.zeros, t.ones


def _batch_norm_back(t: Tensors) -> Callable[[], Any]:
    g = t.image()
    mean, inv = _norms(t)
    return lambda: _aten.native_batch_norm_backward(
        g, t.image(t.kept()), t.ones, mean, inv, mean, inv, True, 1e-5, [True, True, True]
    )


def _layer_norm_back(t: Tensors) -> Callable[[], Any]:
    mean, inv = torch.zeros(t.rows, 1), torch.ones(t.rows, 1)
    return lambda: _aten.native_layer_norm_backward(
        t.fresh, t.kept(), [t.columns], mean, inv, t.ones, t.zeros, [True, True, True]
    )


def _cross_entropy(t: Tensors) -> tuple[Tensor, Tensor]:
    return torch.zeros(t.rows, dtype=torch.long), torch.tensor(float(t.rows))


def _nll_back(t: Tensors) -> Callable[[], Any]:
    target, weight = _cross_entropy(t)
    one = torch.tensor(1.0)
    return lambda: _aten.nll_loss_backward(one, t.fresh, target, None, 1, -100, weight)


def _nll(t: Tensors) -> Callable[[], Any]:
    target, _ = _cross_entropy(t)
    return lambda: _aten.nll_loss_forward(t.fresh, target, None, 1, -100)


def _table(t: Tensors) -> tuple[Tensor, Tensor]:
    """As many different rows looked up as the table has."""
    generator = torch.Generator().manual_seed(2)
    return t.fresh, torch.randint(0, t.rows, (t.rows,), generator=generator)


def _embedding(t: Tensors) -> Callable[[], Any]:
    table, places = _table(t)
    return lambda: _aten.embedding(table, places)


def _embedding_back(t: Tensors) -> Callable[[], Any]:
    _, places = _table(t)
    return lambda: _aten.embedding_dense_backward(t.fresh, places, t.rows, -1, False)


def _pool(t: Tensors) -> Callable[[], Any]:
    return lambda: _aten.max_pool2d_with_indices(t.image(), [2, 2], [2, 2], [0, 0])


def _pool_back(t: Tensors) -> Callable[[], Any]:
    y, places = _aten.max_pool2d_with_indices(t.image(), [2, 2], [2, 2], [0, 0])
    return lambda: _aten.max_pool2d_with_indices_backward(
        y, t.image(t.kept()), [2, 2], [2, 2], [0, 0], [1, 1], False, places
    )


def _mean(t: Tensors) -> Callable[[], Any]:
    return lambda: t.image().mean((2, 3), keepdim=True)


def _stack(t: Tensors) -> Callable[[], Any]:
    parts = list(t.fresh.view(-1).chunk(3))
    parts = [p[: parts[-1].numel()] for p in parts]
    return lambda: torch.stack(parts)


def _slice_back(t: Tensors) -> Callable[[], Any]:
    return lambda: _aten.slice_backward(t.fresh, list(t.fresh.shape), 0, 0, t.rows, 1)


_FORWARD: Final[dict[str, Make]] = {
    "native_batch_norm": lambda t: (
        lambda: _aten.native_batch_norm(
            t.image(), t.ones, t.zeros, t.zeros, t.ones, True, 0.0, 1e-5
        )
    ),
    "native_layer_norm": lambda t: (
        lambda: _aten.native_layer_norm(t.fresh, [t.columns], t.ones, t.zeros, 1e-5)
    ),
    "relu": lambda t: lambda: torch.relu(t.fresh),
    "relu_": lambda t: lambda: torch.relu_(t.fresh),
    "hardtanh": lambda t: lambda: _aten.hardtanh(t.fresh, 0.0, 6.0),
    "hardtanh_": lambda t: lambda: _aten.hardtanh_(t.fresh, -3.0, 3.0),
    "gelu": lambda t: lambda: _aten.gelu(t.fresh),
    "silu": lambda t: lambda: _aten.silu(t.fresh),
    "sigmoid": lambda t: lambda: torch.sigmoid(t.fresh),
    "tanh": lambda t: lambda: torch.tanh(t.fresh),
    "pow": lambda t: lambda: t.fresh.pow(2),
    "add": lambda t: lambda: t.fresh + t.kept(),
    "add_": lambda t: lambda: t.fresh.add_(t.kept(), alpha=1e-9),
    "mul": lambda t: lambda: t.fresh * t.kept(),
    "mul_": lambda t: lambda: t.fresh.mul_(1.0),
    "div": lambda t: lambda: t.fresh / 3.0,
    "div_": lambda t: lambda: t.fresh.div_(1.0),
    "sum": lambda t: lambda: t.fresh.sum(0),
    "mean": _mean,
    "clone": lambda t: lambda: t.heads().contiguous(),
    "copy_": lambda t: lambda: t.kept().copy_(t.fresh),
    "cat": lambda t: lambda: torch.cat((t.fresh[: t.rows // 2], t.fresh[t.rows // 2 :])),
    "stack": _stack,
    "zeros": lambda t: lambda: torch.zeros(t.rows, t.columns),
    "bernoulli_": lambda t: lambda: torch.empty_like(t.fresh).bernoulli_(0.9),
    "_softmax": lambda t: lambda: torch.softmax(t.fresh, -1),
    "_log_softmax": lambda t: lambda: torch.log_softmax(t.fresh, -1),
    "nll_loss_forward": _nll,
    "embedding": _embedding,
    "max_pool2d_with_indices": _pool,
}
_BACKWARD: Final[dict[str, Make]] = {
    "native_batch_norm_backward": _batch_norm_back,
    "native_layer_norm_backward": _layer_norm_back,
    "threshold_backward": lambda t: lambda: _aten.threshold_backward(t.fresh, t.kept(), 0.0),
    "hardtanh_backward": lambda t: lambda: _aten.hardtanh_backward(t.fresh, t.kept(), 0.0, 6.0),
    "gelu_backward": lambda t: lambda: _aten.gelu_backward(t.fresh, t.kept()),
    "silu_backward": lambda t: lambda: _aten.silu_backward(t.fresh, t.kept()),
    "sigmoid_backward": lambda t: lambda: _aten.sigmoid_backward(t.fresh, t.kept()),
    "tanh_backward": lambda t: lambda: _aten.tanh_backward(t.fresh, t.kept()),
    "_softmax_backward_data": lambda t: (
        lambda: _aten._softmax_backward_data(t.fresh, t.kept(), -1, torch.float32)
    ),
    "_log_softmax_backward_data": lambda t: (
        lambda: _aten._log_softmax_backward_data(t.fresh, t.kept(), -1, torch.float32)
    ),
    "nll_loss_backward": _nll_back,
    "embedding_dense_backward": _embedding_back,
    "max_pool2d_with_indices_backward": _pool_back,
    "slice_backward": _slice_back,
}
OPERATORS: Final = (*_FORWARD, *_BACKWARD)


def probe_operators(
    timing: Timing,
    sizes: tuple[int, ...] = ELEMENTS,
    names: tuple[str, ...] = OPERATORS,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """(name, elements, seconds) of every operator at every size."""
    rows: list[Row] = []
    extra = engine(timing) if any(name in _BACKWARD for name in names) else 0.0
    for size in sizes:
        for name in names:
            say(f"{name}, {size} elements")
            tensors = Tensors(size)  # its own: operators in place change it
            make = _FORWARD.get(name) or _BACKWARD[name]
            with torch.no_grad():
                keep = copies(4 * size) if name in _FORWARD else 1
                seconds = timing.seconds(call_of(make(tensors), keep))
            rows.append((name, size, seconds + (extra if name in _BACKWARD else 0.0)))
    return rows


def engine(timing: Timing) -> float:
    """Seconds that autograd takes for one node, beside the operators: chains of 33 and of 1."""
    x = torch.ones(TINY, requires_grad=True)

    def chain(length: int) -> float:
        def call() -> Any:
            y = x
            for _ in range(length):
                y = y.view_as(y)
            return torch.autograd.grad(y, [x], x.detach())

        return timing.seconds(call_of(call))

    return max(0.0, (chain(33) - chain(1)) / 32)


# ---- the optimizer ------------------------------------------------------------------------------


def _optimizers() -> Iterator[
    tuple[str, str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]
]:
    for side in ("torch", "native"):
        yield side, "sgd", lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9)
        yield side, "adamw", lambda p: torch.optim.AdamW(p, lr=1e-4)


def probe_optimizers(
    timing: Timing, sizes: tuple[int, ...] = ELEMENTS
) -> list[tuple[str, str, int, float]]:
    """(side, name, elements of a parameter, seconds of one); on the native side divided by the loss
    scale too. As many parameters at once as hold some millions of elements, so that none of
    their states is in a cache."""
    rows = []
    for side, name, make in _optimizers():
        for size in sizes:
            many = max(1, min(64, (1 << 22) // size))
            parameters = [nn.Parameter(torch.zeros(size)) for _ in range(many)]
            for parameter in parameters:
                parameter.grad = torch.full((size,), 1e-3)
            optimizer = make(parameters)

            def step(
                optimizer: torch.optim.Optimizer = optimizer,
                parameters: list[nn.Parameter] = parameters,
                native: bool = side == "native",
            ) -> None:
                if native:
                    unscale_(parameters, 1.0)
                optimizer.step()

            rows.append((side, name, size, timing.seconds(call_of(step)) / many))
    return rows
