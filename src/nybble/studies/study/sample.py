"""A made-up study, for examples and tests: no number in it was measured."""

from __future__ import annotations

from typing import Any

from nybble.studies.outcome import Outcome
from nybble.studies.study.record import SCHEMA, make_table

METRICS = {
    "fp32": (91.0, 91.5, 92.0),
    "hfp8": (90.95, 91.47, 91.93),
    "sun2020": (90.0, 90.4, None),
}


def outcomes() -> list[Outcome]:
    """Nine runs: three recipes, three seeds, one failure."""
    runs = []
    for recipe, metrics in METRICS.items():
        for seed, metric in enumerate(metrics):
            if metric is None:
                runs.append(Outcome(recipe, seed, "failed", "", reason="loss is NaN <at> step 7"))
            else:
                extras = {"test-again.loss": 1.0 - metric / 100}
                runs.append(Outcome(recipe, seed, "complete", "", metric, extras=extras))
    return runs


def record(**changes: Any) -> dict[str, Any]:
    """The record of the made-up study, with any of its parts replaced.

    >>> [row["recipe"] for row in record()["tables"][0]["rows"]]
    ['fp32', 'hfp8', 'sun2020']
    """
    metric = {
        "name": "accuracy",
        "unit": "%",
        "digits": 2,
        "higher_is_better": True,
        "comparison": "difference",
    }
    entry = {
        "configuration": {
            "model": "resnet8",
            "epochs": 3,
            "batch_size": 64,
            "optimizer": "sgd",
            "lr": 0.1,
            "data_set": {"name": "mnist5k", "train": 4000, "test": 1000},
        },
        "metric": metric,
        "margin": 0.25,
        "recipes": list(METRICS),
        "seeds": [0, 1, 2],
    }
    about: dict[str, Any] = {
        "study": "made-up",
        "title": "A made-up study",
        "command": "nybble study made-up",
        "created": "2026-11-22T12:00:00+00:00",
        "baseline": "fp32",
        "notes": ["left out: luq (unknown recipe)"],
        "environment": {
            "versions": {"python": "3.11.9", "nybble": "0.1.0", "torch": "2.13.0"},
            "machine": {"cpu": "Some <CPU> & more", "cores": 2},
            "commit": "abc1234",
        },
        "tasks": {"vision": entry},
    }
    runs = [
        {**run.to_dict(), "task": "vision", "variant": "", "key": f"{run.recipe}{run.seed}"}
        for run in outcomes()
    ]
    tables = [make_table(about, "vision", "", outcomes())]
    return {"schema": SCHEMA, **about, "tables": tables, "runs": runs, "missing": 0, **changes}
