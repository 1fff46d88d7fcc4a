"""docs/speed.md: every aim beside what was measured, then every record in full.

The records are those of `nybble bench step|memory|kernels|peers --record NAME`. A figure that no
record holds is not on the page; an aim without a figure says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nybble.reports.cells import ratio
from nybble.reports.results import kind
from nybble.reports.speed import WRITERS, against, markdown, threads
from nybble.reports.speed_profile import reason
from nybble.studies.speed.targets import AIMS, Target

Record = Mapping[str, Any]

ORDER = ("step", "memory", "kernels", "peers")
TITLES = {
    "step": "A whole step",
    "memory": "Memory",
    "kernels": "Kernels",
    "peers": "Other packages",
}


def is_speed(record: Record) -> bool:
    """Whether a record belongs on this page.

    >>> is_speed({"schema": "nybble.bench/1", "bench": "step"})
    True
    >>> is_speed({"schema": "nybble.bench/1", "bench": "emulation"})
    False
    """
    return kind(record) == "bench" and record.get("bench") in WRITERS


def page(records: Mapping[str, Record], made: str, source: Callable[[Record], str]) -> str:
    """The page; `made` is its first line, `source` says where a record comes from."""
    own = {name: record for name, record in records.items() if is_speed(record)}
    lines = [
        made,
        "",
        "# Speed and memory",
        "",
        "Every figure is a ratio to float32 PyTorch on the same machine, measured in one process "
        "that takes turns: float32's time (or bytes) over ours: larger is better. float32 is the "
        "fastest of contiguous, channels-last and `torch.compile`. With one thread CPU time "
        "decides, with more wall time. The kernels use AVX2, and for products AVX-512's VNNI "
        "where the CPU has it; what torch's own operators used is said beside each record's cores.",
        "",
        "| aim | at least | hard | measured | record |",
        "|---|---|---|---|---|",
        *(_aim_row(aim, own) for aim in AIMS),
    ]
    missed = _reasons(own)
    if missed:
        lines += ["", "Where an aim is missed:", "", *(f"- {line}" for line in missed)]
    for bench in ORDER:
        for name, record in own.items():
            if record["bench"] == bench:
                lines += ["", f"## {title(record)}", "", f"Record: `results/{name}.json`", ""]
                lines += [markdown(record), "", source(record)]
    return "\n".join(lines) + "\n"


def title(record: Record) -> str:
    """A heading.

    >>> title({"bench": "step", "configuration": {"model": "cnn", "batch": 2, "recipe": "sun2020"}})
    'A whole step: cnn, batch 2, sun2020'
    """
    made = record["configuration"]
    if record["bench"] in ("step", "memory"):
        parts = f"{made['model']}, batch {made['batch']}, {made['recipe']}{wider(record)}"
    elif record["bench"] == "kernels":
        parts = ", ".join(made["only"])
    else:
        parts = ", ".join(made["models"])
    return f"{TITLES[record['bench']]}: {parts}"


def wider(record: Record) -> str:
    """ ", AVX512" and the like, for a record of a machine that is not one with AVX2, which the aims
    are for: there float32 is faster.

    >>> wider({"environment": {"machine": {"instructions": "AVX512"}}}), wider({})
    (', AVX512', '')
    """
    found = record.get("environment", {}).get("machine", {}).get("instructions")
    return "" if found in (None, "AVX2") else f", {found}"


def summary(records: Mapping[str, Record]) -> str:
    """The recorded whole steps and memory as one short table, with the command of each row.

    >>> print(summary({}))
    (not recorded yet)
    """
    own = {name: record for name, record in records.items() if is_speed(record)}
    steps = {name: record for name, record in own.items() if record["bench"] == "step"}
    memory = {name: record for name, record in own.items() if record["bench"] == "memory"}
    if not own:
        return "(not recorded yet)"
    lines = [
        "| a whole training step, against the fastest float32 | 1 thread | 2 threads | record |",
        "|---|---|---|---|",
    ]
    for name, record in sorted(steps.items()):
        cells = [_ratio(record, count) for count in (1, 2)]
        lines.append(f"| {_what(record)} | {' | '.join(cells)} | `{name}` |")
    lines += [
        "",
        "| memory, float32's over ours | kept for backward | peak of the process | record |",
    ]
    lines += ["|---|---|---|---|"]
    for name, record in sorted(memory.items()):
        parts = [record["ratio"][part] for part in ("saved", "peak")]
        cells = ["-" if value is None else f"{value:.2f}x" for value in parts]
        lines.append(f"| {_what(record)} | {' | '.join(cells)} | `{name}` |")
    return "\n".join(lines)


def _what(record: Record) -> str:
    made = record["configuration"]
    return f"{made['model']}, batch {made['batch']}, `{made['recipe']}`{wider(record)}"


def _ratio(record: Record, count: int) -> str:
    """The ratio of the clock that decides, with its interval."""
    for found in record["measurements"]:
        if found["threads"] == count:
            return ratio(found[found["decides"]])
    return "-"


def measured(record: Record, aim: Target) -> list[tuple[str, float]]:
    """(where, figure) of every figure in `record` that `aim` speaks of."""
    what = aim.what

    def same(target: Record | None) -> bool:
        return target is not None and target["what"] == what

    if record["bench"] == "step" and same(record.get("against_target")):
        return [
            (threads(m["threads"]), float(m["against"][m["decides"]]["median"]))
            for m in record["measurements"]
        ]
    if record["bench"] == "step" and same(record["target"]):
        batch = record["configuration"]["batch"]
        return [
            (f"batch {batch}, {threads(int(count))}", float(value))
            for count, value in record["speedup"].items()
        ]
    if record["bench"] == "memory":
        batch = record["configuration"]["batch"]
        return [
            (f"batch {batch}", float(record["ratio"][name]))
            for name, target in record["targets"].items()
            if same(target) and record["ratio"][name] is not None
        ]
    if record["bench"] == "kernels":
        return [
            (
                f"{threads(group['threads'])}, {group['group']}, {group['least']:.2f} to "
                f"{group['most']:.2f}, least",
                float(group["least"]),
            )
            for group in record["groups"]
            if same(group["target"])
        ]
    return []


def _aim_row(aim: Target, records: Mapping[str, Record]) -> str:
    figures, names = [], []
    for name, record in records.items():
        found = measured(record, aim)
        if found:
            names.append(f"`{name}`")
        for where, value in found:
            figures.append(
                f"{where}{wider(record)}: {value:.2f}x ({against(value, aim.to_dict())})"
            )
    hard = f"{aim.hard:.2f}x" if aim.hard is not None else "-"
    text = "<br>".join(figures) or "not recorded yet"
    return f"| {aim.what} | {aim.least:.2f}x | {hard} | {text} | {', '.join(names) or '-'} |"


def _reasons(records: Mapping[str, Record]) -> list[str]:
    """One line for every record that misses its aim: what the profile says, or the note it has."""
    lines = []
    for name, record in records.items():
        missed = [
            aim.what for aim in AIMS for _, value in measured(record, aim) if value < aim.least
        ]
        if not missed:
            continue
        why: Sequence[str] = []
        if record.get("profile") and record.get("target"):
            why = [reason(record["profile"], record["target"]["least"])]
        if record.get("note"):
            why = [*why, str(record["note"])]
        text = " ".join(why) or "no reason has been recorded."
        lines.append(f"`{name}` ({'; '.join(dict.fromkeys(missed))}): {text}")
    return lines
