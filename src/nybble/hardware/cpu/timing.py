"""CPU seconds of one call, and of the products of one layer, with caches as in a network.

    time = median over samples of (CPU seconds of a run of calls / calls),  a run >= `floor` seconds

CPU time of the process on one thread: other processes on the machine do not count, though what they
do to caches and clock does.

Forward and backward of a function are timed as a network runs them: forward of many tensors
first, then their backward passes, in turn. So many (unless a call is long for its bytes) that
what forward keeps of the first has left the caches (`CACHE` bytes) before its backward comes;
what a forward reads, and the gradient that a backward reads, were written just before. A loop
over one tensor would find everything in the cache, and operators on elements take up to twice as
long in a network as in such a loop. The gradient belongs to nobody else: kernels may write over
it. Gradients of weights are stored as autograd stores them.

    output        forward, with what is kept for backward
    grad_input    backward with weight and bias frozen
    grad_weight   backward with an input that needs no gradient
    backward      all at once, of layers whose backward pass is one loop

Not done here: several threads; clocks of other devices.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from nybble.hardware.kinds import GEMMS, GRAD_INPUT, GRAD_WEIGHT, OUTPUT

__all__ = ["BACKWARD", "CACHE", "Timing", "call_of", "copies", "fresh", "time_layer", "time_passes"]

BACKWARD: Final = "backward"
CACHE: Final = 1 << 25
MOST: Final = 256
LONG: Final = 0.1
Part = Callable[[], tuple[float, int]]
"""Does some calls and returns the CPU seconds of what is to be timed of them, and their number."""


@dataclass(frozen=True)
class Timing:
    """How long a probe looks: `repeats` samples of at least `floor` CPU seconds each."""

    repeats: int = 6
    floor: float = 0.010

    @property
    def passes(self) -> int:
        """How often a table of probes is gone through: samples of one row are spread over time.

        >>> Timing(6).passes, Timing(6).part().repeats, Timing(1).passes
        (3, 2, 1)
        """
        return max(1, min(3, self.repeats))

    def part(self) -> Timing:
        """What each pass takes of the samples."""
        return replace(self, repeats=-(-max(1, self.repeats) // self.passes))

    def seconds(self, part: Part) -> float:
        """The median over samples of the mean CPU seconds of a call.

        >>> Timing(repeats=3, floor=0.0).seconds(lambda: (0.5, 2))
        0.25
        """
        part()
        return statistics.median(self._sample(part) for _ in range(max(1, self.repeats)))

    def _sample(self, part: Part) -> float:
        spent, calls = 0.0, 0
        start = time.perf_counter()
        # What is done around a part that is timed may take far longer than the part.
        while not calls or (spent < self.floor and time.perf_counter() - start < 5 * self.floor):
            seconds, some = part()
            spent, calls = spent + seconds, calls + some
        return max(spent, 1e-9) / calls


def copies(size: int, most: int = MOST) -> int:
    """How many tensors (or pairs) of `size` bytes do not stay in a cache together.

    >>> copies(1 << 23), copies(64)
    (4, 256)
    """
    return max(1, min(most, -(-CACHE // max(1, size))))


def call_of(call: Callable[[], Any], keep: int = 1) -> Part:
    """The whole call is timed. The last `keep` results are held, as what forward makes is held for
    backward: a call's result then lies in memory that has not been used for a while."""
    held: list[Any] = [None] * keep

    def part() -> tuple[float, int]:
        spent = 0.0
        for place in range(keep):
            held[place] = None
            start = time.process_time()
            found = call()
            spent += time.process_time() - start
            held[place] = found
        return spent, keep

    return part


class _Hand(torch.autograd.Function):
    """`apply(y, box)`: a scalar whose backward hands over the gradient in `box`, and forgets it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, box: list[Tensor]) -> Tensor:
        ctx.box = box
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.box.pop(), None


class _Fresh(torch.autograd.Function):
    """`apply(x)`: a copy that is nobody else's, and no leaf; its gradient is passed on as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def fresh(leaf: Tensor) -> Tensor:
    """What a function gets that may write over its input."""
    made: Tensor = _Fresh.apply(leaf)  # type: ignore[no-untyped-call]
    return made


def _written(leaf: Tensor) -> Tensor:
    """The leaf itself, written just now."""
    leaf.detach().add_(0.0)
    return leaf


Graph = Callable[[Tensor], Tensor]


def time_passes(
    function: Graph,
    x: Tensor,
    timing: Timing,
    weights: Sequence[Tensor] = (),
    *,
    learns: bool = True,
    owned: bool = False,
    backward: bool = True,
) -> tuple[float, float]:
    """CPU seconds of forward and backward of `function` on `x`, whose gradient is asked for if it
    `learns`, beside those of `weights`. owned: the function gets a tensor that is its own. Without
    `backward` the second number is zero.

    >>> both = time_passes(torch.relu, torch.ones(4, 4), Timing(1, 0.0))
    >>> min(both) > 0
    True
    """
    with torch.no_grad():
        function(x.clone())
        mine = x.clone()
        start = time.process_time()
        y = function(mine)
        # What takes long for its bytes does not depend on where they are.
        most = max(1, int(LONG / max(time.process_time() - start, 1e-9)))
        gradient = torch.empty_like(y).normal_(std=1e-3)
        many = copies(x.nbytes + y.nbytes, min(MOST, most))
        del y, mine
    leaves = [x.detach().clone().requires_grad_(learns) for _ in range(many)]
    spent = [0.0, 0.0]

    def forward() -> list[tuple[Tensor, list[Tensor]]]:
        graphs = []
        for leaf in leaves:
            box = [fresh(leaf) if owned else _written(leaf)]
            start = time.process_time()
            y = function(box.pop())
            spent[0] += time.process_time() - start
            hand: list[Tensor] = []
            graphs.append((_Hand.apply(y, hand), hand))  # type: ignore[no-untyped-call]
            del y
        return graphs

    def back(graphs: list[tuple[Tensor, list[Tensor]]]) -> None:
        for place, leaf in enumerate(leaves):
            loss, hand = graphs[place]
            hand.append(gradient.clone())
            wanted = [*([leaf] if learns else []), *weights]
            graphs[place] = (gradient, hand)  # nothing else holds the graph
            start = time.process_time()
            torch.autograd.backward(loss, inputs=wanted)
            spent[1] += time.process_time() - start
            for tensor in wanted:
                tensor.grad = None

    samples: tuple[list[float], list[float]] = ([], [])

    def run() -> None:
        graphs = forward()
        if backward:
            back(graphs)

    run()  # kernels are made, scales found, pages touched
    for _ in range(max(1, timing.repeats)):
        spent[:] = [0.0, 0.0]
        calls, start = 0, time.perf_counter()
        while not calls or (
            min(spent[: 1 + backward]) < timing.floor
            and time.perf_counter() - start < 5 * timing.floor
        ):
            run()
            calls += many
        for sample, seconds in zip(samples, spent, strict=True):
            sample.append(seconds / calls)
    return statistics.median(samples[0]), statistics.median(samples[1])


def time_layer(
    layer: nn.Module,
    x: Tensor,
    timing: Timing,
    which: tuple[str, ...] = GEMMS,
    learning: bool = True,
) -> dict[str, float]:
    """CPU seconds of the products of `layer` on `x`, which needs a gradient in `backward` if
    `learning`; the layer is left as it was.

    >>> found = time_layer(nn.Linear(8, 8), torch.ones(4, 8), Timing(1, 0.0))
    >>> sorted(found), min(found.values()) > 0
    (['grad_input', 'grad_weight', 'output'], True)
    """
    layer.train()
    weights = [p for n, p in layer.named_parameters() if _leaf(n).startswith("weight")]
    biases = [p for n, p in layer.named_parameters() if _leaf(n).startswith("bias")]
    clips = [p for p in layer.parameters() if all(p is not q for q in (*weights, *biases))]
    before = [(p, p.requires_grad) for p in layer.parameters()]
    found: dict[str, float] = {}

    def function(value: Tensor) -> Tensor:
        y = layer(value)
        first: Tensor = y[0] if isinstance(y, tuple) else y
        return first

    try:
        for gemm in which:
            _freeze([*weights, *biases, *clips], True)
            learns, wanted = learning, [*weights, *biases]
            if gemm == GRAD_INPUT:
                _freeze([*weights, *biases], False)
                learns, wanted = True, []
            elif gemm == GRAD_WEIGHT:
                _freeze([*biases, *clips], False)
                learns, wanted = False, weights
            forward, backward = time_passes(
                function, x, timing, wanted, learns=learns, backward=gemm != OUTPUT
            )
            found[gemm] = forward if gemm == OUTPUT else backward
    finally:
        for parameter, learns in before:
            parameter.requires_grad_(learns)
    return found


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _freeze(parameters: list[nn.Parameter], learns: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(learns)
