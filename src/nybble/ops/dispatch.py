"""Which backend computes a Gemm: by name, or what is there.

    reference   plain torch operators on decoded integer codes (`ops/reference`), on any device
    native      C++ kernels on packed codes (`ops/native`), on the CPU where the module is compiled
    auto        native for tensors on the CPU where it is there, reference for the others

Both compute the same function: native equals reference with exact sums, bit for bit. Asking for
native by name where it cannot run is an error, also when the tensors turn out to lie on another
device: there is no silent fall-back.
"""

from __future__ import annotations

from torch import Tensor

from nybble.errors import UserError, suggest
from nybble.ops.native import available, core

BACKENDS = ("reference", "native")


def choose_backend(name: str, *, strict: bool = False) -> str:
    """`auto`, `reference` or `native`, checked; UserError if it is unknown or not built.

    `auto` without a compiled module is the reference backend, which `strict` refuses.

    >>> choose_backend("reference")
    'reference'
    """
    if name == "reference":
        return name
    if name not in ("auto", "native"):
        raise UserError(
            f"unknown backend {name!r}: use auto, reference or native."
            f"{suggest(str(name), BACKENDS)}"
        )
    found = available()
    if found:
        return name
    if name == "native":
        raise UserError(
            f"backend 'native' cannot compute here ({found.reason}): use"
            " backend='reference', which computes the same function with torch"
        )
    if strict:
        raise UserError(
            f"strict=True: the native backend cannot compute here ({found.reason}); name"
            " backend='reference' to accept the slower one"
        )
    return "reference"


def runs_native(backend: str, x: Tensor) -> bool:
    """Whether a call with `x` goes to the native kernels; UserError if it was asked for and cannot.

    Fake tensors, which torch.compile traces with, have no memory: their results come from the
    reference functions, whose shapes are the same.
    """
    if backend == "reference":
        return False
    if type(x) is not Tensor and type(x).__name__ == "FakeTensor":
        return False
    if x.is_cpu and core()[0] is not None:
        return True
    if backend == "native":
        raise UserError(
            f"backend 'native' computes on the CPU, but the tensor is on {x.device}: convert with"
            " backend='auto' or 'reference'"
        )
    return False
