"""The seeds that rows of a table still lack, rows that lack the same ones in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["not_run"]


def not_run(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines without a full stop, in the order of the rows.

    >>> def row(name, *seeds):
    ...     return {"recipe": name, "missing": seeds}
    >>> not_run([row("fp32", 3), row("luq", 2, 3), row("nvfp4", 3), row("int8")])
    ['fp32, nvfp4: not run yet: seeds 3', 'luq: not run yet: seeds 2, 3']
    >>> not_run([row("fp32", 3, 4), row("luq", 3, 4)])
    ['every recipe: not run yet: seeds 3, 4']
    """
    lacking: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        if row["missing"]:
            lacking.setdefault(tuple(row["missing"]), []).append(row["recipe"])
    return [
        f"{_named(names, len(rows))}: not run yet: seeds {', '.join(map(str, seeds))}"
        for seeds, names in lacking.items()
    ]


def _named(names: Sequence[str], rows: int) -> str:
    return "every recipe" if len(names) == rows > 1 else ", ".join(names)
