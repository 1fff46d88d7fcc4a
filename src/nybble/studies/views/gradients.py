"""A layer's output gradient g on a logarithmic axis, beside the grids it may be rounded to.

    shares[i]    of all elements, those with edges[i] <= log2|g| < edges[i + 1]
    zero         share of elements that are zero before any rounding
    grids        of the recipe's own two slots (the phases of two-phase rounding), with the scale
                 that the layer has just used, and of `against`, each with its scale fitted to g;
                 see grids.py

The gradient is that of one batch, after `steps` - 1 steps of training. In a float32 run, which has
no slots, the two phases of `sun2020` stand in, their scale fitted to g.

The radix-4 grid of Sun et al. (NeurIPS 2020) has 7 magnitudes over 12 octaves; INT4 has 7 over less
than 3, which is why the paper takes another grid for gradients. Every number here is measured.

Not done here: scales that are not one number a tensor (grids.py says why), gradients of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.state import QuantizedLayer
from nybble.quantizers import Quantizer, get_quantizer
from nybble.studies.views.grids import Scaled, check, fitted, grid, used
from nybble.studies.views.run import (
    Progress,
    ShortRun,
    ViewConfig,
    chosen,
    layers,
    log2,
    output_gradients,
    record,
    short,
    short_run,
)

AGAINST = ("int4:absmax",)
PER_OCTAVE = 4
LOWEST = -60
"""Octaves below this one are put into the lowest bin: float32 reaches 2^-149."""


def measure_gradients(
    config: ViewConfig | None = None,
    layer: str | None = None,
    against: Sequence[str] = AGAINST,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train for a few steps and return the view; see the module.

    layer: its name in the model; None is the middle one of those whose gradients have few bits.
    against: names of quantizers (`nybble.quantizers.get_quantizer`) to draw beside the recipe's.

    Raises:
        UserError: an unknown name, a layer whose gradients stay wide, a scale that has no one grid.
    """
    config = config or ViewConfig()
    others = [get_quantizer(name) for name in against]
    for name, other in zip(against, others, strict=True):
        check(other, f"the quantizer '{name}'")
    with short_run(config) as run:
        name = _layer(run, layer)
        module = layers(run)[name]
        own = slots(module)
        for place, slot in own:
            check(slot, f"{place} of the layer '{name}'")
        for step in range(config.steps - 1):
            run.forward_backward(step)
            run.update(step)
            if progress:
                progress(step + 1, config.steps)
        with output_gradients({name: module}) as found:
            run.forward_backward(config.steps - 1)
        if progress:
            progress(config.steps, config.steps)
        g = torch.cat(found[name])
        rows: list[tuple[str, Scaled]] = []
        for place, slot in own:
            what = f"{place} of the layer '{name}'"
            in_use = isinstance(module, QuantizedLayer)
            rows.append((place, used(module, slot, g, what) if in_use else fitted(slot, g, what)))
        rows += [
            ("beside", fitted(other, g, f"the quantizer '{name}'"))
            for name, other in zip(against, others, strict=True)
        ]
        options = {
            "layer": layer,
            "against": None if tuple(against) == AGAINST else ",".join(against) or "none",
        }
        return record(
            "gradients",
            config,
            options,
            layer=name,
            elements=g.numel(),
            loss_scale=run.loss_scale,
            **histogram(g / run.loss_scale),
            grids=[
                {"place": place, **grid(scaled, g, run.loss_scale, config.seed)}
                for place, scaled in rows
            ],
        )


def slots(module: nn.Module) -> list[tuple[str, Quantizer]]:
    """(Gemm, quantizer) of a layer's output gradient, equal ones once, under both names.

    >>> [place for place, _ in slots(nn.Linear(2, 2))]
    ['grad_input', 'grad_weight']
    """
    if isinstance(module, QuantizedLayer):
        spec = module.nybble_spec
    else:
        from nybble.recipes import get_recipe

        spec = get_recipe("sun2020").spec
    first, second = spec.grad_input_grad, spec.grad_weight_grad
    if first is not None and first == second:
        return [("both backward Gemms", first)]
    named = (("grad_input", first), ("grad_weight", second))
    return [(place, slot) for place, slot in named if slot is not None]


def histogram(g: Tensor, per_octave: int = PER_OCTAVE) -> dict[str, Any]:
    """Shares of the magnitudes in bins of 1 / per_octave octaves; see the module.

    >>> found = histogram(torch.tensor([0.0, 1.0, -1.5, 4.0]), per_octave=1)
    >>> found["zero"], found["edges"], found["shares"]
    (0.25, [0.0, 1.0, 2.0, 3.0], [0.5, 0.0, 0.25])
    """
    size = g.detach().double().abs().flatten()
    kept = size[size > 0]
    total = max(size.numel(), 1)
    if not kept.numel():
        return {"zero": short((size == 0).sum().item() / total), "edges": [0.0, 1.0],
                "shares": [0.0], "log2_max": None, "log2_median": None}  # fmt: skip
    logs = kept.log2().clamp_(min=LOWEST)
    first = math.floor(float(logs.min()) * per_octave)
    last = math.floor(float(logs.max()) * per_octave)
    place = (logs * per_octave).floor_().long().sub_(first)
    counts = torch.bincount(place, minlength=last - first + 1)
    return {
        "zero": short((total - kept.numel()) / total),
        "edges": [(first + i) / per_octave for i in range(len(counts) + 1)],
        "shares": [short(n / total) for n in counts.tolist()],
        "log2_max": log2(float(kept.max())),
        "log2_median": log2(float(kept.median())),
    }


def _layer(run: ShortRun, name: str | None) -> str:
    """The layer that was asked for, or the middle one of those that can be drawn."""
    known = layers(run)
    if name is not None:
        found = chosen(name, list(known), "layer")
        if not slots(known[found]):
            raise UserError(
                f"the gradients of the layer '{name}' stay in float32 under {run.config.recipe}; "
                f"choose one of {', '.join(_drawable(known)) or 'another recipe'}."
            )
        return found
    able = _drawable(known)
    if not able:
        raise UserError(
            f"no layer of {run.config.model} has gradients on a grid of few bits and one scale "
            f"under {run.config.recipe}; choose a recipe such as sun2020."
        )
    return able[(len(able) - 1) // 2]


def _drawable(known: dict[str, nn.Module]) -> list[str]:
    able = []
    for name, module in known.items():
        try:
            for place, slot in slots(module):
                check(slot, place)
        except UserError:
            continue
        if slots(module):
            able.append(name)
    return able
