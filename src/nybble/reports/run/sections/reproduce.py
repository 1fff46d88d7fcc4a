"""How to repeat the run, and everything that its numbers depend on."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from nybble.reports.run.command import command
from nybble.reports.run.data import Run
from nybble.reports.run.markup import definitions, details, section
from nybble.reports.run.sections.content import Content

__all__ = ["reproduce"]

SENTENCE = (
    "The command below repeats the run. On the same machine, with the same versions and number of "
    "threads, every number comes out the same to the last bit; elsewhere it comes out close."
)
_MOST = 24


def reproduce(content: Content) -> str:
    """The section."""
    parts: list[str] = []
    record = content.groups.table or {}
    if record.get("command"):
        parts.append(_commands([str(record["command"])]))
    else:
        lines = [command(run.config) for run in content.runs[:_MOST] if run.config]
        if lines:
            parts.append(_commands(lines))
        if len(content.runs) > _MOST:
            parts.append(f"<p>And {len(content.runs) - _MOST} more runs.</p>")
        if not lines:
            parts.append("<p>No file of the run says what was asked for.</p>")
    first = next((run for run in content.runs if run.result is not None), None)
    if first is not None:
        parts.append(_where(content, first))
    for run in content.runs[:1]:
        if run.config:
            parts.append(details(f"Every setting of {content.label(run)}", _config(run)))
    parts.append(
        f'<p class="muted">This page: <code>{escape(content.command)}</code>. It needs no '
        "connection and loads nothing.</p>"
    )
    return section("reproduce", "How to reproduce it", SENTENCE, *parts)


def _commands(lines: list[str]) -> str:
    """Command lines that are broken before an option, not inside one."""
    shown = "\n".join(
        " ".join(f'<span class="word">{escape(word)}</span>' for word in re.split(" (?=--)", line))
        for line in lines
    )
    return f"<pre>{shown}</pre>"


def _where(content: Content, run: Run) -> str:
    result: dict[str, Any] = run.result or {}
    data = result.get("data") or {}
    values = {
        **{str(k): _text(v) for k, v in (result.get("versions") or {}).items()},
        **{str(k): _text(v) for k, v in (result.get("machine") or {}).items()},
        "commit": result.get("commit") or "unknown",
        "data": f"{data.get('name')}: {data.get('train')} training, {data.get('test')} test items",
        "data's SHA-256": data.get("sha256"),
        "folder": str(run.folder),
    }
    start = result.get("start")
    if isinstance(start, dict):
        values["began with"] = _text(start.get("from"))
    if not content.one:
        values["of"] = content.label(run)
    return "<h3>Versions and machine</h3>" + definitions(values)


def _config(run: Run) -> str:
    return definitions({str(key): _text(value) for key, value in run.config.items()})


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
