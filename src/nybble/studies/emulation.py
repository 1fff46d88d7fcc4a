"""What emulation costs: the step of a 4-bit model on the `reference` backend against float32.

The `reference` backend computes with float32 operations on decoded codes, so every quantiser is
extra work and a step can only be slower than float32's.  How much slower decides whether a study
over seeds is affordable.  Measured as `steptime` says: both models in one process, step by step in
turn, median of the ratios within pairs, for each number of threads.

The images are random noise and the labels random: step time does not depend on what they show.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.studies.steptime import interleave, ratios, training_step

SCHEMA = "nybble.bench/1"
TARGET = 1.6
"""The aim for the default configuration: `sun2020` on ResNet-14, batch 64, 28 x 28."""

BASELINE = "fp32"
CLASSES = 10


@dataclass(frozen=True)
class EmulationConfig:
    """What to time: `images` are [batch, channels, size, size]; threads: one measurement each.

    >>> EmulationConfig(threads=(1,)).batch_size
    64
    """

    recipe: str = "sun2020"
    model: str = "resnet14"
    batch_size: int = 64
    size: int = 28
    channels: int = 1
    pairs: int = 40
    warmup: int = 5
    threads: tuple[int, ...] = ()
    backend: str = "reference"

    def __post_init__(self) -> None:
        for name in ("batch_size", "size", "channels", "pairs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for count in self.threads:
            if not 1 <= count <= 1024:
                raise UserError(f"threads must be between 1 and 1024, not {count}.")


def default_threads() -> tuple[int, ...]:
    """One thread, and all cores that this process may use.

    >>> default_threads()[0]
    1
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return tuple(sorted({1, cores or 1}))


def has_target(config: EmulationConfig) -> bool:
    """Whether the aim speaks of this configuration.

    >>> has_target(EmulationConfig(pairs=5)), has_target(EmulationConfig(model="resnet8"))
    (True, False)
    """
    same = ("recipe", "model", "batch_size", "size", "channels", "backend")
    return all(getattr(config, name) == getattr(EmulationConfig(), name) for name in same)


def measure_emulation(
    config: EmulationConfig, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Measure and return the record of the measurement (JSON values).

    `progress` is called with the rounds done and their total.

    Raises:
        UserError: unknown recipe, model or backend; images too small for the model.
    """
    import torch

    from nybble.training.machine import commit, machine, versions

    get_recipe(config.recipe)
    counts = config.threads or default_threads()
    rounds = config.warmup + config.pairs
    before = torch.get_num_threads()
    measurements = []
    try:
        for place, count in enumerate(counts):
            torch.set_num_threads(count)

            def advance(done: int, _: int, start: int = place * rounds) -> None:
                if progress:
                    progress(start + done, rounds * len(counts))

            measurements.append({"threads": count, **_measure(config, advance)})
    finally:
        torch.set_num_threads(before)
    return {
        "schema": SCHEMA,
        "bench": "emulation",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(config),
        "configuration": {
            "recipe": config.recipe,
            "baseline": BASELINE,
            "model": config.model,
            "images": [config.batch_size, config.channels, config.size, config.size],
            "backend": config.backend,
            "pairs": config.pairs,
            "warmup": config.warmup,
        },
        "target": TARGET if has_target(config) else None,
        "measurements": measurements,
        "environment": {"versions": versions(), "machine": machine(), "commit": commit()},
    }


def _measure(config: EmulationConfig, advance: Callable[[int, int], None]) -> dict[str, Any]:
    import torch

    from nybble.convert import convert, loss_scale
    from nybble.training.models.registry import build_model
    from nybble.training.seeds import globals_restored

    with globals_restored():
        torch.manual_seed(0)
        shape = (config.batch_size, config.channels, config.size, config.size)
        images, labels = torch.randn(shape), torch.randint(0, CLASSES, (config.batch_size,))
        steps = {}
        for name in (BASELINE, config.recipe):
            torch.manual_seed(0)
            model = build_model(config.model, CLASSES, config.channels)
            if name != BASELINE:
                convert(model, name, backend=config.backend)
            loss, scale = torch.nn.functional.cross_entropy, loss_scale(model)
            steps[name] = training_step(model, loss, images, labels, loss_scale=scale)
        found = ratios(interleave(steps, config.pairs, config.warmup, advance), BASELINE)
    return {"baseline": found[BASELINE], "recipe": found[config.recipe]}


def command(config: EmulationConfig) -> str:
    """The command that repeats the measurement.

    >>> command(EmulationConfig(threads=(1, 2)))
    'nybble bench emulation --recipe sun2020 --model resnet14 --batch-size 64 --threads 1,2'
    """
    words = ["nybble bench emulation", "--recipe", config.recipe, "--model", config.model]
    words += ["--batch-size", str(config.batch_size)]
    default = EmulationConfig()
    for name in ("size", "channels", "pairs", "backend"):
        if getattr(config, name) != getattr(default, name):
            words += [f"--{name}", str(getattr(config, name))]
    if config.threads:
        words += ["--threads", ",".join(map(str, config.threads))]
    return " ".join(words)
