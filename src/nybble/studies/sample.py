"""A made-up comparison, for examples and tests: no number in it was measured.

It has every awkward case: a run that failed, a layer without gradient, a row that was chosen on
other seeds, and text that must be escaped in HTML.
"""

from __future__ import annotations

from typing import Any

from nybble.studies.outcome import Outcome, Point
from nybble.studies.record import make_record
from nybble.studies.statistics import median_ratio

FP32, SUN, BEST = "fp32", "sun2020", "sun2020:factor=1.848"
METRICS = {FP32: (91.0, 91.5, 92.0), SUN: (90.0, 90.1, None), BEST: (90.6, 91.5, 91.7)}


def curve(final: float, epochs: int = 4) -> tuple[Point, ...]:
    """A rising curve of 10 s an epoch that ends at `final`.

    >>> [point.metric for point in curve(91.0)]
    [82.0, 85.0, 88.0, 91.0]
    """
    return tuple(
        Point(e, 10.0 * e, 2.0 / e, final - 3.0 * (epochs - e)) for e in range(1, epochs + 1)
    )


def outcomes() -> list[Outcome]:
    """Nine runs: three recipes, three seeds, one failure."""
    runs = []
    for recipe, metrics in METRICS.items():
        for seed, metric in enumerate(metrics):
            folder = f"runs/{recipe}-seed{seed}"
            if metric is None:
                runs.append(
                    Outcome(recipe, seed, "failed", folder, reason="loss is NaN <at> step 7")
                )
                continue
            dead = ("layer2.conv1",) if recipe == SUN and seed == 1 else ()
            runs.append(
                Outcome(
                    recipe,
                    seed,
                    "complete",
                    folder,
                    metric,
                    seconds=40.0,
                    saved_bytes=1_500_000 if recipe != FP32 else 9_000_000,
                    dead_layers=dead,
                    curve=curve(metric),
                )
            )
    return runs


def timing() -> dict[str, Any]:
    """Step times of twenty made-up pairs."""
    base = [0.030 + 0.001 * i for i in range(20)]
    return {
        "backend": {FP32: "torch", SUN: "reference", BEST: "reference"},
        "threads": 1,
        "batch_size": 64,
        "pairs": 20,
        "ratios": {
            recipe: {
                "wall": median_ratio([factor * b for b in base], base).to_dict(),
                "cpu": median_ratio([factor * b for b in base], base).to_dict(),
                "wall_ms": 1000 * factor * base[10],
                "cpu_ms": 1000 * factor * base[10],
            }
            for recipe, factor in ((FP32, 1.0), (SUN, 1.5), (BEST, 1.55))
        },
    }


def selection() -> dict[str, Any]:
    """A made-up choice between two settings on seeds 10 and 11."""
    return {
        "winner": BEST,
        "seeds": [10, 11],
        "epochs": 2,
        "candidates": [
            {"recipe": BEST, "mean": 85.0, "values": [84.5, 85.5]},
            {"recipe": "sun2020:odd_offset=+1", "mean": 84.0, "values": [83.0, 85.0]},
        ],
    }


def record(**changes: Any) -> dict[str, Any]:
    """The record of the made-up comparison, with any argument of `make_record` replaced.

    >>> [row["recipe"] for row in record()["rows"]]
    ['fp32', 'sun2020', 'sun2020:factor=1.848']
    """
    arguments: dict[str, Any] = {
        "title": "resnet8 on fashion-mnist",
        "command": "nybble compare vision --data fashion-mnist --model resnet8 --seeds 0,1,2",
        "created": "2026-11-22T12:00:00+00:00",
        "task": "vision",
        "metric": {"name": "accuracy", "unit": "%", "digits": 2, "higher_is_better": True},
        "baseline": FP32,
        "configuration": {"data": "fashion-mnist", "model": "resnet8", "epochs": 4, "lr": 0.1},
        "environment": {
            "versions": {"python": "3.11.9", "nybble": "0.1.0", "torch": "2.13.0"},
            "machine": {"cpu": "Some <CPU> & more", "cores": 2},
            "commit": "abc1234",
        },
        "recipes": [FP32, SUN, BEST],
        "seeds": [0, 1, 2],
        "outcomes": outcomes(),
        "timing": timing(),
        "selection": selection(),
    }
    return make_record(**{**arguments, **changes})
