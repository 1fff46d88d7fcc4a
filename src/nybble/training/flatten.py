"""Nested state dicts as JSON plus named tensors, exactly, and back. Never pickle.

    tensor             {"tensor": name}            (the tensor goes to a flat dict under `name`)
    dict               {"dict": [[key, value], ...]}    keys: str, int or bool, order kept
    list, tuple        {"list": [...]}, {"tuple": [...]}
    float              itself; nan, inf, -inf: {"float": "nan"}; Python's JSON reads back the same
                       double
    None, bool, int, str    themselves

This is enough for `state_dict()` of modules and of every optimizer in torch. Anything else is a
UserError that names where it was found.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nybble.errors import UserError


def flatten(value: Any, path: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Return (JSON value, {name: contiguous CPU tensor that shares memory with no other}).

    >>> structure, tensors = flatten({"a": torch.ones(2), 3: (None, 1.5)})
    >>> structure
    {'dict': [['a', {'tensor': 'state.a'}], [3, {'tuple': [None, 1.5]}]]}
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(item: Any, where: str) -> Any:
        if isinstance(item, Tensor):
            if item.layout is not torch.strided or item.is_quantized:
                raise UserError(f"{where} is a {item.layout} tensor, which cannot be saved.")
            stored = item.detach().cpu().contiguous()
            pointer = stored.untyped_storage().data_ptr()
            if pointer in seen or stored.untyped_storage().nbytes() != stored.nbytes:
                stored = stored.clone()  # safetensors refuses shared memory
            seen.add(stored.untyped_storage().data_ptr())
            name = where
            while name in tensors:  # the keys 1 and "1" make the same path
                name += "'"
            tensors[name] = stored
            return {"tensor": name}
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str | int):
                    raise UserError(f"{where} has the key {key!r}, which cannot be saved.")
            return {"dict": [[key, visit(entry, f"{where}.{key}")] for key, entry in item.items()]}
        if isinstance(item, list | tuple):
            kind = "list" if isinstance(item, list) else "tuple"
            return {kind: [visit(entry, f"{where}.{i}") for i, entry in enumerate(item)]}
        if isinstance(item, float) and not math.isfinite(item):
            return {"float": repr(item)}
        if item is None or isinstance(item, bool | int | float | str):
            return item
        raise UserError(f"{where} is a {type(item).__name__}, which cannot be saved.")

    return visit(value, path), tensors


def unflatten(structure: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `flatten`; KeyError or ValueError if the two do not belong together.

    >>> unflatten(*flatten([float("inf"), {1: "x"}]))
    [inf, {1: 'x'}]
    """
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(entry, tensors) for key, entry in content}
    if kind == "list":
        return [unflatten(entry, tensors) for entry in content]
    if kind == "tuple":
        return tuple(unflatten(entry, tensors) for entry in content)
    if kind == "float":
        return float(content)
    raise ValueError(f"unknown kind {kind!r} in a checkpoint")
