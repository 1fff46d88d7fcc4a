"""Hostile arguments to the public functions: run as a child, see test_fuzz.py.

`nybble.quantize` takes torch and NumPy of every float type and byte order; `nybble.matmul` takes
QTensors, whose codes may be any bytes. Whatever is refused is refused with a message; the rest must
equal the reference backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tests.ops.native.variants import REFUSALS, same, without_numbers, wrong
from torch import Tensor

import nybble
from nybble.quantizers import AbsMax, MinMax

FORMATS = ("int4", "int4_sym", "uint4", "fp4_radix4", "fp4_radix2", "fp4_e2m1", "int8_sym")
X = torch.randn(6, 70, generator=torch.Generator().manual_seed(0))
INT4 = nybble.Quantizer(nybble.get_format("int4_sym"), AbsMax())

Attack = tuple[str, Callable[[], Any], Callable[[], Any] | None]


def arrays() -> Iterator[tuple[str, Any, bool]]:
    """(what it is, a NumPy array or other object, whether it holds X)."""
    x = X.numpy()
    yield "big-endian", x.astype(">f4"), True
    yield "float64", x.astype(np.float64), True
    yield "big-endian float64", x.astype(">f8"), True
    yield "Fortran order", np.asfortranarray(x), True
    yield "negative strides", x[::-1].copy()[::-1], True
    yield "read-only", np.frombuffer(x.tobytes(), dtype=np.float32).reshape(x.shape), True
    shifted = np.frombuffer(b"\0" + x.tobytes(), dtype=np.uint8)[1:]
    yield "unaligned", shifted.view(np.float32).reshape(x.shape), True
    yield "masked", np.ma.masked_array(x, mask=False), True
    yield "integers", x.astype(np.int32), False
    yield "complex", x.astype(np.complex64), False
    yield "objects", x.astype(object), False
    yield "text", np.array([["a"]]), False
    yield "structured", np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]), False
    yield "times", np.zeros(3, dtype="datetime64[s]"), False
    yield "a list", x.tolist(), False
    yield "None", None, False
    yield "a number", 1.0, False


def attacks() -> Iterator[Attack]:
    """(name, call, reference or None where the call must be refused)."""
    whole = lambda: nybble.quantize(X, INT4).dequantize()  # noqa: E731
    for what, x, good in arrays():
        call = lambda x=x: torch.as_tensor(nybble.quantize(x, INT4).dequantize())  # noqa: E731
        yield f"quantize NumPy {what}", call, whole if good else None
    for what, x in same(X):
        if what != "longer":
            call = lambda x=x: nybble.quantize(x, INT4).dequantize().reshape(X.shape)  # noqa: E731
            yield f"quantize {what}", call, whole
    for what, x in wrong(X):
        if what not in ("empty", "short"):
            yield f"quantize {what}", lambda x=x: nybble.quantize(x, INT4), None
    for name in FORMATS:
        yield from products(name)
    q = nybble.quantize(X, INT4)
    yield "matmul of a tensor", lambda: nybble.matmul(X, X), None  # type: ignore[arg-type]
    yield "matmul of vectors", lambda: nybble.matmul(replace(q, shape=(420,)), q), None
    yield "matmul of shapes", lambda: nybble.matmul(q, q), None
    for shape in ((-6, -70), (6, -70), (2**40, 2**40), (6, 71), (420,), (0, 70)):
        yield f"QTensor of {shape}", lambda s=shape: nybble.matmul(replace(q, shape=s), q), None
    for what, packed in [*wrong(q.packed), *without_numbers(q.packed)]:
        yield f"QTensor {what}", lambda p=packed: product(replace(q, packed=p)), None


def product(q: nybble.QTensor, backend: str = "native") -> Tensor:
    other = nybble.quantize(X.t().contiguous(), INT4)
    return nybble.matmul(q, other, backend=backend)


def products(name: str) -> Iterator[Attack]:
    """Codes that are any bytes, and packed tensors in other forms: native equals reference."""
    fmt = nybble.get_format(name)
    scales = [AbsMax()]
    if name in ("int4", "uint4"):
        scales.append(MinMax())  # type: ignore[arg-type]
    for scale in scales:
        q = nybble.quantize(X, nybble.Quantizer(fmt, scale))
        every = torch.arange(q.packed.numel()).to(torch.uint8)
        for what, packed in (
            ("as they are", q.packed),
            ("every byte", every),
            ("all ones", torch.full_like(q.packed, 255)),
            ("high bit", torch.full_like(q.packed, 0x88)),
        ):
            changed = replace(q, packed=packed)
            yield (
                f"matmul {name} {scale} codes {what}",
                lambda q=changed: product(q),
                lambda q=changed: product(q, "reference"),
            )
        for what, packed in same(q.packed):
            if what in ("gaps", "not aligned", "subclass"):
                changed = replace(q, packed=packed)
                yield f"matmul {name} {what}", lambda q=changed: product(q), lambda q=q: product(q)


def main() -> int:
    failures, tried, refused = [], 0, 0
    for name, call, expected in attacks():
        tried += 1
        try:
            got = call()
        except REFUSALS as error:
            refused += 1
            if not str(error).strip():
                failures.append(f"{name}: {type(error).__name__} without a message")
            continue
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if expected is None:
            failures.append(f"{name}: accepted")
        else:
            want = expected()
            plain = got.detach().as_subclass(Tensor)
            if not torch.equal(plain.view(torch.int32), want.view(torch.int32)):
                failures.append(f"{name}: another result")
    print(f"{tried} calls, {refused} refused, {len(failures)} wrong")
    print("\n".join(failures))
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
