"""Records of speed and memory as tables of text and of Markdown.

One record becomes blocks: (title, table) pairs, and lines. `plain` is for the terminal, `markdown`
for the docs; both print the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nybble.reports.cells import column_widths, ratio, size
from nybble.reports.speed_profile import profile_table, reason

Record = Mapping[str, Any]
Table = list[list[str]]


@dataclass(frozen=True)
class Blocks:
    """What a record says: tables (the first row is the header) under their titles, then lines."""

    tables: list[tuple[str, Table]]
    lines: list[str] = field(default_factory=list)


def blocks(record: Record) -> Blocks:
    """The blocks of a record of any kind."""
    return WRITERS[record["bench"]](record)


def plain(record: Record) -> str:
    """As lines of text, columns aligned."""
    found = blocks(record)
    lines: list[str] = []
    for title, table in found.tables:
        lines += [title, ""] if title else []
        widths = column_widths(table)
        rows = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        lines += [rows[0], "  ".join("-" * width for width in widths), *rows[1:], ""]
    return "\n".join([*lines, *found.lines]).rstrip()


def markdown(record: Record) -> str:
    """As Markdown."""
    found = blocks(record)
    lines: list[str] = []
    for title, table in found.tables:
        lines += [f"{title}:", ""] if title else []
        rows = ["| " + " | ".join(row) + " |" for row in table]
        lines += [rows[0], "|" + "---|" * len(table[0]), *rows[1:], ""]
    return "\n".join([*lines, *(f"- {line}" for line in found.lines)]).rstrip()


# ---- step ---------------------------------------------------------------------------------------


def _step(record: Record) -> Blocks:
    made = record["configuration"]
    head = ["threads", "float32", "4-bit", "speedup", "by", "the other clock", "float32's form"]
    table = [head]
    for m in record["measurements"]:
        clock, other = (m["decides"], "wall" if m["decides"] == "cpu" else "cpu")
        table.append(
            [
                str(m["threads"]),
                *(f"{m[side][f'{clock}_ms']:.1f} ms" for side in ("float32", "ours")),
                ratio(m[clock]),
                _clock(clock),
                f"{m[other]['median']:.2f}x {_clock(other)}",
                m["float32"]["form"],
            ]
        )
    backend = gemms(record["measurements"][0]["ours"]["backend"])
    lines = [
        f"One training step of {made['model']}, input {made['input']}: {made['recipe']} "
        f"({backend}; what other layers keep for backward: {_activations(made)}) against float32, "
        "one step of each in turn in one process.",
        f"speedup: float32's time over ours, median of {made['rounds']} pairs, with the 95 % "
        "interval of the median or else the smallest and largest.",
        *_against(record),
        *_tried(record),
        *_energy(record),
    ]
    tables = [("", table)]
    if record.get("profile"):
        tables.append(("Where the time goes", profile_table(record["profile"])))
        lines.append(
            "Shares are by torch's profiler, which slows small operators; times of the first table "
            "are without it."
        )
    return Blocks(tables, [*lines, *step_verdict(record)])


def _against(record: Record) -> list[str]:
    """The other recipe that took turns, if there was one."""
    made, lines = record["configuration"], []
    for m in record["measurements"]:
        if (other := m.get("against")) is None:
            continue
        clock, aim = m["decides"], record.get("against_target")
        verdict = f" ({against(other[clock]['median'], aim)})" if aim else ""
        lines.append(
            f"{made['against']} took turns too ({gemms(other['backend'])}): "
            f"{other[f'{clock}_ms']:.1f} ms with {threads(m['threads'])}, its time over that of "
            f"{made['recipe']} {ratio(other[clock])}{verdict}."
        )
    return lines


def gemms(found: Mapping[str, int]) -> str:
    """Where the Gemms run, in words.

    >>> gemms({"native": 54, "torch": 6})
    '54 Gemms native, 6 in torch because the recipe makes them wide'
    """
    words = {
        "native": "native",
        "reference": "on the reference backend",
        "torch": "in torch because the recipe makes them wide",
    }
    parts = [f"{count} {words.get(name, name)}" for name, count in found.items()]
    return ", ".join(parts).replace(" ", " Gemms ", 1) if parts else "nothing converted"


def _activations(made: Record) -> str:
    words = {"4bit": "4 bits", "exact": "less where no gradient changes by it"}
    return words.get(made["activations"], "as in float32")


def _clock(clock: str) -> str:
    return "CPU time" if clock == "cpu" else "wall time"


def _tried(record: Record) -> list[str]:
    lines = []
    for m in record["measurements"]:
        parts = [
            " ".join(
                [
                    one["form"],
                    *([] if one["ms"] is None else [f"{one['ms']:.1f} ms"]),
                    *([f"({one['note']})"] if one["note"] else []),
                ]
            )
            for one in m["float32"]["tried"]
        ]
        lines.append(f"float32 with {threads(m['threads'])}, tried first: {'; '.join(parts)}.")
    return lines


def _energy(record: Record) -> list[str]:
    """Joules of a step, or why there are none; older records say nothing."""
    lines = []
    for m in record["measurements"]:
        sides = [m[side].get("energy") for side in ("float32", "ours")]
        if None in sides:
            continue
        first, second = (side["joules"] for side in sides)
        if first is None or second is None:
            why = next(side["why_not"] for side in sides if side["joules"] is None)
            line = f"Energy of a step: not known, {why}."
        else:
            line = (
                f"Energy of a step with {threads(m['threads'])}, of the whole processor: float32 "
                f"{first:.2f} J, 4-bit {second:.2f} J, {first / second:.2f}x less."
            )
        if line not in lines:
            lines.append(line)
    return lines


def threads(count: int) -> str:
    """`1 thread`, `2 threads`.

    >>> threads(1), threads(2)
    ('1 thread', '2 threads')
    """
    return f"{count} thread{'' if count == 1 else 's'}"


def against(value: float, target: Record | None) -> str:
    """A ratio against its aim, in words.

    >>> against(2.1, {"what": "step", "least": 2.0, "hard": 2.5})
    'aim 2.0x: met; hard 2.5x: not met'
    >>> against(2.1, None)
    'no aim'
    """
    if target is None:
        return "no aim"
    words = f"aim {_number(target['least'])}x: {_met(value, target['least'])}"
    if target["hard"] is not None:
        words += f"; hard {_number(target['hard'])}x: {_met(value, target['hard'])}"
    return words


def _met(value: float, wanted: float) -> str:
    return "met" if value >= wanted else "not met"


def _number(value: float) -> str:
    """Two digits after the point, or one where the second is a zero.

    >>> _number(2.0), _number(1.75), _number(1 / 0.7)
    ('2.0', '1.75', '1.43')
    """
    return f"{value:.2f}".removesuffix("0")


def step_verdict(record: Record) -> list[str]:
    """The ratios against the aim, and where the time goes when the aim is not met."""
    target = record["target"]
    if target is None:
        return []
    lines = [
        f"{threads(int(n))}: {value:.2f}x ({against(value, target)})."
        for n, value in record["speedup"].items()
    ]
    missed = any(value < target["least"] for value in record["speedup"].values())
    if missed and record.get("profile"):
        lines.append(reason(record["profile"], target["least"]))
    return lines


# ---- memory -------------------------------------------------------------------------------------


def _memory(record: Record) -> Blocks:
    made = record["configuration"]
    table = [
        [
            "side",
            "form",
            "kept for backward",
            "without weights",
            "alive after forward",
            "peak above import",
        ]
    ]
    for m in record["measurements"]:
        table.append(
            [
                m["side"],
                m["form"],
                size(m["saved_bytes"]),
                size(m["activation_bytes"]) if m["activation_bytes"] is not None else "not known",
                size(max(m["alive_bytes"], 0)),
                size(m["peak_bytes"]),
            ]
        )
    lines = [
        f"{made['model']}, input {made['input']}, {made['recipe']} (what other layers keep for "
        f"backward: {_activations(made)}), {threads(made['threads'])}.",
        "Kept for backward: all that autograd saves in one forward pass; without weights: the part "
        "that grows with the batch.",
        f"Peak: a fresh process of {made['steps']} steps, its high-water mark of resident memory "
        f"minus that after import; allocator: {made['allocator']}; float32 counts in its form with "
        "the lower peak.",
    ]
    for name, what in (("saved", "kept for backward"), ("peak", "peak")):
        value = record["ratio"][name]
        if value is not None:
            verdict = against(value, record["targets"][name])
            lines.append(f"{what}: float32 takes {value:.2f}x ours ({verdict}).")
    return Blocks([("", table)], lines)


# ---- limit --------------------------------------------------------------------------------------


def _limit(record: Record) -> Blocks:
    made = record["configuration"]
    table = [["side", "form", "largest batch", "peak there", "next tried", "peak there"]]
    for m in record["measurements"]:
        tried = dict(m["tried"])
        above = min((batch for batch in tried if batch > m["batch"]), default=None)
        table.append(
            [
                m["side"],
                m["form"],
                str(m["batch"]) if m["batch"] else "none fits",
                size(tried[m["batch"]]) if m["batch"] else "-",
                str(above) if above else "-",
                size(tried[above]) if above and tried[above] else "-" if not above else "no data",
            ]
        )
    lines = [
        f"{made['model']}, {made['recipe']} (what other layers keep for backward: "
        f"{_activations(made)}), {threads(made['threads'])}, limit {size(made['limit'])} for the "
        f"whole process, imports included; {made['steps']} steps without an optimizer.",
    ]
    batches = record["batch"]
    if record["ratio"]:
        lines.append(
            f"Largest batch: {batches['float32']} in float32, {batches['ours']} in 4 bits, "
            f"{record['ratio']:.2f}x."
        )
    return Blocks([("", table)], lines)


# ---- kernels ------------------------------------------------------------------------------------


def _kernels(record: Record) -> Blocks:
    counts = list(dict.fromkeys(m["threads"] for m in record["measurements"]))
    table = [["group", "threads", "rows", "least", "median", "largest", "aim"]]
    for found in record["groups"]:
        table.append(
            [
                found["group"],
                str(found["threads"]),
                str(found["rows"]),
                *(f"{found[name]:.2f}x" for name in ("least", "median", "most")),
                against(found["least"], found["target"]) if found["target"] else "-",
            ]
        )
    tables = [("", table)]
    for count in counts:
        rows = [["kernel", "float32", "form", "ours", "speedup"]]
        for m in record["measurements"]:
            if m["threads"] == count:
                base = m["float32_us"][m["baseline"]]
                ours = m["ours_us"]
                rows.append(
                    [m["name"], _us(base), m["baseline"], _us(ours), ratio(m[m["decides"]])]
                )
        tables.append((threads(count).capitalize(), rows))
    lines = [
        "speedup: float32's time over ours, median of "
        f"{record['configuration']['rounds']} samples taken in turn in one process, with the 95 % "
        "interval of the median or else the smallest and largest; CPU time with one thread, wall "
        "time with more. float32 is the fastest of its forms; unpacking, decoding and scaling are "
        "inside our time.",
        "A group's aim holds for its least row. Quantising and packing is compared with a copy "
        "(memcpy) of the float32 tensor: 1.43x is 0.7 times its time.",
    ]
    return Blocks(tables, lines)


def _us(value: float) -> str:
    """Microseconds as a person would say them.

    >>> _us(12.34), _us(4321.0)
    ('12.3 us', '4.32 ms')
    """
    return f"{value:.1f} us" if value < 1000 else f"{value / 1000:.2f} ms"


# ---- peers --------------------------------------------------------------------------------------


def _peers(record: Record) -> Blocks:
    made = record["configuration"]
    tables = []
    for model in made["models"]:
        rows = [["package", "version", "time", "kept for backward", "gradients quantised"]]
        for m in record["measurements"]:
            if m["model"] != model:
                continue
            figures = [m["note"] or "", ""]
            if m["note"] is None:
                kept, base = m["saved_bytes"], m["float32_saved_bytes"]
                figures = [ratio(m["time"]), f"{size(kept)} ({kept / base:.2f}x)" if base else "-"]
            rows.append([m["name"], m["version"] or "-", *figures, m["gradients"]])
        tables.append((f"{model}, batch {made['batch']}", rows))
    clock = "CPU time" if made["threads"] == 1 else "wall time"
    lines = [
        f"time: of a whole training step, {clock}, {threads(made['threads'])}, as a ratio to "
        "float32's in the same process, steps in turn: above 1 is slower. Kept for backward: bytes "
        "that autograd saves, with its ratio to float32's; weights of a package's own are counted.",
        f"nybble: {made['recipe']}; what other layers keep for backward: {_activations(made)}. "
        "First and last layers are wide or float32 for everyone.",
    ]
    return Blocks(tables, lines)


WRITERS: dict[str, Callable[[Record], Blocks]] = {
    "step": _step,
    "memory": _memory,
    "limit": _limit,
    "kernels": _kernels,
    "peers": _peers,
}
"""By the record's `bench`."""
