"""Starting from a trained model: `--from SOURCE`.

A source is the folder of a run, one checkpoint of it (checkpoints/step-N.json), or a safetensors
file of `nybble.save`.

    weights and buffers     taken from the newest whole checkpoint (or the one that is named)
    clips, gradient scales  of the recipe's layers: taken too where the recipe is the same (of a
                            file: layer by layer), and set afresh by the first batch otherwise
    model, model options    those of the run, unless given (`Task.inherits`: a front end's settings
                            belong to the weights that were trained behind it); a file has none
    optimizer, schedule     new; the peak learning rate is a tenth of the task's default
    classes, characters     those of the run (`begun_with`): the new data may lack some of them, and
                            may not have others, unless `new_head` starts the last layer anew

The model is tested before the first step, as it comes, under the new recipe; the result has it as
`start`. A layer that does not fit is named; nothing is loaded by halves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.registry import quantized_layers
from nybble.serialize import fill_ties, read_file
from nybble.training.checkpoint import load_checkpoint, read_checkpoint
from nybble.training.folder import CHECKPOINTS, CONFIG_FILE, as_meant

if TYPE_CHECKING:
    from nybble.training.config import TrainConfig

RATE = 0.1
"""The peak learning rate is this share of the task's default."""
_STATE = "nybble_"
"""How the names of a recipe's own state begin."""


@dataclass(frozen=True)
class Source:
    """What a run can start from: the weights, and what is known of where they come from.

    step, config, data and keeps (`Task.keeps`) are those of the run; None or empty for a file of
    `nybble.save`, whose converted layers are in `specs` instead.
    """

    weights: dict[str, Tensor]
    step: int | None
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    keeps: Mapping[str, Any]
    specs: Mapping[str, Any]


def config_of(path: str) -> Mapping[str, Any]:
    """The configuration of the run that `path` means, as it was recorded; empty for a file of
    `nybble.save`.

    Raises:
        UserError: there is no such source, or it cannot be read.
    """
    place = Path(path)
    if _is_file_of_save(place):
        return {}
    file = _run_folder(place) / CONFIG_FILE
    try:
        record = json.loads(file.read_text())
        config = as_meant(record["config"], record.get("schema_version", 1), file.parent)
        return {key: config[key] for key in ("task", "model", "recipe")} | config
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--from {path}: {file} cannot be read ({error}).") from None


def begun_with(config: TrainConfig) -> Mapping[str, Any]:
    """What the run that `config` starts from said about its data (classes, alphabet, ...); empty
    where it starts from none, or with a new head."""
    if config.start is None or config.new_head:
        return {}
    return _open(config.start).data


def kept_by(config: TrainConfig) -> Mapping[str, Any]:
    """What the task of that run kept with its weights (`Task.keeps`), also for a new head."""
    return {} if config.start is None else _open(config.start).keeps


def class_numbers(name: str, classes: Sequence[str], trained: Sequence[str]) -> Tensor:
    """int64 [len(classes)]: the number that the trained model knows each class of `name` by.

    >>> class_numbers("pets", ["dog", "cat"], ["cat", "cow", "dog"])
    tensor([2, 0])
    """
    if other := sorted(set(classes) - set(trained)):
        raise UserError(
            f"{name} has the class '{other[0]}', which the model was not trained on; it knows "
            f"{', '.join(trained)}. Give --new-head to start its last layer anew."
        )
    return torch.tensor([list(trained).index(label) for label in classes])


def take_weights(model: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """Load the weights that `config` starts from into the converted `model`; what to record.

    Raises:
        UserError: a layer is missing or has another shape; the model is then unchanged.
    """
    path = str(config.start)
    found = _open(path)
    _open_at.cache_clear()  # its weights need not stay in memory
    own = model.state_dict()
    saved = fill_ties(own, found.weights)
    known = _layers_with_equal_state(model, found, config)
    head = last_layer(model) if config.new_head else None
    taken = {
        key: tensor
        for key, tensor in saved.items()
        if _layer(key) != head and (not _is_state(key) or (_layer(key) in known and key in own))
    }
    plain = {key: t for key, t in own.items() if not _is_state(key) and _layer(key) != head}
    _check(path, plain, {k: t for k, t in taken.items() if not _is_state(k)}, head)
    model.load_state_dict({**own, **taken})
    digest = hashlib.sha256()
    for key in sorted(taken):
        digest.update(key.encode())
        digest.update(taken[key].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "from": path,
        "step": found.step,
        "recipe": found.config.get("recipe"),
        "new_head": head,
        "sha256": digest.hexdigest(),
    }


def last_layer(model: nn.Module) -> str:
    """The name of the last layer that has a matrix of weights, in the order of the definition.

    >>> last_layer(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.ReLU()))
    '2'
    """
    names = [name for name, p in model.named_parameters() if p.dim() > 1 and not _is_state(name)]
    if not names:
        raise UserError("--new-head: the model has no layer with a matrix of weights.")
    return _layer(names[-1])


def _is_file_of_save(place: Path) -> bool:
    """Whether it is a safetensors file that is no part of a run's checkpoint."""
    return place.suffix == ".safetensors" and not place.with_suffix(".json").is_file()


def _run_folder(place: Path) -> Path:
    """The folder of the run that `place` means; UserError if it is none."""
    if not place.exists():
        raise UserError(f"--from {place}: there is no such file or folder.")
    checkpoints = place if place.is_dir() else place.parent
    folder = checkpoints.parent if checkpoints.name == CHECKPOINTS else place
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"--from {place}: give the folder of a nybble run (with config.json and checkpoints/), "
            "a checkpoint in it (checkpoints/step-N.json), or a safetensors file of nybble.save."
        )
    return folder


def _open(path: str) -> Source:
    """What `path` means, read once for the task and for the weights."""
    place = Path(path)
    if not place.exists():
        raise UserError(f"--from {path}: there is no such file or folder.")
    files = [place]
    if not _is_file_of_save(place):
        files = sorted((_run_folder(place) / CHECKPOINTS).glob("step-*"))
    stamps = tuple((file.name, file.stat().st_mtime_ns) for file in files)
    return _open_at(str(place.resolve()), path, stamps)


@lru_cache(maxsize=1)
def _open_at(place: str, path: str, stamps: tuple[tuple[str, int], ...]) -> Source:
    file = Path(place)
    if _is_file_of_save(file):
        try:
            tensors, layers = read_file(file)
        except UserError as error:
            raise UserError(f"--from {path}: {str(error).removeprefix('load: ')}") from None
        return Source(
            tensors, None, {}, {}, {}, {name: info["spec"] for name, info in layers.items()}
        )
    folder = _run_folder(file)
    if file.is_file():
        found = read_checkpoint(file.with_suffix(".json"))
    else:
        newest = load_checkpoint(folder / CHECKPOINTS)
        if newest is None:
            raise UserError(f"--from {path}: the run has no checkpoint yet; let it finish.")
        found = newest
    content = found.content
    keeps = content.get("keeps", {})
    return Source(content["model"], found.step, config_of(path), content["data"], keeps, {})


def _layers_with_equal_state(model: nn.Module, source: Source, config: TrainConfig) -> set[str]:
    """The converted layers whose clips and scales mean the same in the source."""
    layers = dict(quantized_layers(model))
    if source.config:
        recorded = tuple(tuple(rule) for rule in source.config.get("rules") or ())
        same = source.config["recipe"] == config.recipe and recorded == config.rules
        return set(layers) if same else set()
    return {name for name, layer in layers.items() if layer.nybble_spec == source.specs.get(name)}


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _is_state(key: str) -> bool:
    return key.rpartition(".")[2].startswith(_STATE)


def _check(
    path: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor], head: str | None
) -> None:
    """UserError unless every weight of the model is there in its shape, and no other."""
    other = [key for key in own if key in saved and own[key].shape != saved[key].shape]
    if other:
        key = other[0]
        last = list(own)[-1]
        if head is not None:
            advice = f"--new-head starts '{head}' anew, and no other layer."
        elif {_layer(name) for name in other} == {_layer(last)}:
            advice = "Give --new-head to start this last layer anew."
        else:
            advice = "Give the model that was trained, and data of the same kind."
        raise UserError(
            f"--from {path}: '{key}' is {list(saved[key].shape)} there and "
            f"{list(own[key].shape)} in this model ({len(other)} weights differ in shape). {advice}"
        )
    missing, extra = sorted(set(own) - set(saved)), sorted(set(saved) - set(own))
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model has not"
        raise UserError(f"--from {path}: it {what}; give the model that was trained with --model.")
