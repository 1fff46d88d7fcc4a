"""The cases of every family of golden vectors, by the name of its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from golden_cases import blocks, conv, core, gemm, lines, norm, quantize, recurrent
from golden_cases.values import Case, Value

__all__ = ["FAMILIES", "Case", "Value"]

FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "decode": core.decode,
    "micro": core.micro,
    "gemm": gemm.gemm,
    "conv": conv.conv,
    "quantize": quantize.quantize,
    "norm": norm.norm,
    "recurrent": recurrent.recurrent,
    "lines": lines.lines,
    "blocks": blocks.blocks,
}
