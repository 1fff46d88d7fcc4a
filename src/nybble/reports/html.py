"""A comparison as one HTML page that needs nothing else: no script, no request, figures inside.

The page says what was compared, the table with its notes, the curves, every run, how it was
configured and where it ran, and the command that repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from nybble.reports import figures
from nybble.reports.cells import cells, duration, header, notes
from nybble.training.files import disk_errors, write_atomic

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.sub { color: #555; margin-top: .2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; }
thead th { border-bottom: 2px solid #333; white-space: nowrap; }
tbody th { font-weight: 600; }
tr.bad td { color: #a40000; }
.chip { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
ul.notes { padding-left: 1.1rem; color: #333; }
figure { margin: 0; }
.figures { display: grid; gap: 1.5rem;
           grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
figure svg { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(record: Mapping[str, Any]) -> str:
    """The whole page as text.

    >>> from nybble.studies import sample
    >>> text = page(sample.record())
    >>> text.startswith("<!DOCTYPE html>"), "-1.20 [-3.74, +1.34]" in text
    (True, True)
    """
    title = escape(str(record["title"]))
    environment = record["environment"]
    seeds = ", ".join(map(str, record["seeds"]))
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="sub">{escape(", ".join(record["recipes"]))}; seeds {seeds}; '
        f"{escape(str(record['created']))}</p>",
        "<h2>Result</h2>",
        _result(record),
        _list("notes", notes(record)),
        "<h2>Curves</h2>",
        _figures(record),
        "<h2>Runs</h2>",
        _runs(record),
        _selection(record),
        "<h2>Configuration of every run</h2>",
        _definitions(record["configuration"]),
        "<h2>Machine and versions</h2>",
        _definitions({**environment["machine"], **environment["versions"]}),
        _definitions({"commit": environment.get("commit") or "unknown"}),
        "<h2>To repeat it</h2>",
        f"<pre>{escape(str(record['command']))}</pre>",
        "<p>The same seed gives every recipe the same initial weights, batches and augmentation; "
        "on the same machine, threads and versions, the results repeat exactly.</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def write_page(path: Path, record: Mapping[str, Any]) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with disk_errors(f"The page {path}"):
        write_atomic(path, page(record).encode())


def _result(record: Mapping[str, Any]) -> str:
    colours = figures.palette(record)
    lines = []
    for row in record["rows"]:
        first, *rest = (escape(cell) for cell in cells(record, row))
        bad = row["finished"] != row["runs"] or row["dead_layers"]
        chip = f'<span class="chip" style="background:{colours[row["recipe"]][0]}"></span>'
        lines.append(
            f'<tr{" class=bad" if bad else ""}><th scope="row">{chip}{first}</th>'
            + "".join(f"<td>{cell}</td>" for cell in rest)
            + "</tr>"
        )
    return _table(header(record), lines)


def _table(titles: Iterable[str], lines: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _list(kind: str, items: Iterable[str]) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(i)}</li>" for i in items) + "</ul>"


def _figures(record: Mapping[str, Any]) -> str:
    drawn = [
        figures.metric_curves(record),
        figures.loss_curves(record),
        figures.metric_curves(record, "seconds"),
        figures.differences(record),
    ]
    text = "".join(f"<figure>{svg}</figure>" for svg in drawn if svg)
    return (
        f'<div class="figures">{text}</div>'
        "<p>Thin lines: single seeds. Thick lines: their mean. Dots: single seeds; "
        "diamond and bar: mean difference and its 95 % interval.</p>"
    )


def _runs(record: Mapping[str, Any]) -> str:
    digits = int(record["metric"].get("digits", 2))
    lines = []
    for run in record["runs"]:
        metric = "-" if run["metric"] is None else f"{run['metric']:.{digits}f}"
        seconds = "-" if run["seconds"] is None else duration(run["seconds"])
        status = run["status"] + (f": {run['reason']}" if run["reason"] else "")
        row = [str(run["seed"]), run["recipe"], metric, seconds, status]
        row.append(", ".join(run["dead_layers"]) or "none")
        bad = run["status"] != "complete" or run["dead_layers"]
        body = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{' class=bad' if bad else ''}>{body}</tr>")
    titles = ("seed", "recipe", record["metric"]["name"], "training", "status", "dead layers")
    return _table(titles, lines)


def _selection(record: Mapping[str, Any]) -> str:
    selection = record.get("selection")
    if not selection:
        return ""
    digits = int(record["metric"].get("digits", 2))
    lines = []
    for candidate in selection["candidates"]:
        values = ", ".join("-" if v is None else f"{v:.{digits}f}" for v in candidate["values"])
        mean = "-" if candidate["mean"] is None else f"{candidate['mean']:.{digits}f}"
        mark = " (chosen)" if candidate["recipe"] == selection["winner"] else ""
        cells_ = (candidate["recipe"] + mark, mean, values)
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells_) + "</tr>")
    seeds = ", ".join(map(str, selection["seeds"]))
    titles = ("setting", f"mean {record['metric']['name']}", f"seeds {seeds}")
    return f"<h2>How the marked row was chosen</h2>{_table(titles, lines)}"


def _definitions(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
        if value is not None
    )
    return f"<dl>{items}</dl>"
