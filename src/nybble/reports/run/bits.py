"""What ran in how many bits: of every layer the two operands of its three Gemms.

Taken from the run's record (`layers`), which holds what the model really had when it was written.
Records of before that field, and runs that crashed before their record, are described by the looks
at their layers: four of the six operands, those that are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from nybble.reports.run.data import Run

__all__ = ["GEMMS", "Group", "Layer", "groups", "layers", "verdict"]

GEMMS: Final = ("output", "grad_input", "grad_weight")
_LOOKED: Final = {
    ("output", 0): "input",
    ("output", 1): "weight",
    ("grad_input", 0): "grad_input",
    ("grad_weight", 0): "grad_weight",
}


@dataclass(frozen=True)
class Layer:
    """operands: Gemm -> its two operands, (format, bits) each; None where it is not known."""

    name: str
    kind: str
    rule: str
    operands: dict[str, tuple[tuple[str, int] | None, tuple[str, int] | None]]
    backend: str = ""
    fallback: str = ""

    @property
    def bits(self) -> int:
        """The widest operand that is known; 32 where none is."""
        known = [o[1] for pair in self.operands.values() for o in pair if o is not None]
        return max(known, default=32)


@dataclass(frozen=True)
class Group:
    """Layers that were treated alike."""

    layers: tuple[Layer, ...]

    @property
    def first(self) -> Layer:
        """One of them."""
        return self.layers[0]


def layers(run: Run) -> tuple[list[Layer], bool]:
    """The layers of the run, and whether they come from its record (else from the looks)."""
    kept = (run.result or {}).get("layers")
    if isinstance(kept, list):
        found = [_of_record(entry) for entry in kept if isinstance(entry, dict)]
        return found, True
    return _of_looks(run), False


def _of_record(entry: dict[str, Any]) -> Layer:
    bits = [int(b) for b in re.findall(r"\d+", str(entry.get("bits", "")))]
    operands: dict[str, Any] = {}
    for gemm in (*GEMMS, "look-up"):
        if gemm not in entry:
            continue
        formats = str(entry[gemm]).split(" x ")
        pair, bits = bits[:2], bits[2:]
        if len(formats) == 2 and len(pair) == 2:
            both = tuple(zip(formats, pair, strict=True))
            operands[gemm] = (both[0], both[1] if pair[1] else None)
    return Layer(
        name=str(entry.get("layer", "")),
        kind=str(entry.get("type", "")),
        rule=str(entry.get("rule", "")),
        operands=operands,
        backend=str(entry.get("backend", "")),
        fallback=str(entry.get("fallback", "")),
    )


def _of_looks(run: Run) -> list[Layer]:
    if run.looks is None:
        return []
    found = []
    for name in run.looks.shown:
        operands: dict[str, Any] = {gemm: [None, None] for gemm in GEMMS}
        for (gemm, place), operand in _LOOKED.items():
            look = run.looks.last.get((name, operand))
            if look is not None:
                operands[gemm][place] = (str(look.get("format")), int(look.get("bits") or 32))
        pairs = {gemm: (pair[0], pair[1]) for gemm, pair in operands.items()}
        found.append(Layer(name, "", "", pairs))
    return found


def groups(found: Iterable[Layer]) -> list[Group]:
    """Layers with the same kind, formats and backend, in order of their first one.

    >>> same = {"output": (("int4", 4), ("int4", 4))}
    >>> [len(g.layers) for g in groups([Layer("a", "Conv2d", "r", same),
    ...     Layer("b", "Conv2d", "r", same), Layer("c", "Linear", "r", same)])]
    [2, 1]
    """
    by: dict[Any, list[Layer]] = {}
    for layer in found:
        key = (layer.kind, tuple(sorted(layer.operands.items())), layer.rule, layer.backend)
        by.setdefault(str(key), []).append(layer)
    return [Group(tuple(same)) for same in by.values()]


def verdict(found: list[Layer]) -> str:
    """How many layers multiply in 4 bits, in one sentence.

    >>> same = {"output": (("int4", 4), ("int4", 4))}
    >>> verdict([Layer("a", "Conv2d", "r", same), Layer("b", "Linear", "r", {})])
    '1 of 2 layers run all their multiplications in 4 bits.'
    """
    four = sum(layer.bits <= 4 for layer in found)
    some = sum(
        layer.bits > 4 and any(_both_four(pair) for pair in layer.operands.values())
        for layer in found
    )
    text = f"{four} of {len(found)} layers run all their multiplications in 4 bits"
    return f"{text}, {some} some of them." if some else f"{text}."


def _both_four(pair: tuple[tuple[str, int] | None, tuple[str, int] | None]) -> bool:
    return all(operand is not None and operand[1] <= 4 for operand in pair)
