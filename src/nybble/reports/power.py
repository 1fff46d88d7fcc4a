"""How many seeds: for an sd that is given, and for the rows of a recorded comparison or study.

The tables of a study correct for the number of their rows (Holm), and the strictest level that this
asks for is 5 % / rows: seeds are counted for that one, or a row that had its number of seeds would
still be undecided most of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.reports.cells import NONE, by_ratio, column_widths
from nybble.studies.equivalence import ALPHA, margin_to_plan
from nybble.studies.power import seeds_for_t_test, seeds_for_tost
from nybble.studies.study.reading import read_any

POINTS, PER_CENT = 0.25, 0.5
"""Margins of records that name none: of a difference in points, of a ratio in per cent."""
FEWEST = 3
"""Pairs from which an sd is worth planning with."""


def of_sd(
    sd: float, margin: float | None, difference: float, power: float, rows: int = 1
) -> dict[str, Any]:
    """The seeds for one sd; a test that nothing was given for is None. rows: of the table.

    Raises:
        UserError: neither a margin nor a difference, or numbers that make no sense.

    >>> found = of_sd(1.0, 1.0, 0.0, 0.8)
    >>> found["equivalence"], found["t_test"], of_sd(1.0, 1.0, 0.0, 0.8, rows=8)["equivalence"]
    (11, None, 18)
    """
    if margin is None and not difference:
        raise UserError("study power: give --margin, --difference or both.")
    if rows < 1:
        raise UserError(f"study power: the rows of a table are at least 1, not {rows}.")
    level = ALPHA / rows
    return {
        "sd": sd,
        "margin": margin,
        "difference": difference,
        "rows": rows,
        "equivalence": None
        if margin is None
        else seeds_for_tost(sd, margin, difference, power, level),
        "t_test": seeds_for_t_test(sd, difference, power, level) if difference else None,
    }


def of_record(
    name: str,
    folder: Path,
    margin: float | None,
    difference: float,
    power: float,
    rows: int | None = None,
) -> list[dict[str, Any]]:
    """The seeds for every row of a record that has an sd of at least three pairs.

    name: of a record in `folder`, a file, or the folder of one study. margin: None takes the
    record's own, or `POINTS` or `PER_CENT`. difference: 0 asks the t test for a difference as large
    as the margin. rows: None takes the rows that each one's table has beside the baseline.

    Raises:
        UserError: no such record, or no row that could be planned with.
    """
    if margin is not None and not margin > 0:
        raise UserError(f"study power: the margin must be above 0, not {margin}.")
    record = read_any(name, folder, "study power")
    try:
        found = [
            {
                "row": row,
                "n": n,
                **_row(
                    sd, own if margin is None else margin, difference, power, rows or beside, ratio
                ),
            }
            for row, n, sd, own, beside, ratio in _rows(record)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"study power {name}: this is no record of a comparison or a study ({error})."
        ) from error
    if not found:
        raise UserError(f"study power {name}: no row has {FEWEST} pairs; run more seeds first.")
    return found


def _row(
    sd: float, margin: float, difference: float, power: float, rows: int, ratio: bool
) -> dict[str, Any]:
    outside, level = abs(difference) >= margin, ALPHA / rows
    # As they are tested: of a ratio, on logarithms.
    within, shift = margin_to_plan(margin, ratio), margin_to_plan(difference or margin, ratio)
    true = margin_to_plan(difference, ratio)
    return {
        "sd": sd,
        "margin": margin,
        "difference": difference,
        "rows": rows,
        "equivalence": None if outside else seeds_for_tost(sd, within, true, power, level),
        "t_test": seeds_for_t_test(sd, shift, power, level),
    }


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, int, float, float, int, bool]]:
    """Name, pairs, sd and margin of every row that can be planned with, its table's rows, and
    whether that one compares ratios."""
    for table in record.get("tables", [record]):
        own = PER_CENT if by_ratio(table) else POINTS
        place = ", ".join(table[key] for key in ("task", "variant") if table.get(key))
        beside = sum(1 for row in table["rows"] if row["difference"])
        for row in table["rows"]:
            pairs = row["difference"]
            if pairs and pairs["n"] >= FEWEST and pairs["sd"]:
                name = f"{place}: {row['recipe']}" if "tables" in record else row["recipe"]
                within = table.get("margin") or own
                yield name, pairs["n"], pairs["sd"], within, beside, by_ratio(table)


def text(found: Sequence[Mapping[str, Any]], power: float) -> str:
    """Sentences for one sd, a table for the rows of a record.

    >>> print(text([of_sd(1.0, 1.0, 0.0, 0.8)], 0.8))
    11 seeds show equivalence to ±1 with a chance of 80 %, for paired differences of sd 1 and a
        true difference of 0 (two one-sided t tests at 5 %).
    The sd is taken as known: a plan, not a promise.
    """
    chance = f"with a chance of {100 * power:g} %"
    last = "The sd is taken as known: a plan, not a promise."
    if "row" in found[0]:
        head = ["row", "pairs", "sd", "margin", "rows", "seeds: equivalence", "seeds: difference"]
        rows = [head, *(_cells(row) for row in found)]
        widths = column_widths(rows)
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        what = "a true difference of the margin" if not found[0]["difference"] else "the difference"
        told = f"Seeds that show equivalence to the margin, or {what}, {chance},"
        level = "at 5 % divided by the rows (the strictest level that Holm's correction asks for)."
        return "\n".join([*lines, "", told, level, last])
    row = found[0]
    level = "at 5 %" if row["rows"] == 1 else f"at 5 % / {row['rows']}, for Holm's correction"
    lines = []
    given = f"for paired differences of sd {row['sd']:g}"
    if row["equivalence"] is not None:
        lines.append(
            f"{row['equivalence']} seeds show equivalence to ±{row['margin']:g} {chance}, {given} "
            f"and a true difference of {row['difference']:g} (two one-sided t tests {level})."
        )
    if row["t_test"] is not None:
        lines.append(
            f"{row['t_test']} seeds show a true difference of {row['difference']:g} {chance}, "
            f"{given} (two-sided paired t test {level})."
        )
    return "\n".join([*lines, last])


def _cells(row: Mapping[str, Any]) -> list[str]:
    def count(number: int | None) -> str:
        return NONE if number is None else str(number)

    digits = max(0, 2 - math.floor(math.log10(row["sd"])))
    return [
        row["row"],
        str(row["n"]),
        f"{row['sd']:.{digits}f}",
        f"±{row['margin']:g}",
        str(row["rows"]),
        count(row["equivalence"]),
        count(row["t_test"]),
    ]
