"""A short training run for a figure, step by step, and what reaches its layers.

Task, model, batches, optimizer, loss scale and schedule are those of `nybble train vision` with the
same seed; the schedule spans `steps` steps. Layers compute on the reference backend, so that the
numbers do not depend on which kernels were compiled.

Gradients are handed out as they reach a layer, which is multiplied by the loss scale: divide by
`ShortRun.loss_scale` for the loss's own.

Not done here: tests, checkpoints, the later phases of a recipe, tasks other than vision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nybble.convert import loss_scale
from nybble.errors import UserError, suggest
from nybble.nn.hooks import hook_steps
from nybble.nn.registry import converted_class, quantized_layers
from nybble.training import schedule
from nybble.training.config import TrainConfig
from nybble.training.diagnose import gradients_finite
from nybble.training.inputs import call, laid_out
from nybble.training.machine import commit, versions
from nybble.training.optimizers import build_optimizer, clip_gradients_, set_lr, unscale_
from nybble.training.prepare import FLOAT32, build_model
from nybble.training.seeds import derive, globals_restored, seed_globals
from nybble.training.tasks import make_task

Progress = Callable[[int, int], None]
SCHEMA = "nybble.view/1"
_LEAST = {"steps": 1, "seed": 0, "batch_size": 1, "threads": 1}


@dataclass(frozen=True)
class ViewConfig:
    """The run that a figure looks at.

    data, model, recipe: as `nybble train vision` takes them. steps: training steps that are looked
    at, or before which nothing is. threads: torch's.

    >>> ViewConfig(steps=5).model
    'resnet8'
    """

    data: str = "mnist5k"
    model: str = "resnet8"
    recipe: str = "sun2020"
    steps: int = 30
    seed: int = 0
    batch_size: int = 64
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"{name} must be a whole number of at least {least}, not {value!r}."
                )

    def training(self) -> TrainConfig:
        """The configuration of the training loop's parts that the run uses."""
        return TrainConfig(
            task="vision",
            data=self.data,
            model=self.model,
            recipe=self.recipe,
            seed=self.seed,
            batch_size=self.batch_size,
            backend="reference",
            threads=self.threads,
            quiet=True,
        )


class ShortRun:
    """Model, optimizer and batches; `forward_backward` and `update` together are one step."""

    def __init__(self, config: ViewConfig) -> None:
        self.config = config
        self.training = config.training().resolved()
        _check_recipe(config.recipe)  # before the data is read
        self.task = make_task(self.training)
        seed_globals(derive(config.seed, "init"))
        self.model, self.recipe = build_model(self.training, self.task)
        self.optimizer = build_optimizer(self.model, self.training)
        hook_steps(self.model, self.optimizer)
        self.loss_scale = loss_scale(self.model)

    def forward_backward(self, step: int, model: nn.Module | None = None) -> float:
        """One pass over the batch of `step`, counted from 0; the loss. Gradients of parameters are
        left multiplied by the loss scale. `model`: a copy of the run's own, in its place."""
        model = self.model if model is None else model
        epoch, within = divmod(step, self.task.steps_per_epoch)
        inputs, target = self.task.batch(epoch, within)
        model.train()
        model.zero_grad(set_to_none=True)
        seed_globals(derive(self.config.seed, "step", epoch, within))
        loss = self.task.loss(call(model, laid_out(inputs, self.training.channels_last)), target)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"the loss of step {step + 1} is {value}: {self.config.model} does not train with "
                f"{self.config.recipe}; take fewer --steps or another recipe."
            )
        (loss * self.loss_scale).backward()
        return value

    def update(self, step: int) -> None:
        """The optimizer's step by the gradients that `forward_backward` left."""
        config = self.training
        factor = schedule.factor(config.schedule, step, self.config.steps, config.warmup)
        set_lr(self.optimizer, factor)
        unscale_(self.model.parameters(), self.loss_scale)
        if not gradients_finite(self.model):
            raise UserError(
                f"a gradient of step {step + 1} is not finite: {self.config.model} does not train "
                f"with {self.config.recipe}; take fewer --steps or another recipe."
            )
        if config.clip_norm:
            clip_gradients_(self.optimizer, config.clip_norm)
        self.optimizer.step()


@contextmanager
def short_run(config: ViewConfig) -> Iterator[ShortRun]:
    """A run with its number of threads; both that and the global generators are given back."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(config.threads)
        with globals_restored():
            yield ShortRun(config)
    finally:
        torch.set_num_threads(threads)


def layers(run: ShortRun) -> dict[str, nn.Module]:
    """The converted layers by name, in module order; of a float32 run those that could be."""
    if run.recipe is not None:
        return dict(quantized_layers(run.model))
    named = run.model.named_modules()
    return {name: module for name, module in named if converted_class(module) is not None}


def chosen(name: str, known: Sequence[str], what: str) -> str:
    """`name`, if it is one of the `known` layers; UserError with the nearest one if not.

    >>> chosen("fc", ["conv1", "fc"], "layer")
    'fc'
    """
    if name not in known:
        raise UserError(
            f"there is no {what} '{name}' here; choose one of {', '.join(known)}."
            f"{suggest(name, known)}"
        )
    return name


@contextmanager
def output_gradients(
    modules: Mapping[str, nn.Module], keep: Callable[[Tensor], Tensor] = Tensor.clone
) -> Iterator[dict[str, list[Tensor]]]:
    """What `keep` makes of every gradient that reaches a module's output, by the module's name: one
    entry a use of the module. The default is a copy, since a layer may take its memory."""
    found: dict[str, list[Tensor]] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def after(_: nn.Module, __: Any, y: Tensor) -> None:
            if y.requires_grad:
                y.register_hook(lambda g: found.setdefault(name, []).append(keep(g.detach())))

        return module.register_forward_hook(after)

    handles = [watch(name, module) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def record(
    view: str, config: ViewConfig, options: Mapping[str, Any], **found: Any
) -> dict[str, Any]:
    """The dict of a view: what it is, how to repeat it, and what was found."""
    return {
        "schema": SCHEMA,
        "view": view,
        "command": command(view, config, options),
        "configuration": {**asdict(config), **options},
        "environment": {"versions": dict(versions()), "commit": commit()},
        **found,
    }


def command(view: str, config: ViewConfig, options: Mapping[str, Any]) -> str:
    """The command that repeats a view, without its --out.

    >>> command("gradscale", ViewConfig(steps=9), {"layer": None})
    'nybble figures gradscale --steps 9'
    """
    import shlex

    default = asdict(ViewConfig())
    words = ["nybble", "figures", view]
    for name, value in {**asdict(config), **options}.items():
        if value is not None and (name not in default or value != default[name]):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def short(value: float) -> float | None:
    """Six significant digits, which is what a figure can use; None for what is no number.

    >>> short(2 / 3), short(math.nan)
    (0.666667, None)
    """
    return float(f"{value:.6g}") if math.isfinite(value) else None


def log2(value: float) -> float | None:
    """The binary logarithm of what is above zero, to six digits; else None.

    >>> log2(0.125), log2(0.0)
    (-3.0, None)
    """
    return short(math.log2(value)) if 0.0 < value < math.inf else None


def _check_recipe(name: str) -> None:
    from nybble.recipes import get_recipe

    if name != FLOAT32:
        get_recipe(name)
