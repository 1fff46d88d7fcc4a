"""The content of result.json, put together from a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from torch import nn

from nybble.summary import layer_rows
from nybble.training.machine import machine, versions

if TYPE_CHECKING:
    from nybble.training.loop import Run


def run_record(run: Run, status: str, error: str | None = None) -> dict[str, Any]:
    """Everything that result.json says about `run`; result.py describes the fields."""
    state, metric = run.state, run.task.metric
    epochs = state.epochs
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    record: dict[str, Any] = {
        "status": status,
        "error": error,
        "config": run.config.to_dict(),
        "seed": run.config.seed,
        "folder": str(run.folder),
        "loss_scale": state.loss_scale,
        "phases": run.phases.record(state),
        "skipped_steps": state.skipped,
        "metric": metric,
        "unit": run.task.unit,
        "digits": run.task.digits,
        "comparison": run.task.comparison,
        "higher_is_better": run.task.higher_is_better,
        "data": run.about,
        "model": {"name": run.config.model, "parameters": parameters},
        "recipe": recipe_record(run.config.recipe, run.recipe),
        "layers": layers_record(run.model),
        "start": None if run.start is None else {**run.start, **state.before},
        "versions": versions(),
        "machine": machine(),
        "commit": run.commit,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "steps": run.done,
        "total_steps": run.total_steps,
        "saved_bytes": state.saved_bytes,
        "epochs": epochs,
        "dead_layers": sorted({name for epoch in epochs for name in epoch["gradients"]["dead"]}),
        "warnings": state.warnings,
        "alarms": state.alarms,
        "raised": state.raised,
    }
    if epochs:
        key = f"test_{metric}"
        best = max if run.task.higher_is_better else min
        record["final"] = {k: v for k, v in epochs[-1].items() if k != "gradients"}
        record[f"best_{metric}"] = best(epoch[key] for epoch in epochs)
    return record


def recipe_record(name: str, recipe: Any) -> dict[str, Any]:
    """The recipe as it was asked for, and its own record."""
    return {"name": name, "record": recipe.to_dict() if recipe is not None else None}


def layers_record(model: nn.Module) -> list[dict[str, str]]:
    """Of each layer that multiplies weights, what it runs in: compact, and without running it.

    >>> from nybble import convert
    >>> layers_record(convert(nn.Sequential(nn.Linear(8, 8)), "bf16"))[0]["output"]
    'bf16 x bf16'
    """
    found: dict[str, dict[str, str]] = {}
    for row in layer_rows(model):
        entry = found.setdefault(
            row.layer, {"layer": row.layer, "type": row.type, "rule": row.rule, "bits": ""}
        )
        entry[row.gemm] = f"{row.left} x {row.right}"
        entry["bits"] = f"{entry['bits']} {row.bits[0]} {row.bits[1]}".lstrip()
        backends = dict.fromkeys([*entry.get("backend", "").split(", "), row.backend])
        entry["backend"] = ", ".join(name for name in backends if name)
        if row.fallback:
            entry["fallback"] = row.fallback
    return list(found.values())


def layers_of(model: nn.Module, weights: list[str], converted: bool) -> list[str]:
    """The layers that own `weights`: the converted ones of them, or all in a float32 run."""
    layers = sorted({name.rpartition(".")[0] for name in weights})
    if not converted:
        return layers
    from nybble.nn import quantized_layers
    from nybble.nn.recurrent import RecurrentGemm

    # The Gemms of a recurrent layer are its children; the weights are its own.
    quantized = {
        name.rpartition(".")[0] if isinstance(layer, RecurrentGemm) else name
        for name, layer in quantized_layers(model)
    }
    return [layer for layer in layers if layer in quantized]
