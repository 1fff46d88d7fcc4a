"""Pieces of HTML. Everything that comes from a run goes through `escape` here or in its caller."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = [
    "Raw",
    "bars",
    "bullets",
    "definitions",
    "details",
    "embedded",
    "number",
    "prose",
    "section",
    "table",
]


_CODE = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"(?<!\S)(--\S+)")


class Raw(str):
    """Text that is HTML already."""


def cell(value: object) -> str:
    """A value as HTML; `Raw` stays as it is."""
    return str(value) if isinstance(value, Raw) else escape(str(value))


def prose(text: object) -> str:
    """A sentence as HTML; what stands between backticks is code.

    >>> prose("`nybble report --json` <x>")
    '<code>nybble report <span class="word">--json</span></code> &lt;x&gt;'
    """

    def code(found: re.Match[str]) -> str:
        # A line must not break behind the hyphens of an option.
        words = _OPTION.sub(r'<span class="word">\1</span>', found[1])
        return f"<code>{words}</code>"

    return str(text) if isinstance(text, Raw) else _CODE.sub(code, escape(str(text)))


def section(name: str, title: str, sentence: str, *parts: str) -> str:
    """A part of the page; `sentence` says in plain words what is seen and what is good or bad."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2>\n<p class="lead">{prose(sentence)}</p>\n'
        f"{body}\n</section>"
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], bad: Iterable[bool] = (), kind: str = ""
) -> str:
    """A table whose first column names its row; `bad`: of each row, whether to warn.

    >>> table(["a"], [["<b>"]]).count("&lt;b&gt;")
    1
    """
    marks = list(bad)
    lines = []
    for place, row in enumerate(rows):
        first, *rest = (cell(value) for value in row)
        mark = ' class="bad"' if place < len(marks) and marks[place] else ""
        lines.append(
            f'<tr{mark}><th scope="row">{first}</th>'
            + "".join(f"<td>{value}</td>" for value in rest)
            + "</tr>"
        )
    top = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "\n".join(lines)
    # A region that scrolls must be reachable by the keyboard.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="{kind}">'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """What is folded away until it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def bullets(items: Iterable[str], kind: str = "notes") -> str:
    """A list; empty without items."""
    lines = "".join(f"<li>{prose(item)}</li>" for item in items)
    return f'<ul class="{kind}">{lines}</ul>' if lines else ""


def definitions(values: Mapping[str, Any]) -> str:
    """Names and values; those that are None are left out."""
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{cell(value)}</dd>"
        for name, value in values.items()
        if value is not None
    )
    return f"<dl>{items}</dl>"


def bars(rows: Sequence[tuple[str, float, str, str]], title: str) -> str:
    """Horizontal bars without a script: (label, value, text, CSS colour) each, from zero on."""
    most = max((value for _, value, _, _ in rows), default=0.0) or 1.0
    lines = "".join(
        f'<div class="bar"><span class="name">{escape(label)}</span><span class="track">'
        f'<span class="fill" style="width:{100 * max(0.0, value) / most:.2f}%;'
        f'background:{colour}"></span></span><span class="value">{escape(text)}</span></div>'
        for label, value, text, colour in rows
    )
    return (
        f'<figure class="static" data-drawn="true"><figcaption>{escape(title)}</figcaption>'
        f'<div class="bars">{lines}</div></figure>'
    )


def number(value: Any, digits: int = 3) -> str:
    """A number in few digits, or a dash.

    >>> number(0.123456), number(None), number(True), number(123456.0)
    ('0.123', '-', '-', '1.23e+05')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    return f"{value:.{digits}g}"


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a
    comment, and no character of it ends a line in JavaScript.

    >>> embedded({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
