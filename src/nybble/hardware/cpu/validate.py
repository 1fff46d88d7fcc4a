"""The model of a CPU against the CPU: probes, then predictions, then the measurement.

    1  probe        rates of layers and operators that no checked network has (probes.py)
    2  predict      every network, float32 and 4-bit, from those rates alone; kept in the record
    3  measure      steps in turn, and the distinct layers one by one, in the same call

    error = predicted / measured - 1

    step            within 20 % of the median of 15 steps, both sides
    ratio           4-bit time over float32 time, within 15 %
    Gemm            within 30 %: a layer's output, grad_input or grad_weight with its quantisation,
                    of layers of one shape that together take at least 2 % of the predicted Gemms
                    of their step; what is smaller is listed and not judged, and timed once

One thread, CPU time, memory kept by the process (memory.py). No layer of a checked network is timed
for the description, and no figure in it is fitted to a step. What is probed was chosen with these
networks known: the rows for depthwise images smaller than their kernel, for decoding and for clips
were added when MobileNetV2 had come out a third too fast, that for odd results when the head of
BERT had, whose step was within 9 % before, and those for long and short sums of 1x1 layers when
MobileNetV2 had been beyond 30 % in one of them.

Not done here: several threads; other recipes than sun2020 with `activations="4bit"`; float32 under
torch.compile; joules of a model (they are read where the machine counts them).
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import torch

from nybble.errors import UserError
from nybble.hardware.chip import Chip
from nybble.hardware.comparison import Traced
from nybble.hardware.cpu.by_layer import LayerTime, layer_times
from nybble.hardware.cpu.describe import chip_of, row_dicts
from nybble.hardware.cpu.measure import (
    RECIPE,
    Layer,
    Sides,
    distinct_layers,
    make_sides,
    measure_layer,
    measure_steps,
)
from nybble.hardware.cpu.memory import keep_memory
from nybble.hardware.cpu.predict import predict
from nybble.hardware.cpu.probe_gemms import attention_rates
from nybble.hardware.cpu.probes import COMMAND, Probed, peaks, probe
from nybble.hardware.cpu.timing import BACKWARD, Timing
from nybble.hardware.kinds import OUTPUT
from nybble.hardware.networks import get_network
from nybble.studies.speed import record
from nybble.studies.statistics import median_ratio

__all__ = ["BOUNDS", "NETWORKS", "ROUNDS", "Checked", "run"]

Progress = Callable[[str, int, int], None]
ROUNDS: Final = 15
BOUNDS: Final = {"step": 0.20, "gemm": 0.30, "ratio": 0.15}
SHARE: Final = 0.02
SIDES: Final = ("torch", "native")


@dataclass(frozen=True)
class Checked:
    """A network and its batch; `apart`: not one of the three that the bounds are stated for."""

    name: str
    batch: int
    apart: bool = False


NETWORKS: Final = (
    Checked("cpu:resnet18", 32),
    Checked("cpu:transformer", 8),
    Checked("cpu:lstm", 64),
    Checked("cpu:mobilenetv2", 32, apart=True),
    Checked("bert", 2, apart=True),
)


@dataclass
class _Prediction:
    """What is known of a network before it is measured."""

    seconds: dict[str, float]
    gemms: dict[str, float]
    layers: dict[str, dict[str, LayerTime]]
    notes: dict[str, list[str]]
    causes: dict[str, dict[str, float]]


def run(
    progress: Progress = lambda what, done, total: None,
    rounds: int = ROUNDS,
    networks: Sequence[Checked] = NETWORKS,
    timing: Timing | None = None,
    probed: Probed | None = None,
    few: int | None = None,
) -> dict[str, Any]:
    """Probe, predict, measure; returns the record. `probed`: rows that exist already.

    Raises:
        UserError: no native kernels, or no rounds.
    """
    record.at_least("rounds", rounds)
    if not networks:
        raise UserError("hardware validate: there is no network to check.")
    timing = timing or Timing()
    kept = keep_memory()
    if probed is None:
        probed = probe(lambda what: progress(f"probing: {what}", 0, 0), timing, few)
    chip = chip_of(probed.rows, probed.peaks)
    predictions: dict[str, _Prediction] = {}
    for done, checked in enumerate(networks):
        progress(f"predicting {checked.name}", done, len(networks))
        predictions[checked.name] = _predict(checked, chip)
    written = {
        "at": _now(),
        "networks": {name: _as_json(p) for name, p in predictions.items()},
    }
    steps: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    gemms: list[dict[str, Any]] = []
    measured_from = _now()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for done, checked in enumerate(networks):
            progress(f"measuring {checked.name}", done, len(networks))
            found = _measure(checked, predictions[checked.name], rounds, timing, progress)
            steps += found["steps"]
            ratios.append(found["ratio"])
            gemms += found["gemms"]
            gc.collect()
    finally:
        torch.set_num_threads(before)
    after = peaks(timing, few is not None)
    return record.make(
        "hardware-validate",
        COMMAND,
        {
            "rounds": rounds,
            "recipe": RECIPE,
            "networks": [asdict(one) for one in networks],
            "timing": asdict(timing),
        },
        bounds=BOUNDS,
        share=SHARE,
        peaks=probed.peaks,
        peaks_after=after,
        memory=kept,
        predictions=written,
        measured_from=measured_from,
        steps=steps,
        ratios=ratios,
        gemms=gemms,
        passed={
            "step": all(row["within"] for row in steps),
            "ratio": all(row["within"] for row in ratios),
            "gemm": all(row["within"] for row in gemms if row["judged"]),
        },
        rows=row_dicts(probed.rows),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _predict(checked: Checked, chip: Chip) -> _Prediction:
    network = replace(get_network(checked.name), optimizer="sgd")  # as the step that is measured
    traced = Traced(network)
    found = _Prediction({}, {}, {}, {}, {})
    for side, recipe in zip(SIDES, ("fp32", RECIPE), strict=True):
        work = traced.workload(recipe, checked.batch, 32)
        estimate = predict(work, chip)
        found.seconds[side] = estimate.seconds
        found.gemms[side] = estimate.gemm_seconds
        found.layers[side] = layer_times(work, chip)
        found.notes[side] = list(estimate.notes)
        found.causes[side] = {name: row["seconds"] for name, row in estimate.by("cause").items()}
    return found


def _as_json(prediction: _Prediction) -> dict[str, Any]:
    return {
        side: {
            "ms": 1e3 * prediction.seconds[side],
            "gemm_ms": 1e3 * prediction.gemms[side],
            "causes_ms": {name: 1e3 * s for name, s in prediction.causes[side].items()},
            "notes": prediction.notes[side],
        }
        for side in SIDES
    }


# ---- the measurement ----------------------------------------------------------------------------


def _measure(
    checked: Checked,
    prediction: _Prediction,
    rounds: int,
    timing: Timing,
    progress: Progress,
) -> dict[str, Any]:
    network = get_network(checked.name)
    sides = make_sides(network, checked.batch)
    found = measure_steps(
        sides, rounds, lambda done, total: progress(f"{checked.name}, steps in turn", done, total)
    )
    steps = []
    for side in SIDES:
        predicted, measured = 1e3 * prediction.seconds[side], found[side]["cpu_ms"]
        steps.append(
            {
                "network": checked.name,
                "batch": checked.batch,
                "apart": checked.apart,
                "side": side,
                "form": sides.form if side == "torch" else "",
                "tried": list(sides.tried) if side == "torch" else [],
                "predicted_ms": predicted,
                "measured_ms": measured,
                **{name: found[side][name] for name in ("least_ms", "most_ms", "joules")},
                **_judge(predicted, measured, BOUNDS["step"]),
            }
        )
    ours, theirs = (row["predicted_ms"] for row in (steps[1], steps[0]))
    interval = median_ratio(found["native"]["samples"], found["torch"]["samples"])
    middle = interval.median if interval.median is not None else math.nan
    ratio = {
        "network": checked.name,
        "batch": checked.batch,
        "apart": checked.apart,
        "predicted": ours / theirs,
        "measured": middle,
        "interval": interval.to_dict(),
        **_judge(ours / theirs, middle, BOUNDS["ratio"]),
    }
    gemms: list[dict[str, Any]] = []
    for side in SIDES:
        progress(f"{checked.name}, layers of {side}", 0, 0)
        gemms += _gemms(checked, side, sides, prediction, timing)
    return {"steps": steps, "ratio": ratio, "gemms": gemms}


def _judge(predicted: float, measured: float, bound: float) -> dict[str, Any]:
    """The error and whether it is within the bound.

    >>> _judge(1.1, 1.0, 0.2)["within"], _judge(0.7, 1.0, 0.2)["within"]
    (True, False)
    """
    error = predicted / measured - 1
    return {"error": error, "within": abs(error) <= bound}


def _gemms(
    checked: Checked, side: str, sides: Sides, prediction: _Prediction, timing: Timing
) -> list[dict[str, Any]]:
    times = prediction.layers[side]
    found: list[tuple[LayerTime, list[str], Layer]] = []
    for layer in distinct_layers(sides.models[side], sides.steps[side]):
        known = [name for name in layer.names if name in times]
        if known:
            found.append((times[known[0]], known, layer))
    samples: list[list[dict[str, float]]] = [[] for _ in found]
    for turn in range(timing.passes):
        for own, (time, known, layer) in zip(samples, found, strict=True):
            judged = _most(time, known, prediction.gemms[side]) >= SHARE
            if judged:
                own.append(measure_layer(layer, timing.part()))
            elif turn == 0:
                own.append(measure_layer(layer, replace(timing, repeats=1)))
    rows = []
    for own, (time, known, _) in zip(samples, found, strict=True):
        measured = {which: statistics.median(one[which] for one in own) for which in own[0]}
        rows += _rows(checked, side, prediction, time, known, measured)
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, time in times.items():
        if time.attention is not None:
            alike.setdefault((time.kernel, time.attention), []).append(name)
    for (kernel, shape), names in alike.items():
        rates = attention_rates(side, shape, kernel.endswith("causal"), timing)
        measured = {OUTPUT: rates[0].seconds, BACKWARD: rates[1].seconds}
        rows += _rows(checked, side, prediction, times[names[0]], names, measured)
    return rows


def _most(time: LayerTime, names: list[str], total: float) -> float:
    """The largest share that a product of these layers has."""
    return max(time.seconds.values(), default=0.0) * len(names) / total


def _rows(
    checked: Checked,
    side: str,
    prediction: _Prediction,
    time: LayerTime,
    names: list[str],
    measured: dict[str, float],
) -> list[dict[str, Any]]:
    rows = []
    for which, seconds in measured.items():
        if which not in time.seconds:
            continue
        predicted = time.seconds[which]
        share = predicted * len(names) / prediction.gemms[side]
        rows.append(
            {
                "network": checked.name,
                "side": side,
                "layer": names[0],
                "layers": len(names),
                "kernel": time.kernel,
                "gemm": which,
                "predicted_ms": 1e3 * predicted,
                "measured_ms": 1e3 * seconds,
                "share": share,
                "judged": share >= SHARE,
                **_judge(predicted, seconds, BOUNDS["gemm"]),
            }
        )
    return rows
