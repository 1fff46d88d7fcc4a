"""The configuration of one training run: a frozen dataclass, checked when it is made.

What suits depends on the task and the model, so many fields may be None: the task's default. They
are filled in once, when the run starts (`resolved`), and recorded so.

Fields that decide the result (everything down to `threads`) identify the run, as resolved:
`--resume` demands the same values. The fields after it only say where to write and how often, and
may change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nybble.errors import UserError, suggest

SCHEDULES = ("onecycle", "cosine", "step", "thirds", "constant", "decay", "inverse-sqrt")
OPTIMIZERS = ("sgd", "adamw")
BACKENDS = ("auto", "reference", "native")
ACTIVATIONS = ("none", "exact", "4bit")
_FLOAT32_MAX = 3.4e38
SESSION_FIELDS = ("out", "resume", "checkpoint_every", "watch", "tensorboard", "quiet")
ON_ALARM = ("warn", "stop", "raise-precision")
PARTIAL_FIELDS = ("label_smoothing", "zero_init", "augmentation", "resize", "on_corrupt")
"""Fields that some tasks only heed (`Task.uses`)."""
_LOWEST = {
    "epochs": 1,
    "batch_size": 1,
    "seed": 0,
    "checkpoint_every": 0,
    "watch": 0,
    "limit_train": 1,
    "limit_test": 1,
    "threads": 1,
}
_AT_LEAST_ZERO = (
    "lr",
    "alpha_lr",
    "weight_decay",
    "alpha_weight_decay",
    "momentum",
    "clip_norm",
)
_TUPLES = ("rules", "task_options", "betas")


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, how.

    task: a name of `nybble.training.tasks.TASKS`, or "module:Class". data, model, recipe: names
    (docs/training.md lists them); recipe may carry switches, as in
    "sun2020:odd_offset=+1+one_by_one=int4".
    rules: pairs (layer pattern, recipe name or "none"), before the recipe's own rules.
    None, where a field allows it, is the default of the task and the model.
    lr: peak learning rate. betas: of AdamW. clip_norm: the largest norm of all gradients together
    (those of learned clips excepted); 0: none is clipped.
    alpha_lr, alpha_weight_decay: for the clips that the recipe learns (PACT); None: the defaults
    of `nybble.param_groups`. loss_scale: a power of two, None is the recipe's.
    activations: what normalisation, activation functions and the like keep for backward: `none`
    leaves them as they are (docs/memory.md).
    start: what this run's model begins with: the folder of a run, a checkpoint of it, or a file of
    `nybble.save`; new_head: its last layer begins anew.
    task_options: pairs (key, value) that the task alone understands (`Task.options`).
    limit_train, limit_test: use only that many items (which ones: the same for every run).
    channels_last: keep images and weights in that memory layout, in which convolutions on CPUs are
    faster, float32 and emulated ones alike.
    threads: torch's number of threads, None leaves it as it is.
    on_alarm: what an alarm of the looks at the layers does: warn, stop or raise-precision.
    watch: steps between two looks at a layer (docs/watching.md); 0: none.

    >>> TrainConfig(model="resnet8", epochs=2).resolved().lr
    0.2
    """

    task: str = "vision"
    data: str | None = None
    model: str | None = None
    recipe: str = "sun2020"
    rules: tuple[tuple[str, str], ...] = ()
    task_options: tuple[tuple[str, str], ...] = ()
    start: str | None = None
    new_head: bool = False
    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    lr: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    schedule: str | None = None
    warmup: float | None = None
    label_smoothing: float | None = None
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
    on_alarm: str = "warn"
    # from here on: the session, not the run
    out: str | None = None
    resume: bool = False
    checkpoint_every: int = 500
    watch: int = 100
    tensorboard: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise UserError(f"{name} must be a whole number, not {value!r}.")
            if value is not None and value < low:
                raise UserError(f"{name} must be at least {low}, not {value}.")
        if not isinstance(self.recipe, str):
            raise UserError(
                "recipe must be a name, which a run can keep and read again: one of the registry, "
                f"or your own as 'module:NAME'; a {type(self.recipe).__name__} was given."
            )
        if self.seed >= 2**63:
            raise UserError(f"seed must be below 2**63, not {self.seed}.")
        if self.threads is not None and self.threads > 1024:
            raise UserError(f"threads must be between 1 and 1024, not {self.threads}.")
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("backend", self.backend, BACKENDS)
        _one_of("accumulate", self.accumulate, ("fast", "exact"))
        _one_of("activations", self.activations, ACTIVATIONS)
        _one_of("on_alarm", self.on_alarm, ON_ALARM)
        if self.on_alarm != "warn" and not self.watch:
            raise UserError(f"on_alarm {self.on_alarm} needs looks: watch must be 1 or more.")
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= _FLOAT32_MAX
            ):
                raise UserError(f"{name} must be a number of at least 0, not {value}.")
        if self.betas is not None and not (
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        ):
            raise UserError(f"betas must be two numbers in [0, 1), not {self.betas}.")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise UserError(f"warmup is a share of the run, 0 <= warmup < 1, not {self.warmup}.")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}.")
        if self.new_head and self.start is None:
            raise UserError("--new-head starts the last layer of a trained model anew; add --from.")
        repeated = [key for key, _ in self.task_options]
        for key in set(repeated):
            if repeated.count(key) > 1:
                raise UserError(f"--set {key} is given twice; keep one.")
        scale = self.loss_scale
        if scale is not None and not (
            math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5
        ):
            raise UserError(f"loss_scale must be a power of two, not {scale}.")

    def resolved(self) -> ResolvedConfig:
        """The same with every gap filled by the task; UserError for an unknown task or option."""
        from nybble.training.tasks import task_class
        from nybble.training.tasks.defaults import resolve

        return resolve(self, task_class(self.task))

    def run_folder(self) -> Path:
        """The folder this run writes to: `out`, or runs/<task>-<data>-<model>-<recipe>-s<seed>."""
        if self.out is not None:
            return Path(self.out)
        whole = self.resolved()
        parts = [self.task, whole.data, whole.model, self.recipe, f"s{self.seed}"]
        if self.start is not None:
            parts.append(f"from-{Path(self.start).resolve().name}")
        return Path("runs") / folder_name("-".join(parts))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of every field."""
        record = dataclasses.asdict(self)
        for name in _TUPLES:
            if record[name] is not None:
                record[name] = [list(v) if isinstance(v, tuple) else v for v in record[name]]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also of what an earlier version wrote.

        Raises:
            UserError: a field that this version does not know, or a value that it refuses.

        >>> TrainConfig.from_dict(TrainConfig(epochs=3).to_dict()) == TrainConfig(epochs=3)
        True
        """
        unknown = sorted(set(record) - {entry.name for entry in dataclasses.fields(cls)})
        if unknown:
            raise UserError(
                f"the setting {unknown[0]} is not known to this version of nybble; the version "
                "that wrote it can read it"
            )
        values = dict(record)
        try:
            for name in _TUPLES:
                if values.get(name) is not None:
                    pairs = values[name]
                    values[name] = tuple(tuple(v) if isinstance(v, list) else v for v in pairs)
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"its settings cannot be used: {error}") from None

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, resolved, JSON-ready."""
        whole = self.resolved().to_dict()
        return {k: v for k, v in whole.items() if k not in SESSION_FIELDS}


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """A configuration that leaves nothing to the task: what `TrainConfig.resolved` returns."""

    data: str
    model: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    weight_decay: float
    clip_norm: float
    schedule: str
    warmup: float
    label_smoothing: float

    def resolved(self) -> ResolvedConfig:
        return self


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


def _one_of(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UserError(
            f"Unknown {name} '{value}'; choose one of {', '.join(choices)}."
            f"{suggest(value, choices)}"
        )
