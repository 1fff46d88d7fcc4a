"""Steps and layers of a network, measured: float32 in its faster form and the converted network.

    step        float32 and 4-bit, one step of each in turn, CPU time of the process, median
    layer       output, grad_input and grad_weight of every distinct layer, as `time_layer` takes
                them, on the tensor that it had in the network

The step is `nybble bench step`'s: clear gradients, forward, loss, backward, SGD with momentum.
float32 is tried contiguous and channels-last where there are images, not compiled: what is
predicted is torch's operators, one by one.

Not done here: several threads; layers whose products run fused, other than recurrent ones.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nybble.convert import convert, loss_scale
from nybble.hardware.cpu.timing import BACKWARD, Timing, time_layer
from nybble.hardware.kinds import GEMMS, GRAD_WEIGHT, OUTPUT
from nybble.hardware.networks import Network
from nybble.recipes import get_recipe
from nybble.studies.speed.forms import best_float32, four_bit_side
from nybble.studies.speed.joules import joules_of
from nybble.studies.speed.workload import make_workload
from nybble.studies.steptime import Sample, Step, interleave, loss_step

__all__ = ["Layer", "Sides", "distinct_layers", "make_sides", "measure_layer", "measure_steps"]

RECIPE = "sun2020"
_LAYERS = (nn.Conv2d, nn.Linear, nn.RNNBase)


@dataclass(frozen=True)
class Sides:
    """Both models with their steps, ready to be timed."""

    form: str
    models: dict[str, nn.Module]
    steps: dict[str, Step]
    tried: tuple[dict[str, Any], ...] = ()


def make_sides(network: Network, batch: int, say: Callable[[str], None] = lambda _: None) -> Sides:
    """Build both sides of a network."""
    prefix, _, name = network.name.partition(":")
    if prefix == "cpu":
        workload = make_workload(name, batch)
        ours = four_bit_side(workload, RECIPE, "auto", "4bit")
        float32 = best_float32(workload, "cpu", compile_too=False, say=say)
        return Sides(
            float32.form,
            {"torch": float32.model, "native": ours.model},
            {"torch": float32.step, "native": ours.step},
            float32.tried,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, loss = network.build(batch)
    model.train()
    other = copy.deepcopy(model)
    chosen = get_recipe(RECIPE)
    rules = {name: chosen if rule == "recipe" else rule for name, rule in network.rules.items()}
    convert(other, chosen, rules, activations="4bit")
    return Sides(
        "contiguous",
        {"torch": model, "native": other},
        {
            "torch": loss_step(model, lambda: loss(model)),
            "native": loss_step(other, lambda: loss(other), loss_scale(other)),
        },
    )


def measure_steps(
    sides: Sides, rounds: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Milliseconds of a step of each side, the samples too, and joules where they are counted."""
    samples = interleave(sides.steps, rounds, warmup=2, progress=progress)
    found: dict[str, Any] = {"rounds": rounds, "form": sides.form, "tried": list(sides.tried)}
    for side, own in samples.items():
        found[side] = {**_times(own), "joules": joules_of(sides.steps[side])}
    return found


def _times(samples: list[Sample]) -> dict[str, Any]:
    cpu = sorted(1000 * s.cpu for s in samples)
    return {
        "cpu_ms": statistics.median(cpu),
        "least_ms": cpu[0],
        "most_ms": cpu[-1],
        "samples": [s.cpu for s in samples],
    }


# ---- layers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer that stands for all of its shape: `names`, as the trace calls them."""

    names: tuple[str, ...]
    module: nn.Module
    x: Tensor
    learns: bool


def distinct_layers(model: nn.Module, step: Step) -> list[Layer]:
    """One layer of every shape of weight and input, with its input in one step."""
    seen: dict[tuple[Any, ...], Layer] = {}
    handles = []
    for name, module in model.named_modules():
        if not isinstance(module, _LAYERS):
            continue

        def look(module: nn.Module, inputs: Any, name: str = name) -> None:
            x: Tensor = inputs[0]
            key = (
                *(type(module).__name__, tuple(x.shape), x.requires_grad),
                *(tuple(p.shape) for p in module.parameters()),
                *(getattr(module, "stride", None), getattr(module, "groups", None)),
            )
            if key in seen:
                had = seen[key]
                seen[key] = Layer((*had.names, name), had.module, had.x, had.learns)
            else:
                seen[key] = Layer((name,), module, x.detach().clone(), x.requires_grad)

        handles.append(module.register_forward_pre_hook(look))
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values())


def measure_layer(layer: Layer, timing: Timing) -> dict[str, float]:
    """Seconds of each product that the network has of it."""
    which = GEMMS if layer.learns else (OUTPUT, GRAD_WEIGHT)
    x = layer.x
    if isinstance(layer.module, nn.RNNBase):
        return time_layer(layer.module, x, timing, (OUTPUT, BACKWARD), layer.learns)
    return time_layer(layer.module, x, timing, which)
