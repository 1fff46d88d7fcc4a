"""What a comparison needs to know of one run, and what it derives from the runs of one recipe.

A row of the table is made from the runs of one recipe, paired with the baseline's runs of the same
seeds.  Derived here, in one place:

* the metric at the end of training (the last epoch, never the best one: choosing the best epoch on
  the test set would flatter the noisier recipe);
* the paired difference to the baseline (`statistics.paired_difference`);
* the time until the baseline's final metric was reached: for each seed, the wall time spent in
  training steps up to the end of the first epoch whose metric is at least as good as the baseline's
  final one of that seed.  A seed that never got there counts as not reached; the median is over the
  seeds that did, and both are reported.

Runs that failed stay in the row: they lower `finished`, and their reason is listed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nybble.studies.statistics import paired_change, paired_difference, spread
from nybble.training.files import finite

COMPLETE = "complete"
"""The status of a run whose metric counts; every other status is shown as it is."""


@dataclass(frozen=True)
class Point:
    """One epoch of a run; `seconds` is the wall time of all training steps up to its end."""

    epoch: int
    seconds: float
    train_loss: float | None
    metric: float | None


@dataclass(frozen=True)
class Outcome:
    """One run: which recipe and seed, how it ended, and its curve.

    `metric` is in the units of the report (accuracy in percent) and None without a result;
    `dead_layers` are the converted layers whose weight gradient was zero in every step that was
    looked at; `extras` are more numbers of the task about the test set; `origin` says where it ran
    (commit, cpu, threads, torch), so that a comparison whose runs come from different places can
    say so.
    """

    recipe: str
    seed: int
    status: str
    folder: str
    metric: float | None = None
    reason: str = ""
    seconds: float | None = None
    saved_bytes: int | None = None
    dead_layers: tuple[str, ...] = ()
    curve: tuple[Point, ...] = ()
    extras: Mapping[str, float | None] = field(default_factory=dict)
    reused: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run's metric counts."""
        return self.status == COMPLETE and self.metric is not None and math.isfinite(self.metric)

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON values (a NaN or infinite number becomes null)."""
        values: dict[str, Any] = finite(asdict(self))
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """The inverse of `to_dict`.

        >>> run = Outcome("fp32", 0, "complete", "runs/a", 91.5, curve=(Point(1, 2.0, 0.5, 91.5),))
        >>> Outcome.from_dict(run.to_dict()) == run
        True

        Raises:
            TypeError, ValueError: it is no such run (a damaged store, an edited record).
        """
        fields = dict(data)
        fields["dead_layers"] = tuple(fields.get("dead_layers", ()))
        fields["curve"] = tuple(Point(**point) for point in fields.get("curve", ()))
        found = cls(**fields)
        numbers = [found.metric, *_mapping(found.extras).values()]
        texts = (found.recipe, found.status, found.reason, *found.dead_layers)
        _mapping(found.origin)
        if not all(value is None or _is_number(value) for value in (*numbers, found.seconds)):
            raise ValueError(f"a number of the run is none: {numbers}, {found.seconds}")
        if not all(isinstance(text, str) for text in texts) or not isinstance(found.seed, int):
            raise ValueError("a text of the run is none")
        return found


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, not {value!r}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Reached:
    """Wall time until the baseline's final metric was reached, over the seeds of one recipe."""

    reached: int
    of: int
    median_seconds: float | None
    seconds: tuple[float | None, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The times as JSON values."""
        return {
            "reached": self.reached,
            "of": self.of,
            "median_seconds": self.median_seconds,
            "seconds": list(self.seconds),
        }


def time_to_reach(run: Outcome, target: float, higher_is_better: bool = True) -> float | None:
    """Seconds until the end of the first epoch whose metric is at least as good as `target`.

    None if there is no such epoch.

    >>> run = Outcome("r", 0, "complete", "", 3.0, curve=(Point(1, 10.0, None, 1.0),
    ...     Point(2, 20.0, None, 4.0), Point(3, 30.0, None, 3.0)))
    >>> time_to_reach(run, 3.0), time_to_reach(run, 5.0)
    (20.0, None)
    """
    for point in run.curve:
        if point.metric is None:
            continue
        if point.metric >= target if higher_is_better else point.metric <= target:
            return point.seconds
    return None


def reach(
    runs: Mapping[int, Outcome], baseline: Mapping[int, Outcome], higher_is_better: bool = True
) -> Reached:
    """`time_to_reach` for every seed whose baseline finished.

    >>> base = {0: Outcome("fp32", 0, "complete", "", 3.0)}
    >>> reach({0: Outcome("r", 0, "failed", "")}, base)
    Reached(reached=0, of=1, median_seconds=None, seconds=(None,))
    """
    times: list[float | None] = []
    for seed, reference in sorted(baseline.items()):
        if reference.finished and reference.metric is not None and seed in runs:
            times.append(time_to_reach(runs[seed], reference.metric, higher_is_better))
    found = [time for time in times if time is not None]
    median = statistics.median(found) if found else None
    return Reached(len(found), len(times), median, tuple(times))


def make_row(
    recipe: str,
    outcomes: Sequence[Outcome],
    seeds: Sequence[int],
    baseline: str | None,
    higher_is_better: bool = True,
    comparison: str = "difference",
) -> dict[str, Any]:
    """The row of one recipe as JSON values, from all outcomes of the comparison.

    `baseline` is the recipe that the others are compared with, or None when it is not among them;
    then there are no differences and no times. `comparison`: "difference" of the metric, or "ratio"
    of it (the difference in per cent).
    """
    runs = {run.seed: run for run in outcomes if run.recipe == recipe}
    reference = {run.seed: run for run in outcomes if run.recipe == baseline}
    metrics = [_metric(runs.get(seed)) for seed in seeds]
    row: dict[str, Any] = {
        "recipe": recipe,
        "baseline": recipe == baseline,
        "metric": {**spread(metrics).to_dict(), "values": metrics},
        "extras": {
            name: spread([_extra(runs.get(seed), name) for seed in seeds]).to_dict()
            for name in dict.fromkeys(name for run in runs.values() for name in run.extras)
        },
        "difference": None,
        "time_to_baseline": None,
        "finished": sum(run.finished for run in runs.values()),
        "runs": len(seeds),
        "problems": [
            _problem(run, comparison)
            for _, run in sorted(runs.items())
            if not run.finished or not _compares(run, comparison)
        ],
        "missing": [seed for seed in seeds if seed not in runs],
        "saved_bytes": _largest([run.saved_bytes for run in runs.values()]),
        "dead_layers": sorted({name for run in runs.values() for name in run.dead_layers}),
    }
    if baseline is not None:
        row["time_to_baseline"] = reach(runs, reference, higher_is_better).to_dict()
        if recipe != baseline:
            against = [_metric(reference.get(seed)) for seed in seeds]
            compare = paired_change if comparison == "ratio" else paired_difference
            row["difference"] = compare(metrics, against).to_dict()
    return row


def _metric(run: Outcome | None) -> float | None:
    return run.metric if run is not None and run.finished else None


def _extra(run: Outcome | None, name: str) -> float | None:
    return run.extras.get(name) if run is not None and run.finished else None


def _compares(run: Outcome, comparison: str) -> bool:
    """Whether a finished run can be compared: a ratio is one of numbers above zero."""
    return comparison != "ratio" or (run.metric is not None and run.metric > 0)


def _problem(run: Outcome, comparison: str) -> str:
    if run.finished and not _compares(run, comparison):
        return f"seed {run.seed} ended at {run.metric:g}, which has no ratio"
    reason = f": {run.reason.rstrip('.')}" if run.reason else ""  # what prints it ends the line
    return f"seed {run.seed} {run.status}{reason}"


def _largest(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
