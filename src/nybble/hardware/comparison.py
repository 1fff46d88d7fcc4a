"""An estimate of a network by name, one machine against another, and how both scale.

    speed-up = seconds(against) / seconds(chip)        energy ratio = joules(against) / joules(chip)

`batch` is that of the whole machine: every chip takes its part. A machine that is compared with
runs the recipe that it is given (`fp16` unless said otherwise), of the same network and batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nybble.errors import UserError
from nybble.hardware.chip import Chip, Figure
from nybble.hardware.chip_file import get_chip
from nybble.hardware.cost import Estimate
from nybble.hardware.kinds import GEMMS
from nybble.hardware.machine import estimate
from nybble.hardware.networks import Network, get_network
from nybble.hardware.tasks import Workload
from nybble.hardware.trace import Trace, trace_step
from nybble.hardware.workload import plan

__all__ = ["Comparison", "Traced", "compare", "estimate_network", "scaled"]


class Traced:
    """A network whose trace is made once for each batch, whatever the recipes and chips.

    >>> found = Traced(get_network("alexnet"))
    >>> found.workload("sun2020", 8).batch
    8
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._traces: dict[int, Trace] = {}
        self._plans: dict[tuple[str, int, int], Workload] = {}

    def workload(self, recipe: str, batch: int, vector_bits: int = 16) -> Workload:
        """The tasks of a step of `batch` examples."""
        if batch < 1:
            raise UserError(f"the batch must be at least 1 for every chip, not {batch}.")
        key = (recipe, batch, vector_bits)
        if key not in self._plans:
            network = self.network
            if batch not in self._traces:
                self._traces[batch] = trace_step(lambda: network.build(batch), network.name)
            self._plans[key] = plan(
                lambda: network.build(batch),
                recipe,
                name=network.name,
                batch=batch,
                rules=network.rules,
                optimizer=network.optimizer,
                vector_bits=vector_bits,
                trace=self._traces[batch],
            )
            if not self._plans[key].macs:
                raise UserError(
                    f"{network.name}: it multiplies no matrices, so there is nothing to estimate."
                )
        return self._plans[key]

    def estimate(
        self, chip: Chip, recipe: str, batch: int, communication_bits: int = 0
    ) -> Estimate:
        """One step of `batch` examples on all chips of a machine together.

        Raises:
            UserError: a batch smaller than the number of chips.
        """
        chips = int(chip.chips.value)
        if batch < chips:
            raise UserError(
                f"a batch of {batch} cannot be divided over the {chips} chips of {chip.name}; give "
                f"--batch {chips} or more."
            )
        if batch % chips:
            raise UserError(
                f"a batch of {batch} cannot be divided evenly over the {chips} chips of "
                f"{chip.name}; give a multiple of {chips}."
            )
        work = self.workload(recipe, batch // chips, chip.vector_bits)
        return estimate(work, chip, communication_bits)


def estimate_network(
    name: str, chip: str | Chip, recipe: str, batch: int | None = None, communication_bits: int = 0
) -> Estimate:
    """One step of a network by name; see `Traced.estimate`.

    Raises:
        UserError: an unknown network, chip or recipe; a batch that cannot be divided.

    >>> found = estimate_network("alexnet", "rapid", "fp16", 8)
    >>> found.workload.batch, 0 < found.utilisation < 1
    (8, True)
    """
    network = get_network(name)
    machine = get_chip(chip) if isinstance(chip, str) else chip
    return Traced(network).estimate(machine, recipe, batch or network.batch, communication_bits)


@dataclass(frozen=True)
class Comparison:
    """A machine with a recipe against another with its own."""

    one: Estimate
    other: Estimate

    @property
    def speedup(self) -> float:
        """Of the whole step."""
        return self.other.seconds / self.one.seconds

    @property
    def gemm_speedup(self) -> float:
        """Of the Gemms alone, memory included."""
        return self.other.gemm_seconds / self.one.gemm_seconds

    @property
    def ideal_speedup(self) -> float:
        """Of the Gemms at the peaks of their engines: what MAC counts and densities give."""
        mine = sum(cost.ideal for cost in self.one.costs)
        theirs = sum(cost.ideal for cost in self.other.costs)
        return theirs / mine

    @property
    def energy_ratio(self) -> float:
        """How many times less energy."""
        return self.other.joules / self.one.joules

    @property
    def gemm_energy_ratio(self) -> float:
        """The same of the Gemms alone."""
        sums = [
            sum(cost.energy for cost in side.costs if cost.task.cause in GEMMS)
            for side in (self.other, self.one)
        ]
        return sums[0] * self.other.chip.chips.value / (sums[1] * self.one.chip.chips.value)

    def ratios(self) -> dict[str, float]:
        """All of the above by name."""
        return {
            "speedup": self.speedup,
            "gemm_speedup": self.gemm_speedup,
            "ideal_speedup": self.ideal_speedup,
            "energy_ratio": self.energy_ratio,
            "gemm_energy_ratio": self.gemm_energy_ratio,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: both estimates and the ratios."""
        return {**self.ratios(), "one": self.one.to_dict(), "other": self.other.to_dict()}


def compare(
    network: str | Traced,
    chip: Chip,
    against: Chip,
    recipes: Sequence[str],
    batch: int,
    baseline: str = "fp16",
    communication_bits: int = 0,
) -> list[Comparison]:
    """Each recipe on `chip` against `baseline` on `against`."""
    traced = network if isinstance(network, Traced) else Traced(get_network(network))
    other = traced.estimate(against, baseline, batch, communication_bits)
    return [
        Comparison(traced.estimate(chip, recipe, batch, communication_bits), other)
        for recipe in recipes
    ]


def scaled(chip: Chip, *, cores: int | None = None, bandwidth: float = 1.0) -> Chip:
    """The chip with another number of cores, or its main memory and link that many times as fast.

    >>> scaled(get_chip("rapid"), cores=8, bandwidth=0.5).cores.value
    8.0
    """
    changed = chip
    if cores is not None:
        if chip.measured:
            raise UserError(f"{chip.name} has measured rates of one core; it has no other cores.")
        if cores < 1:
            raise UserError(f"a chip has at least one core, not {cores}.")
        static = replace(chip.static_w, value=chip.static_w.value * cores / chip.cores.value)
        changed = replace(
            changed, cores=Figure(float(cores), "asked for", "assumed"), static_w=static
        )
    if bandwidth != 1.0:
        main = changed.memories[-1]
        faster = replace(main.gb_per_s, value=main.gb_per_s.value * bandwidth)
        link = changed.link
        if link is not None:
            link = replace(
                link, gb_per_s=replace(link.gb_per_s, value=link.gb_per_s.value * bandwidth)
            )
        memories = (*changed.memories[:-1], replace(main, gb_per_s=faster))
        changed = replace(changed, memories=memories, link=link)
    return changed
