"""What the run cost: bytes kept for backward, and time by cause."""

from __future__ import annotations

from typing import Any

from nybble.reports.cells import duration, share, size
from nybble.reports.run.data import Run
from nybble.reports.run.markup import bars, bullets, section, table
from nybble.reports.run.sections.content import Content

__all__ = ["memory", "time"]

MEMORY = (
    "What the network must keep of a step's forward pass until its backward pass: the less, the "
    "larger the batch or the network that fits in the same memory."
)
TIME = (
    "Where the time of the run went: training steps are the work itself, tests are its checks; a "
    "large share of tests means that epochs are short."
)


def memory(content: Content) -> str:
    """The section on memory."""
    kept: dict[str, tuple[Run, int]] = {}
    for run, name in zip(content.runs, content.groups.names, strict=True):
        count = (run.result or {}).get("saved_bytes")
        if isinstance(count, int) and name not in kept:
            kept[name] = (run, count)
    if not kept:
        text = "It was not measured: the run ended before its first step."
        return section("memory", "Memory", MEMORY, f"<p>{text}</p>")
    base = kept.get(content.groups.baseline or "")
    rows = []
    for name, (run, count) in kept.items():
        text = size(count)
        if base is not None and run is not base[0] and count:
            text += f" ({share(count, base[1])})"
        rows.append((name, float(count), text, content.colour(run)))
    notes = ["Counted in the first training step, not estimated: it is the same for every seed."]
    if base is None or len(kept) == 1:
        notes.append(
            "Beside float32: `nybble report RUN --baseline RUN`, with a float32 run of the same "
            "model and batch size as the baseline."
        )
    first = next(iter(kept.values()))[0]
    parameters = ((first.result or {}).get("model") or {}).get("parameters")
    if isinstance(parameters, int):
        notes.append(
            f"Beside it, the {parameters:,} weights of the model are kept in float32 for the "
            f"optimizer: {size(4 * parameters)}{_optimizer(first)}."
        )
    return section("memory", "Memory", MEMORY, bars(rows, "kept for the backward pass"),
                   bullets(notes))  # fmt: skip


def _optimizer(run: Run) -> str:
    """What the optimizer keeps beside the weights."""
    if run.config.get("optimizer") == "adamw":
        return ", and twice as much again for the moments of AdamW"
    return ", and as much again for momentum" if run.config.get("momentum") else ""


def time(content: Content) -> str:
    """The section on time."""
    timed = [run for run in content.runs if run.epochs]
    if not timed:
        text = "No epoch was finished, so no time was recorded."
        return section("time", "Time by cause", TIME, f"<p>{text}</p>")
    head = ("run", "a step (median)", "training steps", "tests", "processor time", "machine")
    rows = [_row(content, run) for run in timed]
    notes = [
        "A step is the median of the last epoch; processor time is that of the training steps, of "
        "all threads together. Loading data and saving are in neither.",
        "Times depend on what else the machine does; to compare speeds, measure recipes in turn in "
        "one process: `nybble bench step`.",
        "What inside a step takes the time (the three Gemms, quantising, normalisation, ...): "
        "`nybble bench step --profile`. A run does not record that.",
    ]
    parts = [table(head, rows), bullets(notes)]
    if content.one:
        train, test = _sum(timed[0], "seconds"), _sum(timed[0], "test_seconds")
        whole = (train + test) or 1.0
        shown = [
            ("training steps", train, f"{duration(train)}, {100 * train / whole:.0f} %",
             "var(--c0)"),
            ("tests", test, f"{duration(test)}, {100 * test / whole:.0f} %", "var(--c1)"),
        ]  # fmt: skip
        parts.insert(0, bars(shown, "time by cause"))
    return section("time", "Time by cause", TIME, *parts)


def _sum(run: Run, key: str) -> float:
    values = [epoch.get(key) for epoch in run.epochs]
    return float(sum(v for v in values if isinstance(v, int | float)))


def _row(content: Content, run: Run) -> list[str]:
    wall, cpu = _sum(run, "seconds"), _sum(run, "cpu_seconds")
    machine: dict[str, Any] = (run.result or {}).get("machine") or {}
    step = run.epochs[-1].get("step_ms")
    busy = f", {cpu / wall:.1f} cores busy" if wall and cpu else ""
    threads = machine.get("threads", "?")
    return [
        content.label(run),
        f"{step:.1f} ms" if isinstance(step, int | float) else "-",
        duration(wall),
        duration(_sum(run, "test_seconds")),
        (duration(cpu) if cpu else "-") + busy,
        f"{machine.get('cpu', 'unknown processor')}, {threads} thread{'' if threads == 1 else 's'}",
    ]
