"""What a format is, as data and as text: for `nybble formats` and for docs/formats.md.

Everything is read from the format itself, so neither the program nor the page can go stale: a test
compares docs/formats.md with `markdown()`. To write the page again after a change:

    python -m nybble.formats.describe > docs/formats.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nybble.formats.base import Format
from nybble.formats.exact import number
from nybble.formats.integer import Integer
from nybble.formats.log import LogFormat
from nybble.formats.registry import FORMATS
from nybble.formats.rounding import rounding_name

#: Formats up to this width are printed with every code.
TABLE_BITS = 8


def unused_codes(fmt: Format) -> set[int]:
    """Return the codes that decode but are never given: -2^(bits-1) of the symmetric forms.

    >>> from nybble.formats import INT4_SYM
    >>> unused_codes(INT4_SYM)
    {8}
    """
    return {1 << (fmt.bits - 1)} if isinstance(fmt, Integer) and fmt.symmetric else set()


def finite_values(fmt: Format) -> list[float]:
    """Return the different finite values, ascending.

    >>> from nybble.formats import FP4_RADIX4
    >>> len(finite_values(FP4_RADIX4))
    15
    """
    unused = unused_codes(fmt)
    used = {v for code, v in enumerate(fmt.values()) if code not in unused}
    return sorted(v for v in used if math.isfinite(v))


def span(fmt: Format) -> str:
    """Return one line: how many values, from where to where.

    >>> from nybble.formats import FP4_RADIX4
    >>> span(FP4_RADIX4)
    '15 distinct values from -64 to 64'
    """
    values = finite_values(fmt)
    return f"{len(values)} distinct values from {number(values[0])} to {number(values[-1])}"


def beside(fmt: Format) -> list[Format]:
    """Return the formats whose values are printed beside this one's: its odd phases.

    >>> from nybble.formats import FP4_RADIX4
    >>> [other.name for other in beside(FP4_RADIX4)]
    ['fp4_radix4_odd', 'fp4_radix4_odd_up']
    """
    if isinstance(fmt, LogFormat) and fmt.base == 4 and fmt.phase == "even":
        return [fmt.odd(-1), fmt.odd(+1)]
    return []


def describe(fmt: Format, *, codes: bool = True) -> dict[str, Any]:
    """Return everything about a format as plain data for JSON (NaN and infinity as text).

    Args:
        codes: include the table of all codes, and of the odd phases beside it, for formats of
            up to 8 bits.

    >>> from nybble.formats import INT4
    >>> describe(INT4)["codes"][15]
    {'code': 15, 'bits': '1111', 'value': -1.0, 'integer': -1}
    """
    values = finite_values(fmt)
    found: dict[str, Any] = {
        "name": fmt.name,
        "bits": fmt.bits,
        "signed": fmt.signed,
        "distinct_values": len(values),
        "smallest_value": values[0],
        "largest_value": values[-1],
        "smallest_positive": min(v for v in values if v > 0),
        "unit": fmt.unit,
        "max_integer": fmt.max_integer,
        "rounding": rounding_name(fmt.default_rounding),
        "special": asdict(fmt.special),
        "source": fmt.source,
        "certainty": fmt.certainty,
    }
    if codes and fmt.bits <= TABLE_BITS:
        found["codes"] = _codes(fmt)
        if beside(fmt):
            found["phases"] = {other.name: _codes(other) for other in beside(fmt)}
    return found


def _codes(fmt: Format) -> list[dict[str, Any]]:
    integers = fmt.integer_values() if fmt.unit is not None else None
    return [
        {
            "code": code,
            "bits": f"{code:0{fmt.bits}b}",
            "value": value if math.isfinite(value) else number(value),
            "integer": integers[code] if integers else None,
        }
        for code, value in enumerate(fmt.values())
    ]


# -- plain text --------------------------------------------------------------------------------


def listing() -> str:
    """Return one line for every registered format.

    >>> listing().splitlines()[0].split()[:3]
    ['name', 'bits', 'values']
    """
    rows = [["name", "bits", "values", "from", "to", "smallest > 0", "certainty"]]
    rows += [_facts(fmt) for fmt in FORMATS.values()]
    return "\n".join(_columns(rows, left=(0, 2, 3, 4, 5, 6)))


def _facts(fmt: Format) -> list[str]:
    values = finite_values(fmt)
    positive = number(min(v for v in values if v > 0))
    certainty = fmt.certainty.split(":")[0].split(";")[0]
    ends = [number(values[0]), number(values[-1])]
    return [fmt.name, str(fmt.bits), str(len(values)), *ends, positive, certainty]


def page(fmt: Format) -> str:
    """Return a format's code table and statements as text.

    >>> from nybble.formats import get_format
    >>> page(get_format("uint2")).splitlines()[6]
    '4 distinct values from 0 to 3'
    """
    lines = [f"{fmt.name}: {fmt.bits} bits, rounding {rounding_name(fmt.default_rounding)}"]
    if fmt.bits <= 5:
        lines += _columns(_table(fmt), left=(1,))
    elif fmt.bits <= TABLE_BITS:
        lines += _grid(fmt)
    lines.append(span(fmt))
    lines += [f"  {other.name}: {span(other)}" for other in beside(fmt)]
    if isinstance(fmt, LogFormat):
        firsts = ", ".join(number(t) for t in fmt.thresholds())
        lines.append(f"rounds up to each magnitude from: {firsts}")
    if fmt.unit is not None and fmt.unit != 1.0:
        lines.append(f"value = integer x {number(fmt.unit)}")
    lines += [f"  {key.replace('_', ' ')}: {text}" for key, text in asdict(fmt.special).items()]
    return "\n".join([*lines, f"source: {fmt.source}", f"certainty: {fmt.certainty}"])


def _table(fmt: Format) -> list[list[str]]:
    others = beside(fmt)
    integers = fmt.integer_values() if fmt.unit not in (None, 1.0) else None
    head = ["code", "bits", "value", *(["integer"] if integers else [])]
    rows = [head + ["odd phase (x 1/2)", "odd phase (x 2)"][: len(others)]]
    unused = unused_codes(fmt)
    for code, value in enumerate(fmt.values()):
        row = [str(code), f"{code:0{fmt.bits}b}", number(value) + " (unused)" * (code in unused)]
        row += [str(integers[code])] if integers else []
        rows.append(row + [number(other.values()[code]) for other in others])
    return rows


def _grid(fmt: Format, across: int = 8) -> list[str]:
    """The values of many codes, eight to a line."""
    values = [number(v) for v in fmt.values()]
    rows = [["code", *(f"+{i}" for i in range(across))]]
    rows += [[str(c), *values[c : c + across]] for c in range(0, len(values), across)]
    return _columns(rows)


def _columns(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# -- the page of the documentation -------------------------------------------------------------

_HEAD = """\
# Number formats

This page is generated from the registry by `python -m nybble.formats.describe`; do not edit it.

A format is a finite set of values and their codes. A number is scaled, rounded to one of the values
and stored as its code; every 4-bit format has at most 16 values. `nybble formats NAME` prints a
format with its code table, `--json` as data.

Rules that hold for all of them:

- input is float32; float16 and bfloat16 are exact in it, float64 is rounded to it first;
- no encoder gives a negative zero, and the code of one decodes to +0;
- a NaN in a format that has no NaN code becomes code 0. The quantizer makes the scale NaN in that
  case, so the NaN is not lost;
- `nearest` sends a tie to the even code. `log-nearest(f)` takes level b^n from b^n / f upwards,
  the tie included; `mid` is the arithmetic midpoint of the base, 1.6 in base 4. `stochastic` takes
  the upper neighbour with probability (|x| - lo) / (hi - lo);
- the scalar oracle `nybble.formats.oracle` defines every result; the torch code equals it bit for
  bit, which the tests check on every code, every threshold with its two neighbours, and two
  million random bit patterns a format.

"Certainty" says how well the definition is known: `standard`, `published`, or what is assumed.
"""


def markdown() -> str:
    """Return docs/formats.md.

    >>> markdown().startswith("# Number formats")
    True
    """
    rows = [["name", "bits", "values", "from", "to", "smallest > 0", "default rounding"]]
    rows += [
        [f"`{f[0]}`", *f[1:6], rounding_name(fmt.default_rounding)]
        for fmt in FORMATS.values()
        for f in [_facts(fmt)]
    ]
    parts = [_HEAD, "## All formats\n", _markdown_table(rows), "## Code tables\n"]
    for fmt in FORMATS.values():
        if fmt.bits == 4 and not (isinstance(fmt, LogFormat) and fmt.phase == "odd"):
            parts += [f"### {fmt.name}\n", f"{span(fmt)}.\n", _markdown_table(_table(fmt))]
    parts.append("## Special numbers, sources\n")
    for fmt in FORMATS.values():
        if isinstance(fmt, Integer) and fmt.bits != 4:
            continue  # the other widths behave as the 4-bit ones
        parts.append(f"### {fmt.name}: special numbers\n")
        special = asdict(fmt.special).items()
        parts.append("\n".join(f"- {key.replace('_', ' ')}: {text}" for key, text in special))
        parts.append(f"- source: {fmt.source}\n- certainty: {fmt.certainty}\n")
    return "\n".join(parts)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
