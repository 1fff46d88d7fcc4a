"""Energy of single operations in two processes, and of the bare arithmetic of a multiply-add.

    energy of a multiply-add = multiply (or shift) + add to the sum

    integers    a product of b x c bits takes (b / 8)(c / 8) of an INT8 multiply, as a multiplier's
                area goes with the product of the widths: a quarter for 4 x 4 bits (assumed);
                added in 32 bits
    fp4 x int   no multiplier: a power of two or four shifts the integer. A shift is taken to cost
                what a 32-bit add costs (assumed, and high: it moves 4 bits over 16); added in 32
                bits
    fp16        FP16 multiply, FP32 add
    fp32        FP32 multiply, FP32 add

Source: energy.toml, after Horowitz (ISSCC 2014) and Jouppi et al. (ISCA 2021), with the certainty
of each entry. Not done here: bringing operands to the multiplier, which costs as much again or more
(the chip files count it); FP8, FP4 E2M1 and mixtures of floating point, which neither table has.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

from nybble.errors import UserError, suggest

__all__ = ["Energy", "Mac", "Node", "fp16_over_fp4", "get_node", "mac", "node_names"]

_BITS: Final = {"int2": 2, "int4": 4, "table4": 8, "int8": 8}
_FLOATS: Final = ("fp16", "fp32")
_KINDS: Final = (*_BITS, "fp4", *_FLOATS)
_ACCESS_BYTES: Final = 8


@dataclass(frozen=True)
class Energy:
    """Of one operation, in picojoules; `most_pj` is the upper end of a range, else the same."""

    pj: float
    most_pj: float
    source: str
    confidence: str

    @property
    def middle_pj(self) -> float:
        """
        >>> get_node("7nm").energy("hbm2").middle_pj
        350.0
        """
        return (self.pj + self.most_pj) / 2


@dataclass(frozen=True)
class Node:
    """A process and its table."""

    name: str
    title: str
    operations: Mapping[str, Energy]

    def energy(self, operation: str) -> Energy:
        """The table's entry.

        Raises:
            UserError: the table has no such operation.

        >>> get_node("7nm").energy("int8_mul").pj
        0.07
        """
        if operation not in self.operations:
            raise UserError(
                f"The {self.name} table has no operation '{operation}'; choose one of "
                f"{', '.join(self.operations)}.{suggest(operation, self.operations)}"
            )
        return self.operations[operation]

    def pj_per_byte(self, memory: str) -> float:
        """Of a memory row, whose entries are accesses of 64 bits; the middle of a range.

        Raises:
            UserError: the table has no such memory.

        >>> get_node("7nm").pj_per_byte("hbm2"), get_node("7nm").pj_per_byte("sram_1mb")
        (43.75, 1.75)
        """
        memories = [name for name in self.operations if not name.endswith(("_add", "_mul"))]
        if memory not in memories:
            raise UserError(
                f"The {self.name} table has no memory '{memory}'; choose one of "
                f"{', '.join(memories)}.{suggest(memory, memories)}"
            )
        return self.operations[memory].middle_pj / _ACCESS_BYTES


@dataclass(frozen=True)
class Mac:
    """The bare arithmetic of a multiply-add: its parts in picojoules, by name."""

    left: str
    right: str
    node: str
    parts: Mapping[str, float]

    @property
    def pj(self) -> float:
        """All parts."""
        return sum(self.parts.values())


def node_names() -> tuple[str, ...]:
    """The processes that have a table.

    >>> node_names()
    ('45nm', '7nm')
    """
    return tuple(_nodes())


def get_node(name: str) -> Node:
    """A process by name.

    Raises:
        UserError: an unknown name.
    """
    nodes = _nodes()
    if name not in nodes:
        raise UserError(
            f"No energy table for '{name}'; choose one of {', '.join(nodes)}.{suggest(name, nodes)}"
        )
    return nodes[name]


def mac(left: str, right: str, node: str) -> Mac:
    """The bare arithmetic of one multiply-add of two kinds of operands, in either order.

    Raises:
        UserError: an unknown kind or process, or a pair that the tables give no energy for.

    >>> mac("int8", "int8", "7nm").parts
    {'multiply': 0.07, 'add': 0.03}
    >>> round(mac("int4", "int4", "7nm").pj, 4), round(mac("fp4", "int4", "7nm").pj, 4)
    (0.0475, 0.06)
    >>> round(mac("fp16", "fp16", "45nm").pj, 4)
    2.0
    """
    for kind in (left, right):
        if kind not in _KINDS:
            raise UserError(
                f"No energy of a multiply-add can be derived for '{kind}'; choose of "
                f"{', '.join(_KINDS)}.{suggest(kind, _KINDS)}"
            )
    table = get_node(node)
    add = table.energy("int32_add").pj
    if left in _BITS and right in _BITS:
        share = _BITS[left] * _BITS[right] / 64
        parts = {"multiply": table.energy("int8_mul").pj * share, "add": add}
    elif (left == "fp4" and right in _BITS) or (right == "fp4" and left in _BITS):
        parts = {"shift": add, "add": add}
    elif left == right and left in _FLOATS:
        parts = {"multiply": table.energy(f"{left}_mul").pj, "add": table.energy("fp32_add").pj}
    else:
        raise UserError(
            f"No energy of a multiply-add can be derived for {left} x {right}: integers go with "
            "integers or fp4, fp16 with fp16, fp32 with fp32."
        )
    return Mac(left, right, node, parts)


def fp16_over_fp4(node: str) -> float:
    """How many times the arithmetic of FP4 x INT4 that of FP16 takes.

    Raises:
        UserError: an unknown process.

    >>> [round(fp16_over_fp4(node), 1) for node in node_names()]
    [10.0, 12.0]
    """
    return mac("fp16", "fp16", node).pj / mac("fp4", "int4", node).pj


@lru_cache
def _nodes() -> Mapping[str, Node]:
    text = resources.files(__package__).joinpath("energy.toml").read_text(encoding="utf-8")
    return {
        name: Node(name, table["title"], {k: _energy(v) for k, v in table["operations"].items()})
        for name, table in tomllib.loads(text).items()
    }


def _energy(entry: Mapping[str, str | float]) -> Energy:
    low = float(entry["value"])
    most = float(entry.get("most", low))
    return Energy(low, most, str(entry["source"]), str(entry["confidence"]))
