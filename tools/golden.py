"""Golden vectors for the C++ tests: inputs of every kernel family and the reference's results.

    python tools/golden.py [--check]

writes tests/csrc/golden/FAMILY.golden (read by tests/csrc/golden.cpp); `--check` compares instead,
and fails where a file would change. Expected results come from the reference backend with exact
sums, or from torch integers, never from the kernels under test. The format, little-endian:

    file     b"NYBG", u32 version = 1, u32 cases
    case     name, u16 arrays                              a name: u8 length, ASCII characters
    array    name, u8 type (B b h i q f), u8 dimensions, i64 sizes, elements in C order
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden_cases import FAMILIES, Value

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "csrc" / "golden"
TYPES = {
    np.dtype(np.uint8): b"B",
    np.dtype(np.int8): b"b",
    np.dtype(np.int16): b"h",
    np.dtype(np.int32): b"i",
    np.dtype(np.int64): b"q",
    np.dtype(np.float32): b"f",
}


def array_of(value: Value) -> np.ndarray:
    """An int becomes one int64, a float one float32, a list of ints int64."""
    if isinstance(value, Tensor):
        return value.detach().contiguous().numpy()
    if isinstance(value, float):
        return np.array([value], dtype=np.float32)
    return np.array([value] if isinstance(value, int) else value, dtype=np.int64)


def encode(cases: Iterable[tuple[str, Mapping[str, Value]]]) -> bytes:
    """The bytes of a file."""
    parts: list[bytes] = []
    count = 0
    for name, values in cases:
        count += 1
        parts += [_name(name), struct.pack("<H", len(values))]
        for key, value in values.items():
            array = array_of(value)
            parts += [_name(key), TYPES[array.dtype], struct.pack("<B", array.ndim)]
            parts += [struct.pack(f"<{array.ndim}q", *array.shape), array.tobytes()]
    return b"NYBG" + struct.pack("<II", 1, count) + b"".join(parts)


def _name(text: str) -> bytes:
    return struct.pack("<B", len(text)) + text.encode("ascii")


def main(arguments: list[str]) -> int:
    """Write or check every family; the status is 1 where a file differs."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    changed = []
    for family, cases in FAMILIES.items():
        data = encode(cases())
        path = FOLDER / f"{family}.golden"
        if path.exists() and path.read_bytes() == data:
            continue
        changed.append(path.name)
        if "--check" not in arguments:
            path.write_bytes(data)
    print(f"changed: {', '.join(changed) or 'nothing'}")
    return int(bool(changed) and "--check" in arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
