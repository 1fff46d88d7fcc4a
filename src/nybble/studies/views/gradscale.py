"""The history of every layer's GradScale over the steps of a short run.

    log2_scale    log2 s, of the s that the step's gradient was multiplied by
    log2_max      log2 max|g| of the step's output gradient, times the loss scale, as it arrives
    log2_scaled   log2 max|s g|, which the rule keeps in (log2 Max - 1, log2 Max]
    moves         how often s was doubled and halved

None stands for the logarithm of a zero or of a number that is not finite: such a gradient moves no
scale. Rule: nybble/quantizers/scales/gradscale.py, after Sun et al. (NeurIPS 2020).

The maxima are read from the gradients themselves and not from the layer's notes, which a test
compares with them. Not done here: other scales with a memory (Hindsight).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor

from nybble.errors import UserError
from nybble.nn.state import QuantizedLayer
from nybble.quantizers import GradScale
from nybble.quantizers.scales.gradscale import absolute_max
from nybble.studies.views.run import (
    Progress,
    ShortRun,
    ViewConfig,
    chosen,
    layers,
    log2,
    output_gradients,
    record,
    short_run,
)


def measure_gradscale(
    config: ViewConfig | None = None,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train for `steps` steps and return the view; see the module. layer: only this one.

    Raises:
        UserError: an unknown name, or a recipe without GradScale.
    """
    config = config or ViewConfig()
    with short_run(config) as run:
        watched = scaled_layers(run)
        if layer is not None:
            watched = {layer: watched[chosen(layer, list(watched), "layer with a GradScale")]}
        history: dict[str, dict[str, list[float | None]]] = {
            name: {"log2_scale": [], "log2_max": [], "log2_scaled": []} for name in watched
        }
        with output_gradients(watched, absolute_max) as found:
            for step in range(config.steps):
                found.clear()
                run.forward_backward(step)
                for name, module in watched.items():
                    _note(history[name], module, found.get(name, []))
                run.update(step)
                if progress:
                    progress(step + 1, config.steps)
        top = {_top(module) for module in watched.values()}
        return record(
            "gradscale",
            config,
            {"layer": layer},
            log2_top=log2(max(top)),
            log2_loss_scale=log2(run.loss_scale),
            layers=[
                {"layer": name, **lists, "moves": moves(lists["log2_scale"])}
                for name, lists in history.items()
            ],
        )


def scaled_layers(run: ShortRun) -> dict[str, QuantizedLayer]:
    """The layers whose gradients have a GradScale; UserError where there is none."""
    found: dict[str, QuantizedLayer] = {}
    for name, module in layers(run).items():
        if isinstance(module, QuantizedLayer):
            rule = module.nybble_spec.grad_scale
            if rule is not None and isinstance(rule[0], GradScale):
                found[name] = module
    if not found:
        raise UserError(
            f"no layer of {run.config.model} has a GradScale under {run.config.recipe}; choose "
            "sun2020 or another recipe with one (`nybble recipes`)."
        )
    return found


def moves(log2_scale: list[float | None]) -> dict[str, int]:
    """How often a scale went up and down.

    >>> moves([3.0, 4.0, 4.0, 3.0, None])
    {'up': 1, 'down': 1}
    """
    known = [(a, b) for a, b in pairwise(log2_scale) if a is not None and b is not None]
    return {"up": sum(b > a for a, b in known), "down": sum(b < a for a, b in known)}


def _note(
    lists: dict[str, list[float | None]], module: QuantizedLayer, maxima: list[Tensor]
) -> None:
    largest = max((float(m) for m in maxima), default=0.0)
    scale = float(module.nybble_grad_scale)
    lists["log2_scale"].append(log2(scale))
    lists["log2_max"].append(log2(largest))
    lists["log2_scaled"].append(log2(largest * scale))


def _top(module: QuantizedLayer) -> float:
    rule = module.nybble_spec.grad_scale
    assert rule is not None  # scaled_layers chose it
    return rule[1]
