"""Starting from a trained model: `--from RUN` (a run's folder, or one checkpoint of it).

    weights and buffers     taken from the newest whole checkpoint (or the one that is named)
    clips, gradient scales  of the recipe's layers: taken too where the recipe is the same text, and
                            set afresh by the first batch otherwise
    model, model options    those of the run, unless given (`Task.inherits`: a front end's settings
                            belong to the weights that were trained behind it)
    optimizer, schedule     new; the peak learning rate is a tenth of the task's default
    classes, characters     those of the run (`begun_with`): the new data may lack some of them, and
                            may not have others

The model is tested before the first step, as it comes, under the new recipe; the result has it as
`start`. A layer that does not fit is named; nothing is loaded by halves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.checkpoint import Checkpoint, load_checkpoint, read_checkpoint

RATE = 0.1
"""The peak learning rate is this share of the task's default."""
_STATE = "nybble_"
"""How the names of a recipe's own state begin."""


def run_folder_of(path: str) -> Path:
    """The folder of the run that `path` means; UserError if it is none."""
    place = Path(path)
    if not place.exists():
        raise UserError(f"--from {path}: there is no such file or folder.")
    folder = place if place.is_dir() else place.parent.parent
    if place.is_dir() and place.name == "checkpoints":
        folder = place.parent
    if not (folder / "config.json").is_file() or (place.is_file() and place.suffix != ".json"):
        raise UserError(
            f"--from {path}: give the folder of a nybble run (with config.json and checkpoints/), "
            "or a checkpoint in it (checkpoints/step-N.json)."
        )
    return folder


@lru_cache(maxsize=8)
def config_of(path: str) -> Mapping[str, Any]:
    """The configuration of the run that `path` means, as it was recorded."""
    file = run_folder_of(path) / "config.json"
    try:
        config = json.loads(file.read_text())["config"]
        return {key: config[key] for key in ("task", "model", "recipe")} | dict(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--from {path}: {file} cannot be read ({error}).") from None


@lru_cache(maxsize=1)
def _opened(path: str) -> Checkpoint:
    place = Path(path)
    if place.is_file():
        return read_checkpoint(place)
    found = load_checkpoint(run_folder_of(path) / "checkpoints")
    if found is None:
        raise UserError(f"--from {path}: the run has no checkpoint yet; let it finish an epoch.")
    return found


def begun_with(path: str | None) -> Mapping[str, Any]:
    """What the run said about its data (classes, alphabet, ...); empty without a `--from`."""
    return {} if path is None else dict(_opened(path).content["data"])


def take_weights(model: nn.Module, path: str, recipe: str) -> dict[str, Any]:
    """Load the run's weights into the converted `model`; return what to record.

    Raises:
        UserError: a layer is missing or has another shape; the model is then unchanged.
    """
    found = _opened(path)
    saved: dict[str, Tensor] = found.content["model"]
    same = config_of(path).get("recipe") == recipe
    _opened.cache_clear()
    own = model.state_dict()
    taken = {
        key: tensor
        for key, tensor in saved.items()
        if not _is_state(key) or (same and key in own and own[key].shape == tensor.shape)
    }
    _check(path, {k: v for k, v in own.items() if not _is_state(k)}, taken)
    model.load_state_dict({**own, **taken})
    digest = hashlib.sha256()
    for key in sorted(taken):
        digest.update(key.encode())
        digest.update(taken[key].contiguous().numpy().tobytes())
    return {
        "from": path,
        "step": found.step,
        "recipe": config_of(path).get("recipe"),
        "sha256": digest.hexdigest(),
    }


def _is_state(key: str) -> bool:
    return key.rpartition(".")[2].startswith(_STATE)


def _check(path: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """UserError unless every weight of the model is there in its shape, and no other."""
    plain = {key: tensor for key, tensor in saved.items() if not _is_state(key)}
    other = [key for key in own if key in plain and own[key].shape != plain[key].shape]
    if other:
        key = other[0]
        raise UserError(
            f"--from {path}: '{key}' is {list(plain[key].shape)} there and {list(own[key].shape)} "
            f"in this model ({len(other)} weights differ in shape). If it is the classifier, the "
            "data must have the classes that the run was trained on."
        )
    missing, extra = sorted(set(own) - set(plain)), sorted(set(plain) - set(own))
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model has not"
        raise UserError(f"--from {path}: the run {what}; give the model that it trained.")
