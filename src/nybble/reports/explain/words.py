"""Numbers as a reader sees them: few digits, a real minus sign, thousands apart.

    number(x)    three significant digits; powers of ten beyond 0.0001 .. 1,000,000
    percent(x)   a share: whole per cents, one digit below ten, never 0 % or 100 % by rounding alone

Not done here: other languages than English.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

MINUS = "−"
_FIXED = "\u00a0"  # a space where no line is broken
_UP = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(x: float, digits: int = 3) -> str:
    r"""`x` with `digits` significant digits.

    >>> [number(v) for v in (0.0, -3.5, 1234.0, 16.0, 0.015625, 2e-6)]
    ['0', '−3.5', '1,230', '16', '0.0156', '2\xa0×\xa010⁻⁶']
    """
    if math.isnan(x):
        return "not a number"
    if math.isinf(x):
        return f"{MINUS if x < 0 else ''}infinity"
    if x == 0:
        return "0"
    sign, size = (MINUS if x < 0 else ""), abs(x)
    exponent = int(f"{size:.{digits - 1}e}".partition("e")[2])
    if not -4 <= exponent < 6:
        mantissa = _plain(float(f"{size:.{digits - 1}e}".partition("e")[0]), digits - 1)
        return f"{sign}{mantissa}{_FIXED}×{_FIXED}10{str(exponent).translate(_UP)}"
    rounded = round(size, digits - 1 - exponent)
    return sign + _plain(rounded, max(0, digits - 1 - exponent))


def whole(x: float) -> str:
    """A whole number, every digit of it.

    >>> whole(4294967296)
    '4,294,967,296'
    """
    return f"{round(x):,}".replace("-", MINUS)


def percent(share: float) -> str:
    r"""A share of 1.

    >>> [percent(v) for v in (0.0, 0.322, 0.0421, 1.0, -0.134)]
    ['0\xa0%', '32\xa0%', '4.2\xa0%', '100\xa0%', '−13\xa0%']
    >>> percent(0.9998), percent(0.0001)
    ('nearly 100\xa0%', 'less than 0.1\xa0%')
    """
    if not math.isfinite(share):
        return number(share)
    sign, size = (MINUS if share < 0 else ""), 100 * abs(share)
    if 0 < size < 0.1:
        return f"less than {_plain(0.1, 1)}{_FIXED}%"
    if 99.5 <= size < 100:
        return f"nearly {100}{_FIXED}%"
    return f"{sign}{_plain(size, 1 if size < 9.95 else 0)}{_FIXED}%"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items as in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def ordinary_bytes(count: float) -> str:
    """A size in memory.

    >>> ordinary_bytes(512), ordinary_bytes(53_400)
    ('512 bytes', '53.4 kB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{number(count / size)} {unit}"
    return f"{whole(count)} bytes"


def spelled(count: int) -> str:
    """A small count as a word.

    >>> spelled(3), spelled(40)
    ('three', '40')
    """
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return names[count] if 0 <= count < len(names) else whole(count)


def paragraphs(*texts: str) -> str:
    """One <p> for each text that is not empty."""
    return "\n".join(f"<p>{text}</p>" for text in texts if text)


def table(head: tuple[str, ...], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; the first cell of each row heads it. Cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _plain(x: float, decimals: int) -> str:
    text = f"{x:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
