"""The IDX files of MNIST and Fashion-MNIST.

Format: bytes 0 0 T D, then D big-endian uint32 sizes, then the elements; T = 8 is unsigned byte,
the only type these sets use (others are refused). A name that ends in .gz is decompressed.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from nybble.errors import UserError


def read_idx(path: Path) -> Tensor:
    """Return the file's uint8 tensor; UserError names the file when it is not a whole IDX file."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != 8 or raw[3] == 0:
        raise UserError(f"{path} is not an IDX file of unsigned bytes.")
    start = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4)]
    if len(raw) != start + math.prod(shape):
        raise UserError(
            f"{path} is damaged: its header says {math.prod(shape)} bytes of data, "
            f"it holds {len(raw) - start}."
        )
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).reshape(shape)
