"""Which call a recomputed forward repeats: gradient checkpointing must draw the same random bits.

A training forward has a number, the `call` of its random key. A recomputation (a forward while
autograd's engine runs) has no number of its own; it is recognised by its input, whose bits it
shares with the forward that it repeats:

    fingerprint(x) = sum over i of bits(x_i) * (2 i + 1)   mod 2^64,  i in the order of memory

The weights make it depend on the order of the elements. Of a large input the sum reads 64 pieces
of 1,024 elements at equal distances: the whole of it would cost a pass over memory in every
forward. Forwards with equal inputs are repeated last first, the order in which autograd walks back.
Only layers that round stochastically pay for it. Not done: two inputs inside one checkpointed
segment that are equal (in all that is read), which are repeated first to last.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from nybble.ops.native import core, streams
from nybble.quantizers.layout import flatten

KEPT = 1024
"""Inputs that are remembered: forwards between a forward and its recomputation, at most."""
PIECES, PIECE = 64, 1024
"""Of an input that are read, and elements of each."""


class Calls:
    """The calls of the latest forwards, by the fingerprint of their input.

    >>> calls = Calls()
    >>> x = torch.ones(2)
    >>> calls.note(x, 1)
    >>> calls.note(x, 2)
    >>> calls.repeat(x), calls.repeat(x), calls.repeat(x + 1)
    (2, 1, None)
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, list[int]] = OrderedDict()

    def note(self, x: Tensor, call: int) -> None:
        """A forward with input `x` has the number `call`."""
        mark = fingerprint(x)
        self._seen.setdefault(mark, []).append(call)
        self._seen.move_to_end(mark)
        del self._seen[mark][:-KEPT]
        if len(self._seen) > KEPT:
            self._seen.popitem(last=False)

    def repeat(self, x: Tensor) -> int | None:
        """The number of the forward that a recomputation with input `x` repeats, None if unknown.

        The number goes to the other end of the queue: a graph that is kept may be walked again.
        """
        numbers = self._seen.get(fingerprint(x))
        if not numbers:
            return None
        number = numbers.pop()
        numbers.insert(0, number)
        return number


def fingerprint(x: Tensor) -> int:
    """See the module.

    >>> a = torch.tensor([1.0, 2.0])
    >>> fingerprint(a) == fingerprint(a.clone()), fingerprint(a) == fingerprint(a.flip(0))
    (True, False)
    >>> large = torch.arange(100_000.0)
    >>> [fingerprint(large) == fingerprint(other) for other in (large.clone(), large + 1)]
    [True, False]
    """
    flat = flatten(x.detach())
    if flat.numel() > PIECES * PIECE:
        pieces = flat[: flat.numel() // PIECES * PIECES].view(PIECES, -1)
        flat = pieces[:, :PIECE].reshape(-1)
    # A slice of a matrix's columns flattens to a view with gaps.
    flat = flat.to(torch.float32).resolve_neg().contiguous()
    if type(x) in (Tensor, torch.nn.Parameter) and x.is_cpu and core()[0] is not None:
        return streams.fingerprint(flat)
    bits = flat.view(torch.int32).to(torch.int64)
    weights = torch.arange(bits.numel(), device=bits.device).mul_(2).add_(1)
    return int((bits * weights).sum().item())
