"""Puts a report together: HTML, style, script and data in one file that asks for nothing.

The data is JSON in a script element that is not run; markup.py makes it safe there. What a run may
contain (names of layers, of data, messages) is escaped where it becomes HTML; the script sets text
only. A content security policy names the hash of the page's own script, so that nothing else could
run, and allows no request.

Without a script the page still has its text and tables.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

from nybble.errors import UserError
from nybble.reports.run.data import PAGE, Run, is_run, read_runs, run_folders
from nybble.reports.run.groups import group, recorded
from nybble.reports.run.markup import embedded
from nybble.reports.run.measures import OPERAND_WORDS, for_script
from nybble.reports.run.sections.alarms import alarms
from nybble.reports.run.sections.bits import bits
from nybble.reports.run.sections.content import Content
from nybble.reports.run.sections.cost import memory, time
from nybble.reports.run.sections.curves import curves, curves_data
from nybble.reports.run.sections.head import head, title
from nybble.reports.run.sections.layers import histograms, layers
from nybble.reports.run.sections.reproduce import reproduce
from nybble.reports.run.sections.result import result
from nybble.training.files import disk_errors, write_atomic

__all__ = ["Report", "make_report", "write_report"]

MARK: Final = '<meta name="generator" content="nybble report">'
COMPARISON: Final = "runs.html"
"""Beside report.html, the page of `nybble compare` itself."""
_PARTS: Final = {
    "result": "Result",
    "alarms": "Alarms",
    "curves": "Curves",
    "layers": "Layers",
    "layer": "One layer",
    "bits": "Bits",
    "memory": "Memory",
    "time": "Time",
    "reproduce": "Reproduce",
}


@dataclass(frozen=True)
class Report:
    """What is shown, and where it goes if nobody says otherwise."""

    content: Content
    path: Path

    def to_html(self) -> str:
        """The whole page."""
        return _page(self.content)

    def to_dict(self) -> dict[str, Any]:
        """What the page says, without the looks at the layers, as JSON values."""
        table = self.content.groups.table
        return {
            "runs": [_run(self.content, run) for run in self.content.runs],
            "baseline": self.content.groups.baseline,
            "rows": table["rows"] if table is not None else [],
            "notes": self.content.groups.notes,
        }


def make_report(
    folders: Sequence[Path], baseline: Path | None = None, command: str = "nybble report"
) -> Report:
    """Read the runs (a folder of `nybble compare` stands for all of its runs).

    Raises:
        UserError: no such run, or a record that a later version wrote (the message names it).
    """
    if not folders:
        raise UserError("report: give at least one run, the folder that `nybble train` wrote to.")
    found = _unique([run for folder in folders for run in run_folders(folder)])
    place = None
    if baseline is not None:
        inside = run_folders(baseline)
        if len(inside) > 1:
            raise UserError(f"--baseline {baseline} holds {len(inside)} runs; name one of them.")
        found = _unique([*inside, *found])
        place = [path.resolve() for path in found].index(inside[0].resolve())
    runs = read_runs(found)
    groups = None
    if len(folders) == 1 and baseline is None and not is_run(folders[0]):
        groups = recorded(folders[0], runs)
    if groups is None:
        groups = group(runs, None if place is None else runs[place])
    path = Path(PAGE)
    if len(folders) == 1:
        path = folders[0] / (PAGE if is_run(folders[0]) else COMPARISON)
    return Report(Content(runs, groups, command), path)


def write_report(report: Report, path: Path | None = None) -> Path:
    """Write the page to `path` (or where it belongs), whole or not at all.

    Raises:
        UserError: a file is there that is no report, or it cannot be written.
    """
    target = path or report.path
    _must_be_ours(target)
    with disk_errors(f"The report {target}"):
        write_atomic(target, report.to_html().encode())
    return target


def _must_be_ours(path: Path) -> None:
    """A report may be made anew; nothing else is overwritten."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--out {path}: give a file in a folder that exists.")
    if not path.exists():
        return
    with disk_errors(f"The report {path}"), path.open("rb") as file:
        start = file.read(1000)
    if MARK.encode() not in start:
        raise UserError(f"--out {path}: the file is there and is no report of a run; name another.")


def _unique(folders: list[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _run(content: Content, run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "label": content.label(run),
        "recipe": run.recipe,
        "seed": run.seed,
        "status": run.status,
        "reason": run.reason or None,
        "metric": run.metric or None,
        "final": run.final,
        "epochs": len(run.epochs),
        "alarms": run.alarms,
        "layers": len(run.layers),
        "notes": run.notes,
    }


def _page(content: Content) -> str:
    parts = {
        "result": result(content),
        "alarms": alarms(content),
        "curves": curves(content),
        "layers": layers(content),
        "layer": histograms(content),
        "bits": bits(content),
        "memory": memory(content),
        "time": time(content),
        "reproduce": reproduce(content),
    }
    links = "".join(f'<a href="#{name}">{_PARTS[name]}</a>' for name, part in parts.items() if part)
    script = _file("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:"
    )
    return "\n".join(
        [
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title(content))}</title>",
            f"<style>\n{_file('style.css')}</style>\n</head>\n<body>",
            head(content),
            f'<nav aria-label="Parts of this page">{links}</nav>',
            "<main>",
            *(part for part in parts.values() if part),
            "</main>",
            f'<script type="application/json" id="data">{embedded(_data(content))}</script>',
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _data(content: Content) -> dict[str, Any]:
    """What the script draws."""
    first = next((run for run in content.runs if run.metric), content.runs[0])
    return {
        "metric": {
            "name": first.metric or "metric",
            "unit": first.unit,
            "up": first.better_high,
        },
        "measures": for_script(),
        "operands": dict(OPERAND_WORDS),
        "runs": [
            {
                "label": content.label(run),
                "group": name,
                "colour": content.colour(run),
                "curve": curves_data(run),
                "looks": None if run.looks is None else run.looks.to_dict(),
                "alarms": [
                    [alarm.get("layer"), alarm.get("operand"), alarm.get("step"), alarm["alarm"]]
                    for alarm in run.alarms
                    if alarm.get("alarm")
                ],
            }
            for run, name in zip(content.runs, content.groups.names, strict=True)
        ],
    }


@lru_cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
