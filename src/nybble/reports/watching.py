"""Records of `nybble bench watch` in words: what looking at the layers costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]
KIND = "watch"


def title(record: Record) -> str:
    """The heading of a record's section."""
    made = record["configuration"]
    return f"What looking costs: {made['model']}, batch {made['batch']}, {made['recipe']}"


def plain(record: Record) -> str:
    """One line for the cost, one for what it is made of."""
    made, interval = record["configuration"], record["interval"]
    times = record["step_ms"]
    return (
        f"looking at every layer once in {made['every']} steps costs "
        f"{100 * record['cost']:.2f} % of the step [{100 * interval['low']:.2f}, "
        f"{100 * interval['high']:.2f}] (aim: at most {100 * record['target']['most']:.0f} %)\n"
        f"{times['watched']:.1f} ms against {times['plain']:.1f} ms a step, {made['threads']} "
        f"thread, {record['decides']} time, {record['looks']} looks"
    )


def markdown(record: Record) -> str:
    """The same as a list."""
    return "\n".join(f"- {line}" for line in plain(record).splitlines())
