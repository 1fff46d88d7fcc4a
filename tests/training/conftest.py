"""A tiny data set (8x8 images, learnable) and configurations that train in milliseconds."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.training.config import TrainConfig


def write_idx(path: Path, tensor: torch.Tensor) -> None:
    header = bytes([0, 0, 8, tensor.dim()])
    sizes = b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    raw = header + sizes + tensor.numpy().tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`--data` of 48 train and 20 test images of 8x8; a corner's brightness tells the class."""
    folder = tmp_path_factory.mktemp("tiny")
    random = torch.Generator().manual_seed(1)
    for part, count in (("train", 48), ("t10k", 20)):
        labels = torch.randint(0, 10, (count,), generator=random)
        images = torch.randint(0, 60, (count, 8, 8), generator=random)
        images[:, :4, :4] += (labels * 19).view(-1, 1, 1)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images.to(torch.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels.to(torch.uint8))
    return f"fashion-mnist:{folder}"


@pytest.fixture
def tiny(tiny_data: str, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Make a configuration of 3 epochs of 4 steps; keywords override."""

    def make(**changes: Any) -> TrainConfig:
        fields: dict[str, Any] = {
            "data": tiny_data,
            "model": "cnn",
            "recipe": "fp32",
            "epochs": 3,
            "batch_size": 12,
            "lr": 0.05,
            "out": str(tmp_path / "run"),
            "quiet": True,
            "checkpoint_every": 0,
        }
        return TrainConfig(**{**fields, **changes})

    return make


WALL_CLOCK = {
    "seconds",
    "cpu_seconds",
    "test_seconds",
    "elapsed_seconds",
    "step_ms",
    "elapsed",
    "written",
    "warnings",
    "folder",
    "config",
    "commit",
}


@pytest.fixture
def without_times() -> Callable[[Any], Any]:
    """Drop what may differ between two equal runs: wall times, names of folders."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in WALL_CLOCK}
        if isinstance(value, list):
            return [strip(v) for v in value]
        return value

    return strip


@pytest.fixture
def final_state(without_times: Callable[[Any], Any]) -> Callable[[TrainConfig], Any]:
    """Everything a finished run left behind, in a form that `==` compares bit for bit."""
    from nybble.training.checkpoint import load_checkpoint
    from nybble.training.flatten import flatten
    from nybble.training.result import read_result

    def read(config: TrainConfig) -> Any:
        found = load_checkpoint(config.run_folder() / "checkpoints")
        assert found is not None
        assert found.problems == ()
        content = {k: v for k, v in found.content.items() if k != "environment"}
        structure, tensors = flatten(without_times(content))
        raw = {
            name: (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
            for name, tensor in tensors.items()
        }
        return found.step, structure, raw, without_times(read_result(config.run_folder()))

    return read
