"""Which backend computes a Gemm: by name, or what is there.

    reference   plain torch operators on decoded integer codes (`ops/reference`)
    native      C++ kernels on packed codes; not in this version

`auto` takes native where it can compute the Gemm, else reference. Asking for a backend by name
that is not there is an error: there is no silent fall-back.
"""

from __future__ import annotations

from nybble.errors import UserError, suggest

BACKENDS = ("reference", "native")


def choose_backend(name: str, *, strict: bool = False) -> str:
    """The backend that `name` stands for; UserError if it is unknown or not built.

    `strict` refuses `auto` to mean a slower backend than the fastest that this version has; the
    reference backend is that fastest one now, so it changes nothing yet.

    >>> choose_backend("auto")
    'reference'
    """
    if name in ("auto", "reference"):
        return "reference"
    if name == "native":
        raise UserError(
            "backend 'native' has no kernels in this version: use backend='reference', which"
            " computes the same function with torch"
        )
    raise UserError(
        f"unknown backend {name!r}: use auto, reference or native.{suggest(name, BACKENDS)}"
    )
