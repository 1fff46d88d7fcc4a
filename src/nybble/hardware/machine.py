"""Time and energy of a workload on a chip.

Of one task, everything overlaps, and the slowest part decides:

    time = max(computing, memory 0, memory 1, ...), and never less than the launch

computing   a Gemm: the cycles of its cut (tiling.py) at the clock; other tasks: operations over
            what the vector units of all cores do.
memory      bytes that cross it over its bandwidth. Into the main memory go only those tensors that
            are not on chip: a tensor stays there after it was touched until others of the same size
            as the memory have been (least recently used first), and one that nobody reads again is
            never written back. A task that follows the one that made its input takes it as it comes
            (`chained`), however large, unless it needs two passes.
scales      a Gemm whose operands share scales in blocks along the sum pays, on an engine that does
            not know them, one multiply-add of the vector unit for every result and block.

    energy = MACs x engine + operations x vector unit + bytes x memory, and static power x time

Every chip works on its own part of the batch; gradients are then added over the link by a ring:
2 (chips - 1) / chips of their bytes out of every chip.

Not done here: overlap between tasks, of communication with backward for instance (an upper bound of
it is stated by whoever asks); clocks that fall with the load; sparsity.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from nybble.errors import UserError
from nybble.hardware.chip import Chip, Engine
from nybble.hardware.cost import Cost, Estimate, peak_bytes
from nybble.hardware.kinds import COMMUNICATION
from nybble.hardware.tasks import Task, Use, Workload
from nybble.hardware.tiling import Array, Shape, best_cut, traffic

__all__ = ["PICO", "estimate"]

PICO: Final = 1e-12
_WIDER: Final = {"fp32": "fp16"}


def estimate(workload: Workload, chip: Chip, communication_bits: int = 0) -> Estimate:
    """Time and energy of a workload, one chip's part of the batch, on every chip of a machine.

    `communication_bits`: of a gradient on the link, 0 for none.

    Raises:
        UserError: a kind of operand that no engine of the chip takes.
    """
    if chip.measured:
        from nybble.hardware.cpu.predict import predict

        return predict(workload, chip)
    machine = _Machine(chip, workload)
    costs = [machine.run(place, task) for place, task in enumerate(workload.tasks)]
    if communication_bits and chip.chips.value > 1:
        costs.append(machine.communicate(workload, communication_bits))
    needed = peak_bytes(workload)
    notes = [*workload.notes, *machine.notes]
    held = chip.memories[-1].bytes.value
    if needed > held:
        notes.append(
            f"needs {needed / 1e9:.0f} GB on a chip, {chip.name} has {held / 1e9:.0f}: the figures "
            "are those of one with enough"
        )
    return Estimate(workload, chip, tuple(costs), tuple(notes), needed)


class _Machine:
    """What is on chip while the tasks run one after the other."""

    def __init__(self, chip: Chip, workload: Workload) -> None:
        self.chip = chip
        self.tasks = workload.tasks
        self.cores = int(chip.cores.value)
        self.clock = chip.clock_ghz.value * 1e9
        self.notes: dict[str, None] = {}
        self.held: OrderedDict[Hashable, float] = OrderedDict()
        self.dirty: set[Hashable] = set()
        self.before: set[Hashable] = set()
        self.last: dict[Hashable, int] = {}
        for place, task in enumerate(workload.tasks):
            for use in task.reads:
                self.last[use.key] = place
        inner = chip.memories[-2]
        self.capacity = inner.bytes.value * (1 if inner.shared else self.cores)

    # ---- one task -----------------------------------------------------------------------------

    def run(self, place: int, task: Task) -> Cost:
        follows = self._follows(task)  # before `_main` moves on
        from_main, to_main, spilled = self._main(place, task)
        engine: Engine | None = None
        ideal = 0.0
        crossed: dict[str, float] = {}
        if task.gemm is not None:
            engine, computing, ideal, crossed = self._gemm(task)
            # What is on chip is not fetched, and the result leaves only if it has to.
            name = self.chip.memories[-1].name
            spared = sum(use.bytes for use in task.reads) - from_main + task.writes[0].bytes
            crossed[name] = max(0.0, crossed[name] - spared) + to_main + spilled
        else:
            computing = self._vector(task)
            moved = sum(use.bytes * use.passes for use in task.reads)
            moved += sum(use.bytes for use in task.writes)
            for memory in self.chip.memories[:-1]:
                crossed[memory.name] = moved
            crossed[self.chip.memories[-1].name] = from_main + to_main + spilled
        seconds, bound = computing, "computing"
        for memory in self.chip.memories:
            bandwidth = memory.gb_per_s.value * 1e9
            if not memory.shared and memory is not self.chip.memories[-1]:
                bandwidth *= self.cores
            spent = crossed[memory.name] / bandwidth
            if spent > seconds:
                seconds, bound = spent, memory.name
        launch = 0.0 if follows else self.chip.per_operation_us.value * 1e-6
        if launch > seconds:
            seconds, bound = launch, "launch"
        return Cost(
            task,
            seconds,
            computing,
            bound,
            self._joules(task, engine, crossed, seconds),
            crossed,
            engine.name if engine else "",
            ideal,
        )

    def communicate(self, workload: Workload, bits: int) -> Cost:
        """Adding up the gradients of all chips, in a ring."""
        link = self.chip.link
        if link is None:
            raise UserError(
                f"{self.chip.file}: {self.chip.name} has several chips but no [link] table, so the "
                "time of adding up gradients is unknown."
            )
        chips = self.chip.chips.value
        out = 2 * (chips - 1) / chips * workload.parameters * bits / 8
        seconds = out / (link.gb_per_s.value * 1e9) + 2 * (chips - 1) * link.latency_us.value * 1e-6
        task = Task(COMMUNICATION, "", "", "step", f"ring of {bits}-bit gradients", (), ())
        joules = {
            "link": out * link.pj_per_byte.value * PICO,
            "static": self.chip.static_w.value * seconds,
        }
        return Cost(task, seconds, 0.0, "link", joules, {}, "", 0.0)

    def _follows(self, task: Task) -> bool:
        """Whether it takes the results of the task before as they come: no launch of its own."""
        chained = self.chip.vector.chained and task.gemm is None
        return chained and any(use.key in self.before for use in task.reads)

    # ---- main memory --------------------------------------------------------------------------

    def _main(self, place: int, task: Task) -> tuple[float, float, float]:
        """(bytes read from main memory, bytes written to it, bytes pushed out to it)."""
        read = written = spilled = 0.0
        chained = self.chip.vector.chained and task.gemm is None
        for use in task.reads:
            if use.key in self.held:
                self.held.move_to_end(use.key)
                continue
            passes = use.passes - (1 if chained and use.key in self.before else 0)
            read += use.bytes * passes
            spilled += self._hold(place, use, dirty=False)
        for use in task.writes:
            needed = self.last.get(use.key, -1) > place or task.phase == "step"
            if use.bytes > self.capacity:
                # It streams out, unless the next task alone takes it as it comes.
                written += use.bytes if needed and not self._only_next(place, use) else 0.0
            elif needed:
                spilled += self._hold(place, use, dirty=True)
        self.before = {use.key for use in task.writes}
        for use in (*task.reads, *task.writes):
            if self.last.get(use.key, -1) <= place and task.phase != "step":
                self.held.pop(use.key, None)
                self.dirty.discard(use.key)
        return read, written, spilled

    def _only_next(self, place: int, use: Use) -> bool:
        """Whether nobody but the next task needs it, and that one only once as it comes."""
        if not self.chip.vector.chained or self.last.get(use.key, -1) != place + 1:
            return False
        task = self.tasks[place + 1]
        return task.gemm is None and all(u.passes == 1 for u in task.reads if u.key == use.key)

    def _hold(self, place: int, use: Use, dirty: bool) -> float:
        """Keep a tensor on chip; the bytes of what has to leave for it."""
        if use.bytes > self.capacity:
            return 0.0
        self.held[use.key] = use.bytes
        self.held.move_to_end(use.key)
        if dirty:
            self.dirty.add(use.key)
        out = 0.0
        while sum(self.held.values()) > self.capacity:
            key, size = self.held.popitem(last=False)
            if key in self.dirty:
                self.dirty.discard(key)
                out += size
        return out

    # ---- computing ----------------------------------------------------------------------------

    def _engine(self, task: Task) -> tuple[Engine, str, str]:
        gemm = task.gemm
        assert gemm is not None
        left, right = task.left.kind, task.right.kind
        tried = [(left, right), (_WIDER.get(left, left), _WIDER.get(right, right))]
        for a, b in tried:
            engine = self.chip.engine_for(a, b)
            if engine is not None:
                if "fp32" in (left, right) and engine.name.startswith("fp16"):
                    self.notes[
                        f"float32 operands run on {self.chip.name}'s {engine.name} engine"
                    ] = None
                return engine, a, b
        raise UserError(
            f"{self.chip.name} ({self.chip.file}) has no engine for {left} x {right}, which "
            f"{task.layer or 'the model'} needs; give one of its [[engine]] tables these operands."
        )

    def _gemm(self, task: Task) -> tuple[Engine, float, float, dict[str, float]]:
        gemm = task.gemm
        assert gemm is not None
        engine, _, _ = self._engine(task)
        out = task.writes[0].bytes
        shape = Shape(
            *(gemm.count, gemm.m, gemm.n, gemm.k),
            *(task.reads[0].bytes, task.reads[1].bytes, out),
            gemm.taps,
            gemm.tapped,
        )
        chip = self.chip
        array = Array(
            *(int(engine.m.value), int(engine.n.value), int(engine.k.value)),
            engine.dataflows,
            engine.flattens,
        )
        cut = best_cut(shape, array, self.cores)
        computing = cut.cycles / self.clock
        ideal = shape.macs / (engine.macs_per_cycle * self.cores) / self.clock
        crossed: dict[str, float] = {}
        for place, memory in enumerate(chip.memories):
            if place == 0:
                crossed[memory.name] = _array_traffic(shape, array, cut.dataflow)
                continue
            inner = chip.memories[place - 1]
            together = inner.shared or inner.multicast
            if together:
                size = inner.bytes.value * (1 if inner.shared else self.cores)
                crossed[memory.name] = traffic(shape, size)
            else:
                part = cut.shape
                own = Shape(
                    *(part.count, part.m, part.n, part.k),
                    shape.a / (cut.parts[0] * cut.parts[1] * cut.parts[3]),
                    shape.b / (cut.parts[0] * cut.parts[2] * cut.parts[3]),
                    shape.c / (cut.parts[0] * cut.parts[1] * cut.parts[2]),
                    part.taps,
                    part.tapped,
                )
                crossed[memory.name] = traffic(own, inner.bytes.value) * cut.cores
        block = max(task.left.block, task.right.block)
        if block and not engine.block_scales:
            multiplies = shape.macs / block
            computing += multiplies / self._vector_rate()
        repeat = task.repeat
        return (
            engine,
            computing * repeat,
            ideal * repeat,
            {name: size * repeat for name, size in crossed.items()},
        )

    def _vector_rate(self) -> float:
        return self.chip.vector.per_cycle.value * self.cores * self.clock

    def _vector(self, task: Task) -> float:
        return task.operations / self._vector_rate()

    def _joules(
        self, task: Task, engine: Engine | None, crossed: dict[str, float], seconds: float
    ) -> dict[str, float]:
        chip = self.chip
        joules = {memory.name: 0.0 for memory in chip.memories}
        for memory in chip.memories:
            joules[memory.name] = crossed[memory.name] * memory.pj_per_byte.value * PICO
        joules["static"] = chip.static_w.value * seconds
        operations = task.operations
        if engine is not None:
            joules["engine"] = task.macs * engine.energy_pj.value * PICO
            block = max(task.left.block, task.right.block)
            if block and not engine.block_scales:
                operations += task.macs / block
        joules["vector"] = operations * chip.vector.energy_pj.value * PICO
        return joules


def _array_traffic(shape: Shape, array: Array, dataflow: str) -> float:
    """Bytes between the inmost memory and the arrays: the held operand once, the streamed one for
    every fold of the columns; partial sums wait in the array's own accumulators."""
    if dataflow == "output":
        times_a = math.ceil(shape.n / array.n)
        times_b = math.ceil(shape.m / (array.m * array.k))
        return shape.a * times_a + shape.b * times_b + shape.c
    held, streamed, width = (shape.b, shape.a, shape.n)
    if dataflow == "input":
        held, streamed, width = (shape.a, shape.b, shape.m)
    return held + streamed * math.ceil(width / array.n) + shape.c
