"""Loading a finished run: it tests as it did when training ended, and says what it is not."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nybble.errors import UserError
from nybble.studies.measures import MEASURES, get_measure
from nybble.studies.measures.trained import load_trained, recorded_config
from nybble.training.result import read_result

Finished = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("images", "fp32"),
        ("images", "sun2020"),
        ("text", "sun2020"),
        ("recordings", "sun2020"),
    ],
)
def test_a_run_tests_again_as_it_did(finished: Finished, kind: str, recipe: str) -> None:
    folder = finished(kind, recipe)
    result = read_result(folder)
    assert result is not None
    config = recorded_config(folder)
    again = get_measure("test-again")(folder, config)
    unit = 100.0 if result["unit"] == "%" else 1.0
    metric = result["metric"]
    assert again[metric] == result["final"][f"test_{metric}"] * unit
    assert again["loss"] == result["final"]["test_loss"]


def test_a_tested_run_is_as_it_was(finished: Finished) -> None:
    run = load_trained(finished("images", "sun2020"))
    before = {key: tensor.clone() for key, tensor in run.model.state_dict().items()}
    generator_state = torch.get_rng_state()
    for name in ("input-noise", "image-corruptions", "bit-flips"):
        get_measure(name)(finished("images", "sun2020"), run.config)
    assert torch.equal(torch.get_rng_state(), generator_state)
    after = run.model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_draws_depend_on_seed_purpose_and_place(finished: Finished) -> None:
    run = load_trained(finished("images", "fp32"))
    other = replace(run, seed=run.seed + 1)

    def number(generator: torch.Generator) -> float:
        return float(torch.rand((), generator=generator))

    same = {number(run.draws("a", 0)), number(run.draws("a", 0))}
    others = {number(r.draws(p, i)) for r in (run, other) for p in ("a", "b") for i in (0, 1)}
    assert len(same) == 1
    assert len(others) == 8


def test_only_a_finished_run_is_measured(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished("images", "fp32"), folder)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "status": "running"}))
    with pytest.raises(UserError, match="the run is running; measures are taken of finished"):
        load_trained(folder)
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="the run has no result"):
        load_trained(folder)
    with pytest.raises(UserError, match="is not the configuration of a run"):
        load_trained(tmp_path / "nothing")


def test_changed_data_are_named(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished("images", "fp32"), folder)
    config = recorded_config(folder)
    data = tmp_path / "data"
    shutil.copytree(str(config.data).partition(":")[2], data)
    images = data / "t10k-images-idx3-ubyte.gz"
    raw = gzip.decompress(images.read_bytes())
    images.write_bytes(gzip.compress(raw[:-1] + bytes([raw[-1] ^ 1])))
    with pytest.raises(UserError, match=r"data of the run .* have changed"):
        load_trained(folder, replace(config, data=f"fashion-mnist:{data}"))


def test_an_unknown_measure_has_a_neighbour() -> None:
    with pytest.raises(UserError, match="input-noise"):
        get_measure("input-nose")
    assert all(callable(measure) for measure in MEASURES.values())
