"""Save and load a converted model without pickle: one safetensors file.

    tensors    the model's state_dict: master weights, buffers, and the layers' quantisation state
    metadata   `nybble` (JSON): format version, for every converted layer its spec and settings,
               and the SHA-256 of all of it

`load` into a plain model of the same architecture converts it on the way, from what the file says;
into a converted one it checks that the layers are the same. Nothing in the file is executed.

Not done here: packed weights in the file; it holds the float32 masters, so that training can go on
exactly where it stopped.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nybble.convert import channels_last_
from nybble.errors import UserError
from nybble.nn.fastpath import block_fast_paths
from nybble.nn.parts import adopt, targets
from nybble.nn.registry import quantized_layers
from nybble.nn.scaling import group_scales
from nybble.ops.dispatch import choose_backend, runs_native
from nybble.ops.spec import LayerSpec
from nybble.quantizers.storage import digest

VERSION = 1


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path`, through a temporary file that is synced and renamed.

    >>> import tempfile, nybble
    >>> model = nybble.convert(nn.Sequential(nn.Linear(4, 2)), "sun2020")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, folder + "/model.safetensors")
    ...     twin = load(nn.Sequential(nn.Linear(4, 2)), folder + "/model.safetensors")
    >>> torch.equal(twin[0].weight, model[0].weight)
    True
    """
    _check_arguments("save", model, path)
    target = Path(path)
    if not os.path.isdir(target.parent):
        raise UserError(f"save: the folder {target.parent} does not exist; make it first")
    if os.path.isdir(target):
        raise UserError(f"save: {target} is a folder; give the name of a file")
    tensors = _unshared(model.state_dict())
    header: dict[str, Any] = {"version": VERSION, "layers": _layers(model)}
    header["sha256"] = digest(header, tensors)
    temporary = target.with_name(target.name + ".tmp")
    try:
        save_file(tensors, temporary, metadata={"nybble": json.dumps(header)})
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"save: {target} cannot be written: {error}") from error


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a file of `save` into `model`, in place; returns the same module.

    Raises UserError naming the file if it is missing, damaged, not of this kind, or of another
    architecture; the model is then what it was.
    """
    _check_arguments("load", model, path)
    tensors, layers = read_file(Path(path))
    own = model.state_dict()
    tensors = fill_ties(own, tensors)
    _check_shapes(own, tensors, Path(path))
    _match(model, layers, Path(path))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"load: {path} does not fit this model: {reason}") from error
    return model


def fill_ties(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the names that a file leaves out: tied weights are stored once, and the others
    of the tie (in `own`, a model's state_dict) take the same tensor."""
    filled = dict(tensors)
    for name, tensor in own.items():
        if name not in tensors:
            for other, stored in tensors.items():
                if other in own and _same_storage(own[other], tensor):
                    filled[name] = stored
                    break
    return filled


def float_state_dict(model: nn.Module) -> dict[str, Any]:
    """The state_dict without quantisation state: it loads into the plain model under strict=True.

    >>> import nybble
    >>> plain = nn.Sequential(nn.Linear(4, 2))
    >>> list(float_state_dict(nybble.convert(plain, "sun2020")))
    ['0.weight', '0.bias']
    """
    own = {
        f"{name}.{state}" if name else state
        for name, layer in quantized_layers(model)
        for state in layer.state_names()
    }
    return {key: value for key, value in model.state_dict().items() if key not in own}


def _check_arguments(what: str, model: object, path: object) -> None:
    if not isinstance(model, nn.Module) or not isinstance(path, str | os.PathLike):
        raise UserError(
            f"{what} takes a model and the path of a file, in this order; it was given"
            f" {type(model).__name__} and {type(path).__name__}"
        )


def _layers(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "spec": layer.nybble_spec.to_dict(),
            "rule": layer.nybble_rule,
            "tail": None if layer.nybble_tail is None else layer.nybble_tail.to_dict(),
            "backend": layer.nybble_backend,
            "accumulate": layer.nybble_accumulate,
            "seed": layer.nybble_seed,
            "index": layer.nybble_index,
        }
        for name, layer in quantized_layers(model)
    }


def _match(model: nn.Module, layers: dict[str, dict[str, Any]], path: Path) -> None:
    present = dict(quantized_layers(model))
    if not present:
        places = {target.name: target for target in targets(model)}
        for name in layers:
            if name not in places:
                raise UserError(f"load: {path} has a converted layer {name!r}, the model has none")
        for name, info in layers.items():
            layer, backend = places[name].place(), choose_backend("auto")
            layer.attach_(name=name, backend=backend, inputs=None, **info)
            if runs_native(backend, places[name].sample):
                channels_last_(layer)  # as convert does: another layout sums in another order
        adopt(model)
        group_scales([layer for _, layer in quantized_layers(model)])
        block_fast_paths(model)
        return
    if set(present) != set(layers):
        odd = sorted(set(present) ^ set(layers))
        raise UserError(f"load: {path} converts other layers than this model: {', '.join(odd[:5])}")
    for name, layer in present.items():
        if layer.nybble_spec != layers[name]["spec"]:
            raise UserError(
                f"load: layer {name!r} of {path} has another recipe than this model's;"
                " load it into the plain model"
            )


def _is_state(key: str) -> bool:
    return key.rpartition(".")[2].startswith("nybble_")


def _check_shapes(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    """Compare names and shapes before anything is changed; quantisation state may be missing."""
    names = {key for key in own.keys() | tensors.keys() if not _is_state(key)}
    for name in sorted(names):
        here, there = (tuple(side[name].shape) if name in side else None for side in (own, tensors))
        if here != there:
            raise UserError(
                f"load: {path} does not fit this model: {name} has the shape {there} there and"
                f" {here} here (None: is not there)"
            )


def _settings(info: dict[str, Any]) -> dict[str, Any]:
    """What the file says of one layer, as `attach_` takes it."""
    if info["accumulate"] not in ("fast", "exact"):
        raise ValueError(f"accumulate is {info['accumulate']!r}")
    return {
        "spec": LayerSpec.from_dict(info["spec"]),
        "rule": str(info["rule"]),
        "tail": None if info.get("tail") is None else LayerSpec.from_dict(info["tail"]),
        "accumulate": info["accumulate"],
        "seed": int(info["seed"]),
        "index": int(info["index"]),
    }


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors of a file of `save`, and for every converted layer its settings as `attach_`
    takes them; UserError if it is missing, damaged or not of this kind."""
    if not path.is_file():
        raise UserError(f"load: {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("nybble", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"load: {path} is no readable safetensors file: {error}") from error
    if not isinstance(header, dict) or "layers" not in header:
        raise UserError(f"load: {path} was not written by nybble.save")
    if header.get("version") != VERSION:
        raise UserError(
            f"load: {path} has format version {header.get('version')}, this nybble reads {VERSION}"
        )
    if header.pop("sha256", None) != digest(header, tensors):
        raise UserError(
            f"load: {path}: the checksum does not match; it was altered or damaged, use a copy"
        )
    try:
        layers = {str(name): _settings(info) for name, info in header["layers"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"load: {path} describes its layers wrongly: {error}") from error
    return tensors, layers


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors once, all of them contiguous: safetensors refuses shared memory."""
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not any(_same_storage(tensor, other) for other in kept.values()):
            kept[name] = tensor.detach()
    # A view of a larger buffer would share its memory, which safetensors refuses too.
    return {
        name: tensor.contiguous()
        if tensor.untyped_storage().nbytes() == tensor.nbytes
        else tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in kept.items()
    }


def _same_storage(a: Tensor, b: Tensor) -> bool:
    same_place = a.numel() > 0 and a.data_ptr() == b.data_ptr()
    return same_place and a.shape == b.shape and a.stride() == b.stride()
