"""`nybble report`: one page of a run, or of several side by side."""

from __future__ import annotations

import json as json_text
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of `nybble train`, finished or not, or of `nybble compare`.",
            show_default=False,
        ),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(help="The run that the others are compared with; float32 if not given."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page. RUN/report.html if not given (of a comparison runs.html, of several "
            "runs ./report.html)."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Also print what the page says, as JSON.")
    ] = False,
) -> None:
    """Make one HTML page of a run, or of several side by side.

    Example: nybble report runs/vision-mnist5k-resnet8-sun2020-s0 --baseline runs/vision-mnist5k-resnet8-fp32-s0

    The page needs nothing else: it opens without a connection, on a phone and in print. Runs of
    equal seeds are compared in pairs, with 95 % intervals. A run that failed has its page too.
    """  # noqa: E501
    from nybble.reports.run import make_report, write_report

    report = make_report(runs, baseline, shlex.join(["nybble", *sys.argv[1:]]))
    path = write_report(report, out)
    if json:
        found = {"report": str(path), "bytes": path.stat().st_size, **report.to_dict()}
        typer.echo(json_text.dumps(found, indent=1, allow_nan=False))
    else:
        typer.echo(f"report: {path}")
