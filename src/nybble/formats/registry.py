"""All formats by name."""

from __future__ import annotations

from nybble.errors import UserError, suggest
from nybble.formats.base import Format
from nybble.formats.e8m0 import E8M0
from nybble.formats.integer import Integer
from nybble.formats.log import LogFormat
from nybble.formats.minifloat import Minifloat
from nybble.formats.table16 import Table16, ZeroLess

INT2, INT3, INT4, INT5, INT6, INT7, INT8 = (Integer(b) for b in range(2, 9))
INT4_SYM = Integer(4, symmetric=True)
INT8_SYM = Integer(8, symmetric=True)
UINT2, UINT3, UINT4, UINT5, UINT6, UINT7, UINT8 = (Integer(b, signed=False) for b in range(2, 9))

FP4_RADIX4 = LogFormat(4, 4)
FP4_RADIX4_ODD = FP4_RADIX4.odd(-1)
FP4_RADIX4_ODD_UP = FP4_RADIX4.odd(+1)
FP4_RADIX2 = LogFormat(2, 4)
LOG4_BASE3, LOG4_BASE8, LOG4_BASE10 = LogFormat(3, 4), LogFormat(8, 4), LogFormat(10, 4)
LOG5_BASE2, LOG3_BASE4, LOG5_BASE4 = LogFormat(2, 5), LogFormat(4, 3), LogFormat(4, 5)

INT4_ZEROLESS = ZeroLess(4)

_OWN = "this project's search for tables that fit 8-bit multipliers"
W20 = Table16((1, 3, 5, 7, 9, 12, 15, 20, -1, -3, -5, -7, -9, -12, -15, -20), "w20", _OWN)
U31 = Table16((0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 23, 27, 31), "u31", _OWN)
S31 = Table16((0, 1, 3, 5, 7, 10, 13, 16, 20, 25, 31, -1, -2, -4, -6, -10), "s31", _OWN)
G31 = Table16((0, 1, 2, 4, 8, 13, 20, 31, 0, -1, -2, -4, -8, -13, -20, -31), "g31", _OWN)

_OFP8 = "OCP 8-bit Floating Point (OFP8) 1.0"
_HFP8 = "HFP8 (Sun et al., NeurIPS 2019)"
FP4_E2M1 = Minifloat("fp4_e2m1", 2, 1, 1, source="OCP Microscaling Formats (MX) 1.0")
FP8_143 = Minifloat(
    "fp8_143",
    4,
    3,
    11,
    source=f"{_HFP8}, weights and activations",
    certainty="assumed: bias 7 + 4 (remembered: an extra bias of 4 recentres 1-4-3 on weights and "
    "activations, up to 30; a bias of 4 would flush weights of 0.01 to zero); no code for NaN or "
    "infinity; saturation",
)
FP8_152 = Minifloat(
    "fp8_152",
    5,
    2,
    15,
    specials="ieee",
    source=f"{_HFP8}, gradients",
    certainty="assumed: bias 15, NaN and infinity as in IEEE 754; saturation",
)
FP8_E4M3 = Minifloat("fp8_e4m3", 4, 3, 7, specials="fn", source=f"{_OFP8}, saturating")
FP8_E5M2 = Minifloat("fp8_e5m2", 5, 2, 15, specials="ieee", source=f"{_OFP8}, saturating")
FP16 = Minifloat(
    "fp16", 5, 10, 15, specials="ieee", overflow="infinity", source="IEEE 754 binary16"
)
BF16 = Minifloat(
    "bf16", 8, 7, 127, specials="ieee", overflow="infinity", source="bfloat16: upper half of FP32"
)
DLFLOAT16 = Minifloat(
    "dlfloat16",
    6,
    9,
    31,
    specials="merged",
    overflow="nan",
    subnormals=False,
    source="IBM DLFloat (Agrawal et al., ARITH 2019)",
    certainty="assumed, from memory: bias 31, no subnormals, one code for NaN and infinity; "
    "rounding to nearest even is this library's choice",
)

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
    FP4_E2M1,
    INT4_ZEROLESS,
    *(W20, U31, S31, G31),
    *(LOG5_BASE2, LOG3_BASE4, LOG3_BASE4.odd(-1), LOG5_BASE4, LOG5_BASE4.odd(-1)),
    *(INT2, INT3, INT5, INT6, INT7, INT8, INT8_SYM),
    *(UINT2, UINT3, UINT5, UINT6, UINT7, UINT8),
    FP8_143,
    FP8_152,
    FP8_E4M3,
    FP8_E5M2,
    E8M0,
    FP16,
    BF16,
    DLFLOAT16,
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
