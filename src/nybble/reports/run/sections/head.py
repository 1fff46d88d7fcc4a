"""The top of the page: what ran, how it ended, and the few numbers that one looks for first."""

from __future__ import annotations

from html import escape
from typing import Any

from nybble.reports.cells import size
from nybble.reports.run import bits
from nybble.reports.run.data import Run
from nybble.reports.run.markup import bullets
from nybble.reports.run.sections.content import Content, shown

__all__ = ["head", "title"]

SEE = "see below"
WORDS = {
    "complete": ("complete", "good"),
    "interrupted": ("interrupted", "warn"),
    "running": ("still running", "warn"),
    "failed": ("failed", "bad"),
    "crashed": ("crashed", "bad"),
}


def title(content: Content) -> str:
    """One line.

    >>> from pathlib import Path
    >>> from nybble.reports.run.groups import group
    >>> run = Run(Path("x"), {"recipe": "luq", "model": "cnn", "data": "mnist"}, None, "crashed")
    >>> title(Content([run], group([run]), ""))
    'luq: cnn on mnist'
    """
    config = content.runs[0].config
    kinds = list(dict.fromkeys(content.groups.names))
    what = ", ".join(kinds) if len(kinds) <= 3 else f"{len(kinds)} kinds of run"
    where = f"{config.get('model', 'a model')} on {config.get('data', 'unknown data')}"
    return f"{what}: {where}" if config else f"the run in {content.runs[0].folder.name}"


def head(content: Content) -> str:
    """Title, status, tiles, and notes about what is missing."""
    first = content.runs[0]
    config = first.config
    about: list[str] = []
    if content.one and first.seed is not None:
        about.append(f"seed {first.seed}")
    if not content.one:
        seeds = sorted({run.seed for run in content.runs if run.seed is not None})
        about.append(f"{len(content.runs)} runs, seeds {', '.join(map(str, seeds))}")
    about += [str(config["task"])] if "task" in config else []
    written = (first.result or {}).get("written")
    about += [str(written)] if written and content.one else []
    parts = [
        f"<h1>{escape(title(content))}</h1>",
        f'<p class="sub">{escape("; ".join(about))}</p>',
        *(_status(content, run) for run in _told(content)),
        _tiles(content) if content.one else "",
        bullets([*_notes(content), *([] if content.one else content.groups.notes)]),
    ]
    return "<header>" + "\n".join(part for part in parts if part) + "</header>"


def _told(content: Content) -> list[Run]:
    """The runs whose status is said at the top: a single one, and those that did not end well."""
    if content.one:
        return content.runs
    return [run for run in content.runs if run.status != "complete"]


def _status(content: Content, run: Run) -> str:
    word, kind = WORDS.get(run.status, (run.status, "warn"))
    who = "" if content.one else f"{escape(content.label(run))}: "
    steps = ""
    if run.result is not None and run.result.get("total_steps"):
        done = "all" if run.status == "complete" else run.result.get("steps")
        steps = f" {done} of {run.result['total_steps']} steps" if done != "all" else (
            f" after {run.result['total_steps']} steps"
        )  # fmt: skip
    if run.status == "crashed" and steps:
        steps += " when it last wrote its record"
    reason = f": {run.reason}" if run.reason else ""
    return (
        f'<p class="status">{who}<span class="chip {kind}">{escape(word)}</span>'
        f"{escape(steps + reason)}</p>"
    )


def _notes(content: Content) -> list[str]:
    return [
        note if content.one else f"{content.label(run)}: {note}"
        for run in content.runs
        for note in run.notes
    ]


def _tiles(content: Content) -> str:
    """Five numbers of a single run."""
    run = content.runs[0]
    result: dict[str, Any] = run.result or {}
    found: list[tuple[str, str, str]] = []
    if run.final is not None:
        better = "higher is better" if run.better_high else "lower is better"
        value = run.epochs[-1][f"test_{run.metric}"]
        found.append((f"{run.metric} on test data", shown(run, value), better))
    layers, _ = bits.layers(run)
    if layers:
        four = sum(layer.bits <= 4 for layer in layers)
        found.append(("layers all in 4 bits", f"{four} of {len(layers)}", "more save more"))
    if result.get("saved_bytes"):
        text = size(int(result["saved_bytes"]))
        found.append(("kept for the backward pass", text, "less is better"))
    if run.epochs and isinstance(run.epochs[-1].get("step_ms"), int | float):
        text = f"{run.epochs[-1]['step_ms']:.1f} ms"
        found.append(("a training step", text, "less is better"))
    if run.result is not None or run.looks is not None:
        count = len(run.alarms)
        found.append(("alarms", str(count), "none is good" if count == 0 else SEE))
    tiles = "".join(
        f'<div class="tile{" bad" if word == SEE else ""}"><span>{escape(name)}</span>'
        f"<b>{escape(value)}</b><small>{escape(word)}</small></div>"
        for name, value, word in found
    )
    return f'<div class="tiles">{tiles}</div>' if tiles else ""
