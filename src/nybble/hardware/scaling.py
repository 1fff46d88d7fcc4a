"""How time and energy follow the batch, the cores, the bandwidth and the number of chips.

    over="batch"       examples a step of the whole machine, from one a chip, doubled
    over="cores"       cores of a chip, a quarter to four times; memories per core grow with them
    over="bandwidth"   main memory and link, from a quarter to sixteen times
    over="chips"       chips at the same batch for each, with 32-, 16- and 4-bit gradients on the
                       link: share of the step that adding them up takes if nothing of it is
                       hidden behind backward

Source: the model (machine.py). Not done here: a machine with other proportions; write a chip file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from nybble.errors import UserError, suggest
from nybble.hardware.chip import Chip, Figure
from nybble.hardware.comparison import Traced, scaled
from nybble.hardware.cost import Estimate

__all__ = ["OVER", "scaling"]

OVER: Final = ("batch", "cores", "bandwidth", "chips")
LINK_BITS: Final = (32, 16, 4)
_CHIPS: Final = (1, 2, 4, 8, 16, 32, 64)
_FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

Progress = Callable[[str, int, int], None]


def scaling(
    traced: Traced,
    chip: Chip,
    recipe: str,
    batch: int,
    over: str,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """One row for each point, JSON-able.

    Raises:
        UserError: an unknown `over`; chips without a [link].

    >>> from nybble.hardware import get_chip, get_network
    >>> rows = scaling(Traced(get_network("alexnet")), get_chip("rapid"), "fp16", 8, "cores")
    >>> [row["point"] for row in rows]
    [1, 2, 4, 8, 16]
    """
    if over not in OVER:
        raise UserError(f"--over {over}: choose one of {', '.join(OVER)}.{suggest(over, OVER)}")
    points = _points(chip, batch, over)
    rows = []
    for done, point in enumerate(points):
        progress(f"{over} {point}", done, len(points))
        if over == "chips":
            rows.append(_chips(traced, chip, recipe, batch, int(point)))
            continue
        if over == "batch":
            found = traced.estimate(chip, recipe, int(point))
        elif over == "cores":
            found = traced.estimate(scaled(chip, cores=int(point)), recipe, batch)
        else:
            found = traced.estimate(scaled(chip, bandwidth=float(point)), recipe, batch)
        rows.append(_row(point, found, int(point) if over == "batch" else batch))
    return rows


def _points(chip: Chip, batch: int, over: str) -> list[int | float]:
    chips, cores = int(chip.chips.value), int(chip.cores.value)
    if over == "batch":
        found: list[int | float] = []
        size = chips
        while size < batch:
            found.append(size)
            size *= 2
        return [*found, batch]
    if over == "cores":
        return sorted({max(1, int(cores * f)) for f in (0.25, 0.5, 1.0, 2.0, 4.0)})
    if over == "bandwidth":
        return list(_FACTORS)
    return list(_CHIPS)


def _row(point: int | float, found: Estimate, batch: int) -> dict[str, Any]:
    return {
        "point": point,
        "seconds": found.seconds,
        "joules": found.joules,
        "examples_per_second": batch / found.seconds,
        "tops": found.tops,
        "utilisation": found.utilisation,
        "chip_tops_per_watt": found.chip_tops_per_watt,
    }


def _chips(traced: Traced, chip: Chip, recipe: str, batch: int, count: int) -> dict[str, Any]:
    if chip.link is None:
        raise UserError(f"--over chips: {chip.file} has no [link] table.")
    each = max(1, batch // int(chip.chips.value))
    machine = replace(chip, chips=Figure(float(count), "asked for", "assumed"))
    alone = traced.estimate(machine, recipe, each * count)
    row = _row(count, alone, each * count)
    row["communication_share"] = {}
    for bits in LINK_BITS:
        if count == 1:
            row["communication_share"][str(bits)] = 0.0
            continue
        found = traced.estimate(machine, recipe, each * count, bits)
        row["communication_share"][str(bits)] = 1 - alone.seconds / found.seconds
    return row
