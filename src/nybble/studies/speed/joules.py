"""Joules that the processor counts itself, where the system lets them be read (Linux, powercap).

    joules = sum over packages of (energy_uj after - energy_uj before), of `intel-rapl` zones

The counters are of whole packages: every core, and every other process. They start again from
zero at `max_energy_range_uj`; one wrap in a measurement is put right, more are not. AMD
processors have the zones under the same name. Virtual machines seldom have any, and since 2020
reading needs root.

Not done here: memory (the dram zone is a part of another), other systems, accelerators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["ROOT", "Joules", "joules_of"]

ROOT = Path("/sys/class/powercap")


class Joules:
    """`with Joules() as counted: ...`, then `counted.joules`, or None and `counted.why_not`.

    >>> with Joules(Path("/nowhere")) as counted:
    ...     pass
    >>> counted.joules, counted.why_not
    (None, 'this system shows no energy counters (no intel-rapl zone under /nowhere)')
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.joules: float | None = None
        self.why_not: str | None = None
        self._before: dict[Path, int] = {}

    def __enter__(self) -> Joules:
        self._before = self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        after = self._read() if self._before else {}
        if not after:
            return
        spent = 0
        for zone, start in self._before.items():
            moved = after.get(zone, start) - start
            if moved < 0:
                moved += self._range(zone)
            spent += moved
        self.joules = spent / 1e6

    def _zones(self) -> list[Path]:
        """Whole packages: `intel-rapl:0`, not what is part of it, `intel-rapl:0:0`."""
        try:
            return sorted(z for z in self.root.glob("intel-rapl:*") if z.name.count(":") == 1)
        except OSError:
            return []

    def _read(self) -> dict[Path, int]:
        zones = self._zones()
        if not zones:
            self.why_not = (
                f"this system shows no energy counters (no intel-rapl zone under {self.root})"
            )
            return {}
        found: dict[Path, int] = {}
        for zone in zones:
            try:
                found[zone] = int((zone / "energy_uj").read_text(encoding="ascii"))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "it holds no number"
                self.why_not = f"the energy counter {zone.name} cannot be read: {why}"
                return {}
        return found

    @staticmethod
    def _range(zone: Path) -> int:
        try:
            return int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0


def joules_of(step: Callable[[], None], steps: int = 3, root: Path = ROOT) -> dict[str, Any]:
    """Joules of one step, the mean of `steps`; no step is taken where nothing counts them.

    >>> joules_of(lambda: None, root=Path("/nowhere"))["joules"]
    """
    with Joules(root) as counted:
        if counted.why_not is None:
            for _ in range(steps):
                step()
    joules = None if counted.joules is None else counted.joules / steps
    return {"joules": joules, "why_not": counted.why_not}
