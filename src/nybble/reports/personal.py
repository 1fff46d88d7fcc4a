"""The record of examples/04_personalise.py in Markdown: a model adapted to somebody new, under a
cap on memory, in float32 and in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KIND = "personalise"

HEADER = ("recipe", "fits", "accuracy before", "after", "minutes", "peak", "largest batch")


def title(record: Mapping[str, Any]) -> str:
    """A heading.

    >>> title({"configuration": {"model": "resnet20", "new": "theo"}})
    'Personalise: resnet20 adapted to theo'
    """
    made = record["configuration"]
    return f"Personalise: {made['model']} adapted to {made['new']}"


def markdown(record: Mapping[str, Any]) -> str:
    """The table, and what was done.

    >>> made = {"known": "ann", "new": "bob", "own": 4, "limit": 32, "batch": 16, "own_epochs": 1}
    >>> side = {"recipe": "fp32", "fits": False, "largest": 8, "reason": "refused"}
    >>> record = {"configuration": made, "unheard": 0.5, "measurements": [side]}
    >>> print(markdown(record).splitlines()[2])
    | fp32 | no: refused | - | - | - | - | 8 |
    """
    made = record["configuration"]
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    for side in record["measurements"]:
        lines.append("| " + " | ".join(_cells(side)) + " |")
    lines += [
        "",
        f"- Digits were learned from {made['known'].replace(',', ', ')}; {made['new']}, unheard, "
        f"was then recognised at {100 * record['unheard']:.1f} %.",
        f"- {made['new']}'s recordings from index {made['own']} on adapt the model in "
        f"{made['own_epochs']} epochs at batch {made['batch']}, the others test it; one run each.",
        f"- One thread, and at most {made['limit']} MiB for training beside the program "
        "(`studies/capped.py`); largest batch: the largest that fits under the same cap.",
    ]
    return "\n".join(lines)


def _cells(side: Mapping[str, Any]) -> list[str]:
    if not side["fits"]:
        return [side["recipe"], f"no: {side['reason']}", *["-"] * 4, str(side["largest"])]
    return [
        side["recipe"],
        "yes",
        f"{100 * side['before']:.1f} %",
        f"{100 * side['after']:.1f} %",
        f"{side['minutes']:.1f}",
        f"{side['peak_bytes'] / 2**20:.0f} MiB",
        str(side["largest"]),
    ]
