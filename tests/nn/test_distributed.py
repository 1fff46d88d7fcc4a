"""Several processes of torch.distributed (gloo, on the CPU): the weights stay equal, every process
rounds with bits of its own, and the state of the scales is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"
)


def spread(recipe: str, folder: Path, seeds: tuple[int, int] = (0, 1)) -> list[dict[str, Tensor]]:
    """The state_dicts of two processes, with those seeds."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.nn.distributed_child"]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(len(seeds)), recipe, str(seed), str(folder)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, seed in enumerate(seeds)
    ]
    for process in started:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("recipe", ["sun2020", "luq", "tetrajet"])
def test_weights_stay_equal(recipe: str, tmp_path: Path) -> None:
    one, two = spread(recipe, tmp_path)
    assert one.keys() == two.keys()
    differing = {
        name
        for name, value in one.items()
        if not torch.equal(value, two[name]) and "running" not in name
    }
    # What each process saw last; the next forward takes those of the first one.
    own = ("nybble_grad_amax", "nybble_grad_scale")
    assert {name for name in differing if not name.endswith(own)} == set()
    assert not any(v.isnan().any() for v in one.values() if v.is_floating_point())


def test_seeds_of_their_own_give_other_bits_and_equal_seeds_the_same(tmp_path: Path) -> None:
    name = "1.0.weight"
    apart = spread("luq", tmp_path / "apart")[0][name]
    again = spread("luq", tmp_path / "again")[0][name]
    equal = spread("luq", tmp_path / "equal", (0, 0))[0][name]
    assert torch.equal(apart, again) and not torch.equal(apart, equal)
