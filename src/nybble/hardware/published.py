"""The model against what was published of machines that exist: `nybble hardware published`.

    peaks       MACs x clock of the 7 nm chip: must come out exactly
    training    sustained TFLOPS of the training system at batch 512 with HFP8: published 203 of
                768 on average, 102 to 588 (RaPiD, ISCA 2021). Its networks and bandwidths were not
                available, so ours are stated, main memory and link varied from half to double
    inference   INT4 at batch 1 on four cores: published 7 TOPS/W on average, 3 to 13.5, of 16.5

No figure of a chip file was chosen by these outcomes. The bounds of `training` are those that were
set before: a mean of 150 to 260 TFLOPS; of `inference`: within 20 % of 7.

Not done here: their networks. A mean over another list is another mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final

from nybble.hardware.chip_file import get_chip
from nybble.hardware.comparison import Traced, scaled
from nybble.hardware.forward import forward_only
from nybble.hardware.machine import estimate
from nybble.hardware.networks import get_network

__all__ = ["LIST", "check_published"]

LIST: Final = (
    *("resnet18", "resnet50", "vgg16", "mobilenetv2", "alexnet", "lstm", "bilstm"),
    *("transformer", "bert"),
)
PEAKS: Final = (("fp16", 13.1072), ("fp8", 26.2144), ("int4", 104.8576))
TRAINING_BOUNDS: Final = (150.0, 260.0)
TRAINING_PUBLISHED: Final = {"average": 203.0, "least": 102.0, "most": 588.0, "peak": 768.0}
INFERENCE_PUBLISHED: Final = {"average": 7.0, "least": 3.0, "most": 13.5, "peak": 16.5}
INFERENCE_WITHIN: Final = 0.2
FACTORS: Final = (0.5, 1.0, 2.0)
INT4: Final = "sun2020:first_last=int4+one_by_one=int4"

Progress = Callable[[str, int, int], None]


def check_published(progress: Progress = lambda what, done, total: None) -> dict[str, Any]:
    """Every figure beside the published one, JSON-able; `passed` is about the bounds above."""
    chip, system = get_chip("rapid"), get_chip("rapid-training")
    peaks: list[dict[str, Any]] = [
        {"operands": kind, "published": value, "model": chip.peak(kind, kind) / 1e12}
        for kind, value in PEAKS
    ]
    training: dict[str, dict[str, float]] = {f"{factor:g}": {} for factor in FACTORS}
    inference: dict[str, float] = {}
    for done, name in enumerate(LIST):
        progress(name, done, len(LIST))
        traced = Traced(get_network(name))
        for factor in FACTORS:
            machine = scaled(system, bandwidth=factor)
            found = traced.estimate(machine, "hfp8", 512, 8)
            training[f"{factor:g}"][name] = found.tops
        forward = forward_only(traced.workload(INT4, 1, chip.vector_bits))
        inference[name] = estimate(forward, chip).chip_tops_per_watt
    means = {factor: statistics.mean(values.values()) for factor, values in training.items()}
    low, high = TRAINING_BOUNDS
    efficiency = statistics.mean(inference.values())
    target = INFERENCE_PUBLISHED["average"]
    return {
        "hardware": "published",
        "networks": list(LIST),
        "peaks": peaks,
        "training": {
            "published": dict(TRAINING_PUBLISHED),
            "bounds": list(TRAINING_BOUNDS),
            "tops": training,
            "means": means,
            "mean": statistics.mean(means.values()),
            "within": {factor: low <= mean <= high for factor, mean in means.items()},
        },
        "inference": {
            "published": dict(INFERENCE_PUBLISHED),
            "tops_per_watt": inference,
            "mean": efficiency,
            "within": abs(efficiency / target - 1) <= INFERENCE_WITHIN,
        },
        "passed": {
            "peaks": all(abs(p["model"] / p["published"] - 1) < 1e-9 for p in peaks),
            "training": low <= means["1"] <= high,
            "training, half to double": all(low <= mean <= high for mean in means.values()),
            "inference": abs(efficiency / target - 1) <= INFERENCE_WITHIN,
        },
    }
