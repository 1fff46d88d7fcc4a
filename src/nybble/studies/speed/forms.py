"""The two sides of a comparison: float32 in its fastest form, and the 4-bit model.

float32 is tried contiguous, channels-last (where there are images) and, of the faster of the two,
under `torch.compile`; each takes a few steps in turn, and the fastest by the time that decides is
measured. A form that does not run here is listed with the reason, never silently dropped.

The 4-bit model has one form for speed and memory alike: images channels-last, as its kernels store
them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from nybble.convert import convert, loss_scale
from nybble.errors import UserError
from nybble.nn.parts import reason_not_native
from nybble.nn.registry import quantized_layers
from nybble.ops.dispatch import runs_native
from nybble.ops.native.plan import GEMMS
from nybble.recipes import Recipe, get_recipe
from nybble.studies.speed.workload import Workload
from nybble.studies.steptime import Sample, Step, interleave, loss_step

Clock = Literal["cpu", "wall"]
CONTIGUOUS, CHANNELS_LAST, COMPILED = "contiguous", "channels-last", "torch.compile"
ACTIVATIONS = ("4bit", "exact", "none")


def clock_of(threads: int) -> Clock:
    """The time that decides: CPU time of one thread (other work on the machine does not count),
    wall time of several (CPU time would count threads that wait).

    >>> clock_of(1), clock_of(2)
    ('cpu', 'wall')
    """
    return "cpu" if threads == 1 else "wall"


def median_ms(samples: list[Sample], clock: Clock) -> float:
    """The median of one clock, in milliseconds."""
    return 1000 * statistics.median(float(getattr(sample, clock)) for sample in samples)


@dataclass(frozen=True)
class Side:
    """A model that is ready to be stepped, and what was tried before it was chosen."""

    form: str
    model: nn.Module
    step: Step
    tried: tuple[dict[str, Any], ...] = ()


def float32_model(workload: Workload, form: str) -> tuple[nn.Module, Workload]:
    """The workload's own model (not a copy) in one form, and the batch laid out for it."""
    model = workload.model.train()
    if form == CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        workload = workload.channels_last()
    return model, workload


def float32_side(
    workload: Workload, form: str, compiled: bool = False, share: nn.Module | None = None
) -> Side:
    """float32 in one form, of a copy; `share`: an existing model of that form."""
    if share is None:
        model, batch = float32_model(workload.copy(), form)
    else:
        model = share
        batch = workload.channels_last() if form == CHANNELS_LAST else workload
    if not compiled:
        return Side(form, model, loss_step(model, lambda: batch.run(model)))
    fast = cast(nn.Module, torch.compile(model))
    step = loss_step(model, lambda: batch.run(fast))
    return Side(f"{form}, {COMPILED}", model, step)


def best_float32(
    workload: Workload,
    clock: Clock,
    compile_too: bool = True,
    tries: int = 3,
    say: Callable[[str], None] = lambda _: None,
) -> Side:
    """The fastest form of float32 by `clock`, from `tries` steps of each (two when it is slow)."""
    forms = [CONTIGUOUS, *([CHANNELS_LAST] if workload.has_images else [])]
    sides = {form: float32_side(workload, form) for form in forms}
    say(f"float32: {' and '.join(forms)}")
    samples = interleave({name: side.step for name, side in sides.items()}, tries, warmup=1)
    tried: list[dict[str, Any]] = [
        {"form": name, "ms": median_ms(own, clock), "note": None} for name, own in samples.items()
    ]
    best = min(tried, key=lambda one: float(one["ms"]))
    chosen = sides[best["form"]]
    if compile_too:
        side = float32_side(workload, chosen.form, compiled=True, share=chosen.model)
        say(f"float32: {side.form}")
        try:
            found = interleave({"eager": chosen.step, "compiled": side.step}, tries, warmup=2)
        except Exception as error:  # whatever a compiler may meet on a machine
            note = f"does not run here: {type(error).__name__}: {_first_line(error)}"
            tried.append({"form": side.form, "ms": None, "note": note})
        else:
            eager, fast = (median_ms(found[name], clock) for name in ("eager", "compiled"))
            note = f"eager beside it: {eager:.1f} ms"
            tried.append({"form": side.form, "ms": fast, "note": note})
            if fast < eager:
                chosen = side
    return Side(chosen.form, chosen.model, chosen.step, tuple(tried))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else "no message"


def four_bit_model(
    workload: Workload, recipe: str, backend: str, activations: str
) -> tuple[nn.Module, Workload]:
    """The workload's own model, converted (not a copy), and the batch laid out for it.

    Raises:
        UserError: an unknown recipe, backend or kind of activations.
    """
    if activations not in ACTIVATIONS:
        raise UserError(
            f"--activations {activations}: choose 4bit (what normalisation, activation functions "
            "and the like keep for backward is compressed), exact (where it changes no gradient) "
            "or none."
        )
    chosen = get_recipe(recipe)
    model = workload.model.train()
    options: dict[str, Any] = {} if activations == "none" else {"activations": activations}
    rules: dict[str, Recipe | str | None] = {
        name: chosen if rule == "recipe" else rule for name, rule in workload.rules.items()
    }
    convert(model, chosen, rules, backend=backend, **options)
    if workload.has_images:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        workload = workload.channels_last()
    return model, workload


def four_bit_side(workload: Workload, recipe: str, backend: str, activations: str) -> Side:
    """The 4-bit model, ready to be stepped."""
    model, batch = four_bit_model(workload.copy(), recipe, backend, activations)
    scale = loss_scale(model)
    form = CHANNELS_LAST if workload.has_images else CONTIGUOUS
    return Side(form, model, loss_step(model, lambda: batch.run(model), scale))


def backends_of(model: nn.Module) -> dict[str, int]:
    """How many Gemms of converted layers run where: `native`, `reference`, or `torch`, for those
    that the recipe makes wider than 8 bits.

    >>> layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    >>> backends_of(convert(layers, "sun2020", backend="reference"))
    {'torch': 6, 'reference': 3}
    """
    found: dict[str, int] = {}
    for _, layer in quantized_layers(model):
        native = runs_native(layer.nybble_backend, layer.weight)
        for gemm in GEMMS:
            reason = reason_not_native(layer, layer.nybble_spec, gemm)
            where = "native" if native and reason is None else "reference"
            where = "torch" if reason is not None and reason.by_recipe else where
            found[where] = found.get(where, 0) + 1
    return found
