"""A step as a machine meets it: tasks in order, with the bytes and the kinds of their operands."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from nybble.hardware.operation import Gemm
from nybble.hardware.quantise import Operand

__all__ = ["FLOAT32", "Task", "Use", "Workload"]

FLOAT32: Final = Operand("fp32", 32)


@dataclass(frozen=True)
class Use:
    """A tensor of so many bytes that is read (`passes` times) or written."""

    key: Hashable
    bytes: float
    passes: int = 1


@dataclass(frozen=True)
class Task:
    """One piece of work: a Gemm, or operations on elements."""

    cause: str
    layer: str
    module: str
    phase: str
    name: str
    reads: tuple[Use, ...]
    writes: tuple[Use, ...]
    elements: int = 0
    operations: float = 0.0
    gemm: Gemm | None = None
    left: Operand = FLOAT32
    right: Operand = FLOAT32
    repeat: int = 1
    converted: bool = False

    @property
    def macs(self) -> int:
        """Multiply-adds, of every repetition."""
        return self.gemm.macs * self.repeat if self.gemm else 0


@dataclass(frozen=True)
class Workload:
    """The tasks of one step. `uncovered`: (operator, layer, module) that no table knows;
    `float_layers`: layers whose Gemms the recipe leaves in float32."""

    name: str
    recipe: str
    batch: int
    tasks: tuple[Task, ...]
    uncovered: tuple[tuple[str, str, str], ...]
    float_layers: tuple[tuple[str, str], ...]
    parameters: int
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of all Gemms."""
        return sum(task.macs for task in self.tasks)
