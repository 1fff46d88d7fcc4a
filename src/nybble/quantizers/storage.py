"""Reading and writing of a QTensor's file; the layout is described in qtensor.py."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import Format
from nybble.quantizers.packing import packed_bytes
from nybble.quantizers.qtensor import VERSION, QTensor
from nybble.quantizers.quantizer import format_from_dict, format_to_dict
from nybble.quantizers.scales.blocks import mx_from_codes, nv_from_codes
from nybble.quantizers.scales.fit import Fit

__all__ = ["digest", "load", "save"]

_LAYOUTS = (
    {"codes", "scale"},
    {"codes", "scale", "zero_point"},
    {"codes", "scale_codes"},
    {"codes", "scale_codes", "global_scale"},
    {"codes", "scale_codes", "factor"},
)
_BYTES = ("codes", "scale_codes")


def save(q: QTensor, path: Path) -> None:
    """Write `q` to a temporary file beside `path`, sync it, and rename it to `path`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in q.stored().items()}
    header = {
        "version": q.version,
        "format": format_to_dict(q.format),
        "shape": list(q.shape),
        "granularity": q.fit.granularity,
        "axis": q.fit.axis,
        "blocks": q.fit.blocks,
    }
    if q.fit.outer is not None:
        header["outer"] = q.fit.outer
    header["sha256"] = digest(header, tensors)
    data = safetensors.torch.save(tensors, {"nybble": json.dumps(header, sort_keys=True)})
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: Path) -> QTensor:
    """Read `path` and check everything before believing any of it."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None
    header = _header(path, metadata.get("nybble"))
    if header.get("version") != VERSION:
        raise UserError(
            f"{path}: has format version {header.get('version')!r}, this nybble reads {VERSION}; "
            "use the nybble that wrote it"
        )
    stated = header.pop("sha256", None)
    if stated != digest(header, tensors):
        raise UserError(
            f"{path}: the checksum does not match; the file was altered or damaged, use a copy"
        )
    try:
        return _build(header, tensors)
    except (UserError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not a consistent quantised tensor: {error}") from None


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise UserError(
            f"{path}: holds no quantised tensor (no 'nybble' entry); was it saved by it?"
        )
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: the 'nybble' entry is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: the 'nybble' entry is not a JSON object")
    return header


def _build(header: dict[str, Any], tensors: dict[str, Tensor]) -> QTensor:
    format = format_from_dict(header["format"])
    shape = tuple(int(size) for size in header["shape"])
    if set(tensors) not in _LAYOUTS:
        raise UserError(f"it holds {', '.join(sorted(tensors))}")
    if any(size < 0 for size in shape):
        raise UserError(f"its shape is {shape}")
    for name, tensor in tensors.items():
        want = torch.uint8 if name in _BYTES else torch.float32
        if tensor.dtype is not want:
            raise UserError(f"{name} is {tensor.dtype}, not {want}")
    info = {key: header[key] for key in ("granularity", "axis", "blocks")}
    if header.get("outer") is not None:
        info["outer"] = int(header["outer"])
    stored = tensors["scale"] if "scale" in tensors else tensors["scale_codes"]
    if tuple(stored.shape) not in _scale_shapes(shape, info):
        raise UserError(f"its scale has shape {tuple(stored.shape)}")
    _check_codes(tensors["codes"], format, math.prod(shape))
    return QTensor(tensors["codes"], format, shape, _fit(tensors, info))


def _check_codes(codes: Tensor, format: Format, n: int) -> None:
    if codes.dim() != 1 or codes.numel() != packed_bytes(n, format.bits):
        raise UserError(f"{n} codes of {format.name} do not take {codes.numel()} bytes")
    if 4 < format.bits < 8 and codes.numel() and int(codes.max()) >= 1 << format.bits:
        raise UserError(f"it holds codes beyond {format.bits} bits")
    if format.bits < 4 and bool((codes & (0x11 * (0xF >> format.bits << format.bits))).any()):
        raise UserError(f"it holds codes beyond {format.bits} bits")


def _fit(tensors: dict[str, Tensor], info: dict[str, Any]) -> Fit:
    if "scale" in tensors:
        zero = tensors.get("zero_point")
        if zero is not None and (zero.dim() or float(zero) != round(float(zero))):
            raise UserError("its zero point is not an integer")
        return Fit.of(tensors["scale"], zero_point=zero, **info)
    if "global_scale" in tensors:
        whole = tensors["global_scale"]
        if tuple(whole.shape) != _global_shape(tuple(tensors["scale_codes"].shape), info):
            raise UserError(f"its global scale has shape {tuple(whole.shape)}")
        return nv_from_codes(tensors["scale_codes"], whole, info)
    factor = tensors.get("factor")
    if factor is not None and factor.dim():
        raise UserError("its factor is not one number")
    return mx_from_codes(tensors["scale_codes"], info, factor)


def _scale_shapes(shape: tuple[int, ...], info: dict[str, Any]) -> list[tuple[int, ...]]:
    """The shapes that a scale of this layout may have; see `Fit`."""
    granularity, axis, blocks = info["granularity"], info["axis"], info["blocks"]
    if granularity == "tensor":
        return [()]
    if granularity == "row":  # lines along any dimension
        return [(*shape[:d], 1, *shape[d + 1 :]) for d in range(len(shape))]
    if granularity == "tile" and len(shape) >= 2 and blocks >= 1:
        return [(-(-shape[0] // blocks), -(-shape[1] // blocks), *shape[2:])]
    if granularity == "tile" or not 0 <= axis < len(shape):
        raise UserError(f"its axis is {axis}")
    if granularity == "channel":
        return [tuple(size if d == axis else 1 for d, size in enumerate(shape))]
    if granularity == "block" and blocks >= 1:
        return [(*shape[:axis], -(-shape[axis] // blocks), *shape[axis + 1 :])]
    raise UserError(f"its scale layout is {granularity!r}, blocks of {blocks!r}")


def _global_shape(shape: tuple[int, ...], info: dict[str, Any]) -> tuple[int, ...]:
    """The shape of the global scale of block scales of `shape`."""
    outer = info.get("outer")
    if outer is None:
        return ()
    if info["granularity"] != "block" or outer < 1 or outer % info["blocks"]:
        raise UserError(f"its outer blocks have {outer} elements")
    axis = info["axis"]
    count = -(-shape[axis] // (outer // info["blocks"]))
    return (*shape[:axis], count, *shape[axis + 1 :])


def digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the header without its checksum and of every tensor's name, type, shape, bytes."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
