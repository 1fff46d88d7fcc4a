"""Which backend computes a Gemm: by name, or what is there.

    reference   plain torch operators on decoded integer codes (`ops/reference`)
    native      C++ kernels on packed codes, where `ops.native.available()` says so

`auto` takes the reference backend as long as native has no Gemm kernels. Asking for a backend by
name that is not there is an error: there is no silent fall-back.
"""

from __future__ import annotations

from nybble.errors import UserError, suggest
from nybble.ops.native import available

BACKENDS = ("reference", "native")


def choose_backend(name: str, *, strict: bool = False) -> str:
    """The backend that `name` stands for; UserError if it is unknown or not built.

    `strict` refuses `auto` to mean a slower backend than the fastest that this version has kernels
    for; that is the reference backend now, so it changes nothing yet.

    >>> choose_backend("auto")
    'reference'
    """
    if name in ("auto", "reference"):
        return "reference"
    if name == "native":
        raise UserError(
            f"backend 'native' cannot compute here ({available().reason}): use"
            " backend='reference', which computes the same function with torch"
        )
    raise UserError(
        f"unknown backend {name!r}: use auto, reference or native.{suggest(str(name), BACKENDS)}"
    )
