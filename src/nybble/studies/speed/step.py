"""A whole training step: float32's best form against the 4-bit model, one step of each in turn.

    speedup(threads) = median_i  t_i(float32) / t_i(4-bit)
    against          = median_i  t_i(other recipe) / t_i(4-bit), if there is one: in the same turns

1 thread: CPU time of the process decides; more: wall time. Both are in the record. Step: clear
gradients, forward, loss, backward, optimizer (SGD with momentum), one fixed batch. Joules of a step
where the processor counts them (joules.py), of a few steps of each side on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.studies.emulation import default_threads
from nybble.studies.speed import record
from nybble.studies.speed.forms import (
    Side,
    backends_of,
    best_float32,
    clock_of,
    four_bit_side,
)
from nybble.studies.speed.joules import joules_of
from nybble.studies.speed.profile import profile_step
from nybble.studies.speed.targets import against_target, step_target
from nybble.studies.speed.workload import EXAMPLE_HINT, Workload, check_name, make_workload
from nybble.studies.statistics import median_ratio
from nybble.studies.steptime import Sample, interleave

Progress = Callable[[str, int, int], None]
BATCH, MODEL, RECIPE = 32, "resnet18", "sun2020"


@dataclass(frozen=True)
class StepConfig:
    """What to measure. `against`: another recipe that takes turns too; `threads`: one measurement
    each, 1 and all cores if empty; `compile`: try float32 under torch.compile too; `size`,
    `channels`: of images.

    >>> StepConfig(batch=128).model
    'resnet18'
    """

    model: str = MODEL
    batch: int = BATCH
    recipe: str = RECIPE
    against: str | None = None
    backend: str = "auto"
    activations: str = "4bit"
    threads: tuple[int, ...] = ()
    rounds: int = 21
    warmup: int = 2
    size: int = 32
    channels: int = 3
    compile: bool = True
    profile: bool = False

    def __post_init__(self) -> None:
        check_name(self.model)
        get_recipe(self.recipe)
        if self.against is not None:
            get_recipe(self.against)
        for name in ("batch", "rounds", "size", "channels"):
            record.at_least(name, getattr(self, name))
        for count in self.threads:
            if not 1 <= count <= 1024:
                raise UserError(f"threads must be between 1 and 1024, not {count}.")

    def command(self) -> str:
        """The command that repeats the measurement.

        >>> StepConfig(model="resnet20", batch=128, threads=(1,)).command()
        'nybble bench step --model resnet20 --batch 128 --threads 1'
        """
        default = {field.name: field.default for field in fields(self)}
        given = {name: value for name, value in asdict(self).items() if name != "warmup"}
        return record.words("nybble bench step", given, default)


def measure_step(
    config: StepConfig, progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """Measure, and return the record; `speedup` maps every number of threads to a number.

    `progress` is called with what is going on, the rounds done and their total.

    Raises:
        UserError: names that are unknown, a model that cannot be built or run.
    """
    workload = make_workload(config.model, config.batch, config.size, config.channels)
    run_once(workload)
    before = torch.get_num_threads()
    measurements = []
    profiles: dict[str, Any] | None = None
    try:
        for count in config.threads or default_threads():
            torch.set_num_threads(count)
            found, sides = _measure(config, workload, count, progress)
            measurements.append(found)
            if config.profile and profiles is None:
                progress(f"profile, {count} threads", 0, 0)
                profiles = {
                    "threads": count,
                    **{name: profile_step(sides[name].step) for name in ("float32", "ours")},
                }
    finally:
        torch.set_num_threads(before)
    target, other = step_target(asdict(config)), against_target(asdict(config))
    return record.make(
        "step",
        config.command(),
        {
            **asdict(config),
            "threads": [m["threads"] for m in measurements],
            "input": workload.input,
        },
        speedup={str(m["threads"]): m["speedup"] for m in measurements},
        target=target.to_dict() if target else None,
        against_target=other.to_dict() if other else None,
        measurements=measurements,
        profile=profiles,
    )


def run_once(workload: Workload) -> None:
    """One forward pass: a model that does not take its input is the user's business, in one line.

    Raises:
        UserError: the model fails on its batch, or its loss has no gradient.
    """
    try:
        loss = workload.run(workload.model)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The model '{workload.name}' fails on its input ({workload.input}): "
            f"{type(error).__name__}: {error}{EXAMPLE_HINT}"
        ) from error
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise UserError(f"The loss of the model '{workload.name}' is no scalar with a gradient.")


def _measure(
    config: StepConfig, workload: Workload, threads: int, progress: Progress
) -> tuple[dict[str, Any], dict[str, Side]]:
    clock = clock_of(threads)
    where = f"{threads} thread{'' if threads == 1 else 's'}"

    def say(what: str) -> None:
        progress(f"{where}, {what}", 0, 0)

    ours = four_bit_side(workload, config.recipe, config.backend, config.activations)
    float32 = best_float32(workload, clock, config.compile, say=say)
    sides = {"float32": float32, "ours": ours}
    if config.against is not None:
        sides["against"] = four_bit_side(
            workload, config.against, config.backend, config.activations
        )
    samples = interleave(
        {name: side.step for name, side in sides.items()},
        config.rounds,
        config.warmup,
        lambda done, total: progress(f"{where}, steps in turn", done, total),
    )
    ratios = {name: speedup(samples, name) for name in ("cpu", "wall")}
    found: dict[str, Any] = {
        "threads": threads,
        "decides": clock,
        "speedup": ratios[clock]["median"],
        **ratios,
        "float32": {
            "form": float32.form,
            "tried": list(float32.tried),
            **times(samples["float32"]),
            "energy": joules_of(float32.step),
        },
        "ours": {
            "form": ours.form,
            "backend": backends_of(ours.model),
            **times(samples["ours"]),
            "energy": joules_of(ours.step),
        },
    }
    if config.against is not None:
        found["against"] = {
            **{name: speedup(samples, name, "against") for name in ("cpu", "wall")},
            "backend": backends_of(sides["against"].model),
            **times(samples["against"]),
        }
    return found, sides


def speedup(samples: dict[str, list[Sample]], clock: str, other: str = "float32") -> dict[str, Any]:
    """The median ratio of another side's time to ours with its interval, as JSON values."""
    a, b = ([getattr(s, clock) for s in samples[name]] for name in (other, "ours"))
    return median_ratio(a, b).to_dict()


def times(samples: list[Sample]) -> dict[str, float]:
    """Median milliseconds of a step."""
    import statistics

    return {
        f"{clock}_ms": 1000 * statistics.median(getattr(s, clock) for s in samples)
        for clock in ("cpu", "wall")
    }
