"""What a traced step is made of: operators, their Gemms, and the tensors that they touch.

Numbers of elements and operations only: the width of an operand comes with a recipe (workload.py).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Access", "Gemm", "Op"]


@dataclass(frozen=True)
class Access:
    """A tensor that is read or written: which storage, how many elements of it, and whether they
    are numbers (whose width the machine chooses) or indices and masks of `bits` bits."""

    storage: int
    elements: int
    bits: int | None = None
    parameter: str = ""


@dataclass(frozen=True)
class Gemm:
    """`count` products [m, k] x [k, n] of one shape.

    taps: of a convolution; a factor of the dimension `tapped` ("k" or "n"). left, right, result are
    the operands and the result with the elements that really exist. image: pixels of one
    example's input, of a convolution.
    """

    which: str
    count: int
    m: int
    n: int
    k: int
    left: Access
    right: Access
    result: Access
    taps: int = 1
    tapped: str = "k"
    kernel: str = "matmul"
    stride: int = 1
    image: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Op:
    """One operator: its layer, where in the step, and what it touches."""

    name: str
    layer: str
    phase: str
    cause: str
    elements: int
    operations: int
    passes: int
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    gemm: Gemm | None = None
    module: str = ""
