"""What a step costs, task by task and summed: seconds, joules, bytes and what decided the time.

machine.py makes these from the model of a machine, cpu/predict.py from measured rates.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from nybble.hardware.chip import Chip
from nybble.hardware.tasks import Task, Workload

__all__ = ["Cost", "Estimate", "peak_bytes"]


@dataclass(frozen=True)
class Cost:
    """Of one task: seconds (`stalled` of them beyond computing), joules by place, bytes by memory.

    `engine` is what multiplied, "" for the vector unit. `bound` names what decided the time.
    """

    task: Task
    seconds: float
    computing: float
    bound: str
    joules: dict[str, float]
    bytes: dict[str, float]
    engine: str
    ideal: float

    @property
    def stalled(self) -> float:
        """Seconds in which nothing was computed."""
        return max(0.0, self.seconds - self.computing)

    @property
    def energy(self) -> float:
        """Joules, static power included."""
        return sum(self.joules.values())


@dataclass(frozen=True)
class Estimate:
    """A step on a machine. Seconds are of the step; joules of all its chips."""

    workload: Workload
    chip: Chip
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]
    memory_bytes: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return sum(cost.seconds for cost in self.costs)

    @property
    def joules(self) -> float:
        """Of the whole step on all chips."""
        return sum(cost.energy for cost in self.costs) * self.chip.chips.value

    @property
    def chip_joules(self) -> float:
        """Without main memory and links: what a chip's own watts are."""
        outside = (self.chip.memories[-1].name, "link")
        own = (sum(j for n, j in c.joules.items() if n not in outside) for c in self.costs)
        return sum(own) * self.chip.chips.value

    @property
    def chip_tops_per_watt(self) -> float:
        """Operations of Gemms a joule of the chips, in units of 1e12."""
        return self._operations / self.chip_joules / 1e12 if self.chip_joules else 0.0

    @property
    def _operations(self) -> float:
        """Of all chips in Gemms, two to a MAC."""
        return 2.0 * self.workload.macs * self.chip.chips.value

    @property
    def tops(self) -> float:
        """Operations a second in Gemms of the whole machine, over the whole step, in 1e12."""
        return self._operations / self.seconds / 1e12 if self.seconds else 0.0

    @property
    def tops_per_watt(self) -> float:
        """Operations of Gemms a joule, main memory and links included, in units of 1e12."""
        return self._operations / self.joules / 1e12 if self.joules else 0.0

    @property
    def utilisation(self) -> float:
        """Time that the Gemms would take at the peaks of the engines they run on, over the time of
        the step."""
        return sum(cost.ideal for cost in self.costs) / self.seconds if self.seconds else 0.0

    @property
    def gemm_seconds(self) -> float:
        """Of the Gemms alone."""
        return sum(cost.seconds for cost in self.costs if cost.task.gemm)

    def by(self, what: str) -> dict[str, dict[str, float]]:
        """Seconds, joules (of all chips), MACs and bytes of main memory by "cause", "layer" or
        "bound".

        >>> from nybble.hardware import estimate_network
        >>> found = estimate_network("alexnet", "rapid", "sun2020", 4)
        >>> round(sum(row["seconds"] for row in found.by("cause").values()) / found.seconds, 9)
        1.0
        """
        rows: dict[str, dict[str, float]] = {}
        for cost in self.costs:
            key = cost.bound if what == "bound" else str(getattr(cost.task, what))
            row = rows.setdefault(
                key, {"seconds": 0.0, "stalled": 0.0, "joules": 0.0, "macs": 0.0, "bytes": 0.0}
            )
            row["seconds"] += cost.seconds
            row["stalled"] += cost.stalled
            row["joules"] += cost.energy * self.chip.chips.value
            row["macs"] += cost.task.macs
            row["bytes"] += cost.bytes.get(self.chip.memories[-1].name, 0.0)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: totals, rows by cause, layer and bound."""
        work = self.workload
        return {
            "network": work.name,
            "recipe": work.recipe,
            "batch": work.batch,
            "chip": self.chip.name,
            "parameters": work.parameters,
            "macs": work.macs,
            "seconds": self.seconds,
            "joules": self.joules,
            "gemm_seconds": self.gemm_seconds,
            "tops": self.tops,
            "tops_per_watt": self.tops_per_watt,
            "chip_tops_per_watt": self.chip_tops_per_watt,
            "utilisation": self.utilisation,
            "causes": self.by("cause"),
            "layers": self.by("layer"),
            "bounds": self.by("bound"),
            "memory_bytes": self.memory_bytes,
            "engines": self.engines(),
            "uncovered": [list(entry) for entry in work.uncovered],
            "uncovered_share": self.share("uncovered"),
            "float_layers": [list(entry) for entry in work.float_layers],
            "notes": list(self.notes),
        }

    def engines(self) -> dict[str, float]:
        """Share of the MACs by the engine that runs them."""
        found: dict[str, float] = {}
        for cost in self.costs:
            if cost.engine:
                found[cost.engine] = found.get(cost.engine, 0.0) + cost.task.macs
        total = sum(found.values())
        return {name: macs / total for name, macs in found.items()} if total else {}

    def share(self, cause: str) -> float:
        """Of a cause in the time of the step."""
        row = self.by("cause").get(cause)
        return row["seconds"] / self.seconds if row and self.seconds else 0.0


def peak_bytes(workload: Workload) -> float:
    """The most that is alive at one time: weights and the optimizer's state all along, every other
    tensor from the task that writes it to the last that reads it."""
    last: dict[Hashable, int] = {}
    size: dict[Hashable, float] = {}
    first: dict[Hashable, int] = {}
    for place, task in enumerate(workload.tasks):
        for use in (*task.reads, *task.writes):
            last[use.key] = place
            first.setdefault(use.key, place)
            size[use.key] = max(size.get(use.key, 0.0), use.bytes)
        if task.phase == "step":
            for use in task.writes:
                first[use.key] = 0
    change = [0.0] * (len(workload.tasks) + 1)
    for key, amount in size.items():
        change[first[key]] += amount
        change[last[key] + 1] -= amount
    alive = most = 0.0
    for step in change:
        alive += step
        most = max(most, alive)
    return most
