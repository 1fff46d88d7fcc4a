"""Finished runs of a few seconds, one of each kind, that every test here looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.audio.conftest import write_digits
from tests.training.conftest import write_idx
from tests.training.test_language_tasks import sentences

from nybble.studies.measures.trained import Trained, load_trained
from nybble.training.config import TrainConfig
from nybble.training.loop import train

Run = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Fields of TrainConfig by kind of run: images, text, recordings."""
    folder = tmp_path_factory.mktemp("sets")
    random = torch.Generator().manual_seed(1)
    for part, count in (("train", 240), ("t10k", 100)):
        labels = torch.randint(0, 4, (count,), generator=random)
        images = torch.randint(0, 60, (count, 8, 8), generator=random)
        for label, (row, column) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            images[labels == label, row : row + 4, column : column + 4] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images.to(torch.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels.to(torch.uint8))
    text = folder / "text"
    text.mkdir()
    for part, count, seed in (("train", 120, 0), ("valid", 20, 1), ("test", 40, 2)):
        (text / f"{part}.txt").write_text("\n".join(sentences(count, seed)))
    write_digits(folder / "digits" / "recordings")
    small = (("length", "12"), ("vocabulary", "300"), ("width", "16"))
    return {
        "images": {
            "task": "vision",
            "data": f"fashion-mnist:{folder}",
            "model": "cnn",
            "epochs": 6,
            "batch_size": 24,
            "lr": 0.1,
            "augmentation": "none",
        },
        "text": {
            "task": "language",
            "data": f"text:{text}",
            "task_options": small,
            "epochs": 6,
            "batch_size": 8,
            "lr": 0.02,
        },
        "recordings": {
            "task": "speech",
            "data": f"fsdd:{folder / 'digits'}",
            "model": "cnn",
            "epochs": 6,
            "batch_size": 8,
            "lr": 0.01,
        },
    }


@pytest.fixture(scope="session")
def finished(
    sets: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The folder of the finished run of a kind and a recipe, trained when it is first asked for."""
    folders: dict[tuple[str, str], Path] = {}

    def get(kind: str, recipe: str) -> Path:
        if (kind, recipe) not in folders:
            folder = tmp_path_factory.mktemp("runs") / "run"
            config = TrainConfig(
                **sets[kind], recipe=recipe, out=str(folder), quiet=True, checkpoint_every=0
            )
            train(config)
            folders[kind, recipe] = folder
        return folders[kind, recipe]

    return get


@pytest.fixture(scope="session")
def trained(finished: Run) -> Callable[..., Trained]:
    """The loaded run of a kind and a recipe."""

    def get(kind: str, recipe: str = "fp32", **options: Any) -> Trained:
        return load_trained(finished(kind, recipe), **options)

    return get
