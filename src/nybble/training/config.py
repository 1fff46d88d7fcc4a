"""The configuration of one training run: a frozen dataclass, checked when it is made.

Fields that decide the result (everything down to `threads`) identify the run: `--resume` demands
the same values. The fields after it only say where to write and how often, and may change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nybble.errors import UserError, suggest

SCHEDULES = ("onecycle", "cosine", "step", "constant")
OPTIMIZERS = ("sgd", "adamw")
BACKENDS = ("auto", "reference", "native")
ACTIVATIONS = ("none", "exact", "4bit")
_FLOAT32_MAX = 3.4e38
SESSION_FIELDS = ("out", "resume", "checkpoint_every", "tensorboard", "quiet")


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, how.

    task: "vision". data, model, recipe: names (docs/training.md lists them); recipe may carry
    switches, as in "sun2020:odd_offset=1,one_by_one=int4".
    rules: pairs (layer pattern, recipe name or "none"), before the recipe's own rules.
    lr: peak learning rate; None is the model's default at batch 128, scaled with the batch size.
    alpha_lr, alpha_weight_decay: for the clips that the recipe learns (PACT); None: the defaults
    of `nybble.param_groups`. loss_scale: a power of two, None is the recipe's.
    activations: what normalisation, activation functions and the like keep for backward: `none`
    leaves them as they are (docs/memory.md).
    limit_train, limit_test: use only that many images (taken at random, the same for every run).
    channels_last: keep images and weights in that memory layout, in which convolutions on CPUs are
    faster, float32 and emulated ones alike.
    threads: torch's number of threads, None leaves it as it is.

    >>> TrainConfig(model="resnet8", epochs=2).resolved_lr()
    0.2
    """

    task: str = "vision"
    data: str = "mnist5k"
    model: str = "resnet8"
    recipe: str = "sun2020"
    rules: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    epochs: int = 8
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    zero_init: bool = False
    augmentation: str = "auto"
    alpha_lr: float | None = None
    alpha_weight_decay: float | None = None
    loss_scale: float | None = None
    backend: str = "auto"
    accumulate: str = "fast"
    activations: str = "none"
    resize: int | None = None
    on_corrupt: str = "stop"
    limit_train: int | None = None
    limit_test: int | None = None
    channels_last: bool = True
    threads: int | None = None
    # from here on: the session, not the run
    out: str | None = None
    resume: bool = False
    checkpoint_every: int = 500
    tensorboard: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("checkpoint_every", 0)):
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, not {getattr(self, name)}.")
        if self.seed >= 2**63:
            raise UserError(f"seed must be below 2**63, not {self.seed}.")
        if self.threads is not None and self.threads > 1024:
            raise UserError(f"threads must be between 1 and 1024, not {self.threads}.")
        for name in ("limit_train", "limit_test", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}.")
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("backend", self.backend, BACKENDS)
        _one_of("accumulate", self.accumulate, ("fast", "exact"))
        _one_of("activations", self.activations, ACTIVATIONS)
        for name in ("lr", "alpha_lr", "weight_decay", "alpha_weight_decay", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _FLOAT32_MAX:
                raise UserError(f"{name} must be a number of at least 0, not {value}.")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is a share of the run, 0 <= warmup < 1, not {self.warmup}.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}.")
        scale = self.loss_scale
        if scale is not None and not (
            math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5
        ):
            raise UserError(f"loss_scale must be a power of two, not {scale}.")

    def resolved_lr(self) -> float:
        """The peak learning rate: given, or the model's default in proportion to the batch."""
        if self.lr is not None:
            return self.lr
        if self.optimizer == "adamw":
            return 2e-3
        from nybble.training.models.registry import default_lr

        return default_lr(self.model) * self.batch_size / 128

    def run_folder(self) -> Path:
        """The folder this run writes to: `out`, or runs/<task>-<data>-<model>-<recipe>-s<seed>."""
        if self.out is not None:
            return Path(self.out)
        parts = (self.task, self.data, self.model, self.recipe, f"s{self.seed}")
        return Path("runs") / folder_name("-".join(parts))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of every field."""
        record = dataclasses.asdict(self)
        record["rules"] = [list(rule) for rule in self.rules]
        return record

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result."""
        return {k: v for k, v in self.to_dict().items() if k not in SESSION_FIELDS}


def folder_name(text: str) -> str:
    """`text` as the name of a folder: plain characters, and no longer than systems allow.

    >>> folder_name("vision-folder:my/photos")
    'vision-folder_my_photos'
    >>> len(folder_name("x" * 300))
    209
    """
    name = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in text)
    if len(name.encode()) <= 240:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[:200].decode(errors='ignore')}-{digest}"


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(
            f"Unknown {name} '{value}'; choose one of {', '.join(choices)}."
            f"{suggest(value, choices)}"
        )
