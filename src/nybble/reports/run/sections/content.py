"""What the page shows, as every section gets it."""

from __future__ import annotations

from dataclasses import dataclass

from nybble.reports.run.data import Run
from nybble.reports.run.groups import Groups
from nybble.training.progress import with_unit

__all__ = ["Content", "shown"]

COLOURS = 7


@dataclass(frozen=True)
class Content:
    """runs: in order; groups: who is compared with whom; command: what made the page."""

    runs: list[Run]
    groups: Groups
    command: str

    @property
    def one(self) -> bool:
        """Whether the page is of a single run."""
        return len(self.runs) == 1

    def label(self, run: Run) -> str:
        """What a run is called on this page; no two runs have the same label."""
        name = self.groups.names[self._place(run)]
        label = name if run.seed is None else f"{name}, seed {run.seed}"
        same = [r for r, n in zip(self.runs, self.groups.names, strict=True)
                if (n, r.seed) == (name, run.seed)]  # fmt: skip
        return label if len(same) == 1 else f"{label} ({run.folder.name})"

    def colour(self, run: Run) -> str:
        """The CSS colour of the run's group; the baseline is black (on dark pages white)."""
        return self.colour_of(self.groups.names[self._place(run)])

    def colour_of(self, name: str) -> str:
        """The CSS colour of a group."""
        kinds = list(dict.fromkeys(self.groups.names))
        if self.groups.baseline is None:
            return f"var(--c{kinds.index(name) % COLOURS})"
        if name == self.groups.baseline:
            return "var(--base)"
        others = [kind for kind in kinds if kind != self.groups.baseline]
        return f"var(--c{others.index(name) % COLOURS})" if name in others else "var(--muted)"

    def _place(self, run: Run) -> int:
        return next(i for i, other in enumerate(self.runs) if other is run)


def shown(run: Run, value: float | None) -> str:
    """A metric as people read it.

    >>> from pathlib import Path
    >>> shown(Run(Path("x"), {}, None, "crashed"), None)
    'no result'
    """
    if value is None:
        return "no result"
    return with_unit(value, run.unit, int((run.result or {}).get("digits") or 2))
