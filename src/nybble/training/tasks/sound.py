"""What the tasks on recordings share: options, loading, features, the parts of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from nybble.errors import UserError, suggest
from nybble.training.config import ResolvedConfig
from nybble.training.data import load_data
from nybble.training.data.audio.base import SoundOptions, SpeechData
from nybble.training.data.audio.features import FeatureSet
from nybble.training.data.audio.logmel import NORMALISATIONS, LogMel
from nybble.training.models.speech import SpeechModel
from nybble.training.start import begun_with, class_numbers
from nybble.training.tasks.options import Option, read_options

OPTIONS: Mapping[str, Option] = {
    "split": Option(str, "official", "official, speakers:NAME,NAME (to test on), fsdd: index:N."),
    "speakers": Option(str, "", "Use the recordings of these speakers only: NAME,NAME."),
    "rate": Option(int, None, "Sampling rate; the set's own if not given.", low=1000),
    "bands": Option(int, 40, "Bands of the log-mel front end.", low=8, high=128),
    "normalise": Option(str, "utterance", "Normalisation of each utterance.", NORMALISATIONS),
}
INHERITS = ("rate", "bands", "normalise")
AUGMENTATIONS = ("none", "shift", "specaugment")


def load_recordings(config: ResolvedConfig) -> tuple[SpeechData, dict[str, Any]]:
    """The set that `config` names, with its parts as limited, and the options' values."""
    values = read_options(config.task, OPTIONS, _own(config))
    options = SoundOptions(values["split"], values["rate"], config.on_corrupt, values["speakers"])
    data: SpeechData = load_data(config.data, options, config.task)
    if classes := begun_with(config).get("classes"):
        data = with_classes(data, tuple(classes))
    return limited(data, config.limit_train, config.limit_test), values


def _own(config: ResolvedConfig) -> tuple[tuple[str, str], ...]:
    return tuple((key, text) for key, text in config.task_options if key in OPTIONS)


def with_classes(data: SpeechData, classes: tuple[str, ...]) -> SpeechData:
    """The set with the classes that a model was trained on, of which it may lack some."""
    number = class_numbers(data.name, data.classes, classes)
    return replace(data, labels=number[data.labels], classes=classes)


def limited(data: SpeechData, train: int | None, test: int | None) -> SpeechData:
    """Keep `train` and `test` recordings, chosen at random, the same for every run."""
    chosen = torch.Generator().manual_seed(0)
    parts = []
    for indices, count in ((data.train, train), (data.test, test)):
        if count is not None and count < len(indices):
            indices = indices[torch.randperm(len(indices), generator=chosen)[:count]]
        parts.append(indices)
    return replace(data, train=parts[0], test=parts[1])


def make_features(
    data: SpeechData, model: SpeechModel | None, values: dict[str, Any]
) -> FeatureSet:
    """What the model hears: log-mel frames (a user's model as well), or the samples."""
    waveform = model is not None and model.hears == "waveform"
    front = None if waveform else LogMel(data.rate, values["bands"], normalise=values["normalise"])
    return FeatureSet(data, front)


def augmentation_of(config: ResolvedConfig, default: str) -> str:
    """The kind of augmentation; UserError for an unknown one."""
    kind = default if config.augmentation == "auto" else config.augmentation
    if kind not in AUGMENTATIONS:
        raise UserError(
            f"Unknown augmentation '{kind}' for {config.task}; choose one of "
            f"{', '.join(('auto', *AUGMENTATIONS))}.{suggest(kind, AUGMENTATIONS)}"
        )
    return kind


def describe(data: SpeechData) -> dict[str, Any]:
    """What a result says about the set."""
    return {
        "name": data.name,
        "train": len(data.train),
        "test": len(data.test),
        "rate": data.rate,
        "sha256": data.fingerprint(),
        "notes": list(data.notes),
    }


def logits_of(output: Any) -> torch.Tensor:
    """The scores in what a model returned: a tensor, or transformers' output."""
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return found
