"""What batch norm receives and passes on, with gradients in float32, in one phase and in two.

Batch norm, y = gamma x^ + beta with x^ = (z - mean z) / sqrt(var z + eps), learns from two sums of
every channel

    dL/dbeta = sum of dL/dy        dL/dgamma = sum of dL/dy x^

and passes dz = (gamma / sqrt(var + eps)) (dL/dy - mean of dL/dy - x^ mean of (dL/dy x^)) on, which
in float32 has neither: sum of dz = 0 and sum of dz x^ = 0. The layer below quantises dz as its
output gradient, and the rounded Q(dz) has both sums again: a mean that was never there. Review 1 of
Sun et al. (NeurIPS 2020) says that this bias matters most through batch norm, and that the paper
shows batch norm's statistics with and without two-phase rounding; what exactly is shown there is
not in the texts that were available, so the measures below are this project's.

    received    dbeta and dgamma of every batch norm, in copies of the network that differ only in
                how radix-4 gradients are rounded, on the same weights and batch:
                  mean        over the channels, without the loss scale
                  error       |d - d_float32| / |d_float32|, over the channels
                  shrinkage   <d, d_float32> / <d_float32, d_float32>
    passed_on   of every batch norm above a layer with radix-4 gradients, from the dz and with the
                scale that this layer has used:
                  beta        root mean square over channels of  sum of Q(dz) / sum of |dz|
                  gamma       the same of                         sum of Q(dz) x^ / sum of |dz x^|

    float32     no rounding             even, odd    one grid for both backward Gemms
    both        the mean of both grids: what the two Gemms of two-phase rounding see together

Two-phase rounding gives each Gemm one grid. On the same weights, what batch norm receives under it
is therefore what it receives under the one phase that feeds grad_input, bit for bit (a test says
so); the other phase acts on the weights alone. In `received` the row `both` is the recipe's switch
phases=average, which runs both Gemms on both grids.

The weights are those of a run of the recipe itself, at up to `LOOKS` of its steps, evenly spaced.
Not done here: the drift of running means and variances over a whole training; grids of other bases.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.formats import LogFormat, Stochastic
from nybble.nn.registry import quantized_layers
from nybble.nn.state import QuantizedLayer
from nybble.ops.spec import LayerSpec
from nybble.quantizers import GradScale, Quantizer, RandomKey, random24
from nybble.studies.views.run import (
    Progress,
    ShortRun,
    ViewConfig,
    output_gradients,
    record,
    short,
    short_run,
)

CONDITIONS = ("float32", "even", "odd", "both")
LOOKS = 10
_SUMS = ("beta", "gamma")
_MEASURES = ("mean", "error", "shrinkage")


def measure_batch_norm(
    config: ViewConfig | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Train for `steps` steps, look at some, and return the view; see the module.

    Raises:
        UserError: a recipe without radix-4 gradients, a model without batch norm above them.
    """
    config = config or ViewConfig()
    received: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    passed: dict[str, dict[str, Any]] = {}
    with short_run(config) as run:
        if not any(_is_radix4(layer) for _, layer in quantized_layers(run.model)):
            raise UserError(
                f"no layer of {config.model} has radix-4 gradients with a GradScale under "
                f"{config.recipe}; choose sun2020, with any of its switches but gradients."
            )
        if not _norms(run.model):
            raise UserError(f"{config.model} has no batch norm; choose a model such as resnet8.")
        looked = looks(config.steps)
        for step in range(config.steps):
            if step in looked:
                _look(run, step, received, passed)
            run.forward_backward(step)
            run.update(step)
            if progress:
                progress(step + 1, config.steps)
    if not passed:
        raise UserError(
            f"no batch norm of {config.model} follows a layer with radix-4 gradients; choose a "
            "model such as resnet8."
        )
    return record(
        "batch-norm",
        config,
        {},
        steps=[step + 1 for step in looked],
        received=[{"layer": name, "conditions": found} for name, found in received.items()],
        passed_on=list(passed.values()),
    )


def looks(steps: int, most: int = LOOKS) -> list[int]:
    """The steps that are looked at, counted from 0: the first, the last, and evenly in between.

    >>> looks(5, 3), looks(2)
    ([0, 2, 4], [0, 1])
    """
    count = min(steps, most)
    return [round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)]


def _look(
    run: ShortRun,
    step: int,
    received: dict[str, dict[str, dict[str, list[float | None]]]],
    passed: dict[str, dict[str, Any]],
) -> None:
    """One pass over the step's batch under every condition, in copies of the network."""
    run.model.zero_grad(set_to_none=True)  # a copy needs no gradients of the step before
    exact: dict[str, dict[str, Tensor]] = {}
    for condition in CONDITIONS:
        twin = under(run.model, condition)
        with watched(twin) as seen:
            run.forward_backward(step, twin)
        sums = _parameter_gradients(twin, run.loss_scale)
        exact = exact or sums  # float32 comes first
        _receive(received, condition, sums, exact)
        if condition == "even":
            _pass_on(passed, twin, seen, run.config.seed)


# ---- the copies ----------------------------------------------------------------------------------


def under(model: nn.Module, condition: str) -> nn.Module:
    """A copy of the model whose radix-4 gradients are rounded as the condition says; the layers
    that the recipe keeps wider stay as they are."""
    twin = copy.deepcopy(model)
    for _, layer in quantized_layers(twin):
        if _is_radix4(layer):
            layer.become_(changed(layer.nybble_spec, condition))
    return twin


def changed(spec: LayerSpec, condition: str) -> LayerSpec:
    """A radix-4 spec with the gradient slots of a condition; see the module."""
    if condition == "float32":
        return replace(spec, grad_input_grad=None, grad_weight_grad=None, gradient_pair="each")
    even, odd = phases(spec)
    first, second = {"even": (even, even), "odd": (odd, odd), "both": (even, odd)}[condition]
    return replace(
        spec,
        grad_input_grad=first,
        grad_weight_grad=second,
        gradient_pair="mean" if condition == "both" else "each",
    )


def phases(spec: LayerSpec) -> tuple[Quantizer, Quantizer]:
    """The quantizers of the even and of the odd grid that a radix-4 spec speaks of.

    >>> from nybble.recipes import get_recipe
    >>> [q.format.name for q in phases(get_recipe("sun2020").spec)]
    ['fp4_radix4', 'fp4_radix4_odd']
    """
    slots = [slot for slot in (spec.grad_input_grad, spec.grad_weight_grad) if slot is not None]
    formats = [slot.format for slot in slots if isinstance(slot.format, LogFormat)]
    even = replace(formats[0], phase="even")
    odd = next((fmt for fmt in formats if fmt.phase == "odd"), even.odd())
    return replace(slots[0], format=even), replace(slots[0], format=odd)


def _is_radix4(layer: QuantizedLayer) -> bool:
    slots = (layer.nybble_spec.grad_input_grad, layer.nybble_spec.grad_weight_grad)
    return all(
        slot is not None
        and isinstance(slot.format, LogFormat)
        and slot.format.base == 4
        and isinstance(slot.scale, GradScale)
        for slot in slots
    )


# ---- what is seen of a pass ----------------------------------------------------------------------


@dataclass
class _Seen:
    """Of every batch norm above a radix-4 layer: its input, that layer's name and its gradient."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    below: dict[str, str] = field(default_factory=dict)
    gradients: Mapping[str, list[Tensor]] = field(default_factory=dict)


@contextmanager
def watched(model: nn.Module) -> Iterator[_Seen]:
    """Note inputs and gradients of one forward and backward pass; see `_Seen`."""
    seen = _Seen()
    under_norm = {n: layer for n, layer in quantized_layers(model) if _is_radix4(layer)}
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so its id stays its own
    handles = []
    for name, layer in under_norm.items():
        handles.append(
            layer.register_forward_hook(
                lambda _, __, y, name=name: outputs.__setitem__(id(y), (name, y))
            )
        )

    def before(norm: str, x: Tensor) -> None:
        if id(x) in outputs:
            seen.inputs[norm], seen.below[norm] = x.detach(), outputs[id(x)][0]

    for name, norm in _norms(model).items():
        handles.append(
            norm.register_forward_pre_hook(lambda _, given, name=name: before(name, given[0]))
        )
    try:
        with output_gradients(under_norm) as gradients:
            seen.gradients = gradients
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def _norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    kind = nn.modules.batchnorm._BatchNorm
    return {name: m for name, m in model.named_modules() if isinstance(m, kind) and m.affine}


def _parameter_gradients(model: nn.Module, loss_scale: float) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, norm in _norms(model).items():
        beta, gamma = norm.bias.grad, norm.weight.grad
        if beta is not None and gamma is not None:
            found[name] = {
                "beta": beta.detach().double() / loss_scale,
                "gamma": gamma.detach().double() / loss_scale,
            }
    return found


# ---- the measures --------------------------------------------------------------------------------


def _receive(
    received: dict[str, dict[str, dict[str, list[float | None]]]],
    condition: str,
    sums: dict[str, dict[str, Tensor]],
    exact: dict[str, dict[str, Tensor]],
) -> None:
    for name, both in sums.items():
        lists = received.setdefault(name, {}).setdefault(
            condition, {f"{s}_{m}": [] for s in _SUMS for m in _MEASURES}
        )
        for s in _SUMS:
            for measure, value in compared(both[s], exact[name][s]).items():
                lists[f"{s}_{measure}"].append(value)


def compared(d: Tensor, exact: Tensor) -> dict[str, float | None]:
    """mean, error and shrinkage of one gradient over the channels; see the module.

    >>> compared(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]))
    {'mean': 1.0, 'error': 0.5, 'shrinkage': 0.5}
    """
    power = float((exact * exact).sum())
    known = power > 0
    return {
        "mean": short(float(d.mean())),
        "error": short((float((d - exact).square().sum()) / power) ** 0.5) if known else None,
        "shrinkage": short(float((d * exact).sum()) / power) if known else None,
    }


def _pass_on(passed: dict[str, dict[str, Any]], model: nn.Module, seen: _Seen, seed: int) -> None:
    modules, norms = dict(quantized_layers(model)), _norms(model)
    for name, z in seen.inputs.items():
        below = seen.below[name]
        if len(seen.gradients.get(below, [])) != 1:
            continue  # a layer that is used twice has no one gradient
        layer, (dz,) = modules[below], seen.gradients[below]
        entry = passed.setdefault(
            name,
            {
                "layer": name,
                "below": below,
                "conditions": {c: {s: [] for s in _SUMS} for c in CONDITIONS},
            },
        )
        rounded = roundings(dz, layer.nybble_spec, float(layer.nybble_grad_scale), seed)
        for condition, q in rounded.items():
            for s, value in left_over(q, dz, z, norms[name].eps).items():
                entry["conditions"][condition][s].append(value)


def roundings(dz: Tensor, spec: LayerSpec, scale: float, seed: int = 0) -> dict[str, Tensor]:
    """dz under each condition, multiplied by `scale` before and divided after; float64."""
    scale = scale or 1.0
    y = dz.float() * scale
    found = {"float32": dz.double()}
    for name, slot in zip(("even", "odd"), phases(spec), strict=True):
        random = None
        if isinstance(slot.rounding, Stochastic):
            random = random24(y.shape, RandomKey(seed=seed), y.device)
        found[name] = slot.format.round(y, slot.rounding, random).double() / scale
    found["both"] = (found["even"] + found["odd"]) / 2
    return found


def left_over(q: Tensor, dz: Tensor, z: Tensor, eps: float) -> dict[str, float | None]:
    """The two sums of q = Q(dz) over batch and positions, relative, over channels; see the module.

    q, dz, z: [N, C, ...]. Channels whose gradient is zero are left out; None where all are.
    """
    dims = [d for d in range(z.dim()) if d != 1]
    z, dz, q = z.double(), dz.double(), q.double()
    centred = z - z.mean(dims, keepdim=True)
    normal = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    found: dict[str, float | None] = {}
    for name, weight in (("beta", torch.ones_like(normal)), ("gamma", normal)):
        size = (dz * weight).abs().sum(dims)
        kept = size > 0
        ratio = (q * weight).sum(dims)[kept] / size[kept]
        found[name] = short(float(ratio.square().mean().sqrt())) if bool(kept.any()) else None
    return found
