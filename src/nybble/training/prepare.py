"""From the configuration to the model that is trained, and what its numbers depend on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.machine import cpu_model, versions
from nybble.training.start import take_weights
from nybble.training.tasks.base import Task

FLOAT32 = "fp32"


def build_model(config: TrainConfig, task: Task) -> tuple[nn.Module, Any]:
    """The task's model, converted in place, and the recipe (None: plain float32).

    The weights are drawn before the conversion, so every recipe starts from the same ones.
    """
    model = task.model()
    if config.channels_last and all(p.dim() != 5 for p in model.parameters()):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"The model '{config.resolved().model}' has no weight that can be trained.")
    import nybble
    from nybble.recipes import get_recipe

    if config.recipe == FLOAT32:
        if config.rules:
            raise UserError("--rule changes a recipe; the recipe fp32 converts no layer.")
        if config.activations != "none":
            nybble.convert(model, FLOAT32, activations=config.activations, backend=config.backend)
        return model, None
    recipe = get_recipe(config.recipe)
    rules = {pattern: None if name == "none" else name for pattern, name in config.rules}
    nybble.convert(
        model,
        recipe,
        rules or None,
        backend=config.backend,
        accumulate=config.accumulate,
        activations=None if config.activations == "none" else config.activations,
        seed=config.seed,
    )
    return model, recipe


def begin(model: nn.Module, config: TrainConfig) -> dict[str, Any] | None:
    """Load the trained model that the run starts from; what to record of it, or None."""
    if config.start is None:
        return None
    return take_weights(model, config)


def environment() -> dict[str, Any]:
    """What must be the same for two runs to be equal bit for bit."""
    return {
        "threads": torch.get_num_threads(),
        "cpu": cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **versions(),
    }
