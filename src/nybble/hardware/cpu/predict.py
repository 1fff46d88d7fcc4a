"""Time of a step on one core of a CPU, from what that core was measured to do.

    Gemm            multiply-adds / rate(kernel, product, operands, size) + what a call costs, and
                    on the native side what a layer does beside it (`probe_quantisers.beside`)
    anything else   elements x nanoseconds(name, elements)

Times add up: on one core nothing overlaps. Rates are interpolated (`Chip.rate`); kernels and sizes
are those of kernels.py. A step with converted Gemms runs on the native side, and takes torch's rows
where that has none. What one function does, a trace of torch's operators lists in pieces, which are
counted once:

recurrent layers    gates, states, sums of biases' gradients, copies, and the quantisation inside: a
                    recurrent rate is the whole layer's. Covered: tasks of the module that touch no
                    more than a step's gates, and the stacks and copies that gather a sequence.
attention           scale, mask, softmax, copies of heads: an attention rate is the whole
                    function's. Covered: every task of a layer that has attention's products and is
                    none of them.
16-bit layers       rounding of operands is inside their product, slice by slice.
ReLU behind a       converted: one function does both. The BatchNorm has the row BatchNorm2d+ReLU,
BatchNorm           the ReLU's tasks are covered. Found as `nybble.convert` finds it: what the ReLU
                    reads was written last by the BatchNorm, and nobody else reads it.
converted modules   BatchNorm2d, LayerNorm, GELU, ...: one row each way for all operators inside,
                    with the first of their tasks.
a gradient's two    one pass: the name joined by " + " has a row, else the rows of its parts.
operands

A task that no row covers is bytes over the bandwidth of the first memory that holds them, and is
listed in the notes.

Not done here: several cores; what an operator finds in a cache beyond what the probes imitate;
pages that malloc takes anew in a step (memory.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from nybble.errors import UserError
from nybble.hardware.chip import Chip
from nybble.hardware.cost import Cost, Estimate, peak_bytes
from nybble.hardware.cpu.kernels import (
    ATTENTION,
    RECURRENT,
    is_recurrent,
    kernel_of,
    owner_of,
    size_of,
)
from nybble.hardware.cpu.probe_modules import JOINED, MODULES
from nybble.hardware.cpu.probe_quantisers import beside, joined
from nybble.hardware.kinds import MOVE, OPTIMIZER, OUTPUT, QUANTISE
from nybble.hardware.machine import PICO
from nybble.hardware.operation import Gemm
from nybble.hardware.tasks import Task, Workload

__all__ = ["Predictor", "predict"]

GATHERS: Final = frozenset(("stack", "cat", "clone", "zeros", "copy_", "select_backward"))
_RELUS: Final = frozenset(("relu", "relu_"))
_NORM: Final = "native_batch_norm"
COVERED, MEASURED, BANDWIDTH = "covered", "measured", "bandwidth"


def predict(workload: Workload, chip: Chip) -> Estimate:
    """The costs of all tasks on one core.

    Raises:
        UserError: the chip has no measured rows.
    """
    predictor = Predictor(workload, chip)
    costs = tuple(predictor.cost(task) for task in workload.tasks)
    return Estimate(
        workload, chip, costs, tuple([*workload.notes, *predictor.notes()]), peak_bytes(workload)
    )


@dataclass
class _Layers:
    """What the tasks of a workload say about its layers."""

    attention: set[str] = field(default_factory=set)
    causal: set[str] = field(default_factory=set)
    gates: dict[str, int] = field(default_factory=dict)  # recurrent module -> elements of a step
    joined: dict[str, str] = field(default_factory=dict)  # BatchNorm -> its ReLU
    both_ways: set[str] = field(default_factory=set)  # layers with both backward products


def _layers(tasks: tuple[Task, ...]) -> _Layers:
    found = _Layers()
    products: dict[str, set[str]] = {}
    for task in tasks:
        if task.name in ("tril", "triu"):
            found.causal.add(task.layer)
        gemm = task.gemm
        if gemm is None:
            continue
        products.setdefault(task.layer, set()).add(gemm.which)
        kernel = kernel_of(task)
        if kernel == ATTENTION:
            found.attention.add(task.layer)
        elif kernel == RECURRENT and gemm.which == OUTPUT:
            # A step's result is that of the weight that waits for the step before.
            owner, one = owner_of(task.layer), gemm.m * gemm.n
            found.gates[owner] = min(found.gates.get(owner, one), one)
    found.both_ways = {name for name, which in products.items() if len(which) == 3}
    found.joined = _joined(tasks)
    return found


def _joined(tasks: tuple[Task, ...]) -> dict[str, str]:
    """BatchNorm layers to the ReLU that alone reads what they wrote last."""
    writer: dict[Hashable, tuple[str, str]] = {}
    readers: Counter[tuple[str, str]] = Counter()
    pairs: dict[str, str] = {}
    for task in tasks:
        if task.phase != "forward":
            continue
        for use in task.reads:
            made = writer.get(use.key)
            if made is None:
                continue
            readers[made] += 1
            if made[1] == _NORM and task.name in _RELUS and task.module == "ReLU":
                pairs[made[0]] = task.layer
        for use in task.writes:
            writer[use.key] = (task.layer, task.name)
    runs = Counter(t.layer for t in tasks if t.name in _RELUS)
    return {
        norm: relu for norm, relu in pairs.items() if readers[norm, _NORM] == 1 and runs[relu] == 1
    }


class Predictor:
    """Seconds of single tasks of one workload."""

    def __init__(self, workload: Workload, chip: Chip) -> None:
        if not chip.measured:
            raise UserError(
                f"{chip.file}: {chip.name} has no [[measured]] rows; `nybble hardware validate "
                "--save FILE` measures this machine's."
            )
        self.chip = chip
        self.native = any(task.converted for task in workload.tasks)
        self.side = "native" if self.native else "torch"
        self.layers = _layers(workload.tasks)
        self.relus = set(self.layers.joined.values())
        self.missing: dict[str, float] = {}
        self.clipped = {
            task.layer
            for task in workload.tasks
            if task.cause == QUANTISE and task.phase == "forward" and "pact(" in task.name
        }
        self.begun: dict[tuple[str, str], str] = {}

    def notes(self) -> list[str]:
        """What had no row, the longest first."""
        rows = sorted(self.missing.items(), key=lambda row: -row[1])
        return [
            f"{name} is not measured: bytes over bandwidth, {1e3 * s:.2f} ms" for name, s in rows
        ]

    def cost(self, task: Task) -> Cost:
        """One task, in the order in which they run."""
        seconds, bound = self._seconds(task)
        chip = self.chip
        ideal = 0.0
        engine = chip.engine_for(task.left.kind, task.right.kind) if task.gemm else None
        if engine is not None:
            ideal = task.macs / (engine.macs_per_cycle * chip.clock_ghz.value * 1e9)
        moved = 0.0
        if bound != COVERED:
            moved = sum(use.bytes * use.passes for use in task.reads)
            moved += sum(use.bytes for use in task.writes)
        joules = {"static": chip.static_w.value * seconds}
        if engine is not None:
            joules["engine"] = task.macs * engine.energy_pj.value * PICO
        else:
            joules["vector"] = task.operations * chip.vector.energy_pj.value * PICO
        main = chip.memories[-1]
        joules[main.name] = moved * main.pj_per_byte.value * PICO
        name = engine.name if engine else ""
        return Cost(task, seconds, seconds, bound, joules, {main.name: moved}, name, ideal)

    # ---- rules --------------------------------------------------------------------------------

    def _seconds(self, task: Task) -> tuple[float, str]:
        if task.gemm is not None:
            return self._gemm(task, task.gemm)
        if self._covered(task):
            return 0.0, COVERED
        if task.cause == QUANTISE:
            found = self.quantise(task.name, task.elements)
        elif self._is_module(task):
            return self._module(task)
        else:
            found = self._elements(task.name, task.elements)
        return (found, MEASURED) if found is not None else self._bandwidth(task)

    def _covered(self, task: Task) -> bool:
        """Whether another task's row holds this one; see the module."""
        if task.cause == OPTIMIZER:
            return False
        if task.layer in self.layers.attention:
            return True
        if task.cause == QUANTISE:
            inside = is_recurrent(task.layer)
            return inside or all(part.startswith("fp16") for part in task.name.split(" + "))
        gates = self.layers.gates.get(task.layer)
        if gates is not None:
            return task.elements <= gates or task.name in GATHERS or task.cause == MOVE
        return self.native and task.layer in self.relus

    def _is_module(self, task: Task) -> bool:
        """Whether a converted module does it: not its optimizer, and not the sum of gradients where
        its input has another reader, which autograd adds up itself."""
        outside = task.cause == OPTIMIZER or (task.phase == "backward" and task.name == "add")
        return self.native and task.module in MODULES and not outside

    def _module(self, task: Task) -> tuple[float, str]:
        """A converted module's row, whole with the first of its tasks each way."""
        name = JOINED if task.layer in self.layers.joined else task.module
        found = self._elements(f"{name}.{task.phase}", task.elements)
        if found is None:
            return self._bandwidth(task)
        # A module that runs again begins again with the same operator.
        first = self.begun.setdefault((task.layer, task.phase), task.name)
        return (found, MEASURED) if first == task.name else (0.0, COVERED)

    # ---- rows ---------------------------------------------------------------------------------

    def _gemm(self, task: Task, gemm: Gemm) -> tuple[float, str]:
        kernel = kernel_of(task, task.layer in self.layers.causal)
        # Attention on the native side is not converted: it is torch's, between packed operands.
        fused = kernel.startswith(ATTENTION)
        side = "native" if task.converted or (fused and self.native) else "torch"
        kinds = (task.left.kind, task.right.kind) if side == "native" and not fused else ("", "")
        size = size_of(gemm, kernel)
        asked = (size, gemm.which, *kinds)
        rate = self.chip.rate(side, kernel, *asked)
        if rate is None:
            rate = self.chip.rate(side, kernel.partition("_")[0], *asked)
        if rate is None:
            operands = f", {task.left.kind} x {task.right.kind}" if any(kinds) else ""
            return self._unknown(task, f"{kernel} {gemm.which}{operands}")
        seconds = task.macs / rate / 1e9
        if kernel in (RECURRENT, ATTENTION) or fused:
            return seconds, MEASURED  # the call is inside the rate
        if side == "native":
            parts = beside(gemm, task.left.kind, task.layer in self.clipped)
            seconds += sum(self.quantise(name, elements) or 0.0 for name, elements in parts)
        return seconds + self.call(side, gemm.which), MEASURED

    def call(self, side: str, which: str) -> float:
        """Seconds of a layer's call, for one of its products."""
        phase = "forward" if which == OUTPUT else "backward"
        found = self.chip.rate(side, f"call {phase}", 1.0)
        return 1e-6 * found if found is not None else 0.0

    def quantise(self, name: str, elements: float) -> float | None:
        """Seconds of quantising, by the name that a task has; None without a row."""
        whole = self._row("native", joined(name), elements)
        if whole is not None:
            return whole
        parts = [self._row("native", part, elements) for part in name.split(" + ")]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def _elements(self, name: str, elements: float) -> float | None:
        sides = ("native", "torch") if self.native else ("torch",)
        for side in sides:
            for known in (name, name.rstrip("_")):
                found = self._row(side, known, elements)
                if found is not None:
                    return found
        return None

    def _row(self, side: str, name: str, elements: float) -> float | None:
        rate = self.chip.rate(side, name, elements)
        return None if rate is None else 1e-9 * rate * elements

    # ---- without a row ------------------------------------------------------------------------

    def _bandwidth(self, task: Task) -> tuple[float, str]:
        moved = sum(use.bytes * use.passes for use in task.reads)
        moved += sum(use.bytes for use in task.writes)
        fitting = [m for m in self.chip.memories if moved <= m.bytes.value]
        memory = fitting[0] if fitting else self.chip.memories[-1]
        seconds = moved / (memory.gb_per_s.value * 1e9)
        self._miss(task.name, seconds)
        return seconds, BANDWIDTH

    def _unknown(self, task: Task, name: str) -> tuple[float, str]:
        """A Gemm without a row: as fast as its bytes, or as the peak of its engine."""
        engine = self.chip.engine_for(task.left.kind, task.right.kind)
        seconds, _ = self._bandwidth(task)
        self.missing.pop(task.name, None)
        if engine is not None:
            peak = engine.macs_per_cycle * self.chip.clock_ghz.value * 1e9
            seconds = max(seconds, task.macs / peak)
        self._miss(name, seconds)
        return seconds, BANDWIDTH

    def _miss(self, name: str, seconds: float) -> None:
        self.missing[name] = self.missing.get(name, 0.0) + seconds
