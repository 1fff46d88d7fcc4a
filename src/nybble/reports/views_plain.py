"""What a figure's command prints: the main numbers of a view's dict in a few lines.

The whole of the numbers is in the dict (`--json`). Not done here: drawing (views.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def plain(data: Mapping[str, Any]) -> str:
    """The lines of a view."""
    parts = {
        "gradients": _gradients,
        "rounding-factor": _rounding_factor,
        "batch-norm": _batch_norm,
        "gradscale": _gradscale,
    }
    return "\n".join(parts[data["view"]](data))


def _gradients(data: Mapping[str, Any]) -> list[str]:
    header = ["grid of " + data["layer"], "for", "rounded to zero", "beyond the top", "codes used"]
    rows = [
        [
            grid["quantizer"],
            grid["place"],
            _share(grid["underflow"]),
            _share(grid["saturation"]),
            str(grid["codes_used"]),
        ]
        for grid in data["grids"]
    ]
    return _table([header, *rows])


def _rounding_factor(data: Mapping[str, Any]) -> list[str]:
    header = ["data", "least relative error at", "least error at", "E[Q/x] at 1.6",
              "E[Q x]/E[x^2] at 1.6", "E[Q/x] is 1 at"]  # fmt: skip
    rows = [
        [
            one["name"],
            _number(one["minimum"]["relative_error"]),
            _number(one["minimum"]["error"]),
            _number(one["at_1.6"]["mean_ratio"]),
            _number(one["at_1.6"]["projection"]),
            _number(one["unbiased"]["mean_ratio"]),
        ]
        for one in data["sets"]
    ]
    return _table([header, *rows])


def _batch_norm(data: Mapping[str, Any]) -> list[str]:
    shown = {
        "received": ("error of dL/dbeta and dL/dgamma, received", ("beta_error", "gamma_error")),
        "passed_on": ("sums of Q(dz) and Q(dz) x^, passed on", ("beta", "gamma")),
    }
    lines: list[str] = []
    for part, (title, names) in shown.items():
        conditions = ("even", "odd", "both")
        rows = [[title, *conditions]]
        for row in data[part]:
            found = [
                " ".join(_number(_mean(row["conditions"][c][name])) for name in names)
                for c in conditions
            ]
            rows.append([row["layer"], *found])
        lines += [*([""] if lines else []), *_table(rows)]
    return lines


def _gradscale(data: Mapping[str, Any]) -> list[str]:
    rows = [["layer", "log2 s, first", "last", "up", "down", "steps beyond the top"]]
    for row in data["layers"]:
        beyond = sum(v is not None and v > data["log2_top"] for v in row["log2_scaled"])
        first, last = row["log2_scale"][0], row["log2_scale"][-1]
        moves = row["moves"]
        rows.append([row["layer"], _number(first), _number(last), str(moves["up"]),
                     str(moves["down"]), str(beyond)])  # fmt: skip
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, padded.

    >>> _table([["a", "b"], ["longer", "c"]])
    ['a       b', 'longer  c']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.3g} %"
