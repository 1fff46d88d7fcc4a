"""All formats by name."""

from __future__ import annotations

from nybble.errors import UserError, suggest
from nybble.formats.base import Format
from nybble.formats.integer import Integer
from nybble.formats.log import LogFormat

INT2, INT3, INT4, INT5, INT6, INT7, INT8 = (Integer(b) for b in range(2, 9))
INT4_SYM = Integer(4, symmetric=True)
INT8_SYM = Integer(8, symmetric=True)
UINT2, UINT3, UINT4, UINT5, UINT6, UINT7, UINT8 = (Integer(b, signed=False) for b in range(2, 9))

FP4_RADIX4 = LogFormat(4, 4)
FP4_RADIX4_ODD = FP4_RADIX4.odd(-1)
FP4_RADIX4_ODD_UP = FP4_RADIX4.odd(+1)
FP4_RADIX2 = LogFormat(2, 4)
LOG4_BASE3, LOG4_BASE8, LOG4_BASE10 = LogFormat(3, 4), LogFormat(8, 4), LogFormat(10, 4)

_ALL: tuple[Format, ...] = (
    INT4,
    INT4_SYM,
    UINT4,
    FP4_RADIX4,
    FP4_RADIX4_ODD,
    FP4_RADIX4_ODD_UP,
    FP4_RADIX2,
    LOG4_BASE3,
    LOG4_BASE8,
    LOG4_BASE10,
    *(INT2, INT3, INT5, INT6, INT7, INT8, INT8_SYM),
    *(UINT2, UINT3, UINT5, UINT6, UINT7, UINT8),
)

#: Every registered format by its name, 4-bit formats first.
FORMATS: dict[str, Format] = {fmt.name: fmt for fmt in _ALL}


def get_format(name: str) -> Format:
    """Return a registered format.

    Raises:
        UserError: an unknown name; the message has the nearest known one.

    >>> get_format("int4").max_integer
    8
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise UserError(
            f"unknown format {name!r}.{suggest(name, FORMATS)} Known: {', '.join(FORMATS)}."
        ) from None
