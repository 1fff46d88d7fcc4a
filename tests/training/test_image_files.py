"""Images that are decoded as needed, and the configurations of full-size runs that use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nybble.errors import UserError
from nybble.training import TrainConfig, train
from nybble.training.configfile import read_config
from nybble.training.data import DataOptions, load_data
from nybble.training.data.image_files import (
    FileBatches,
    ImageFiles,
    from_splits,
    middle,
    part,
)

pillow = pytest.importorskip("PIL.Image")
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., str]:
    """A folder as ImageNet is unpacked: `count` training images of each of two classes."""

    def make(count: int = 3, width: int = 40, height: int = 32) -> str:
        random = np.random.default_rng(0)
        for place, number in (("train", count), ("val", 1)):
            for label, name in enumerate(("n01", "n02")):
                folder = tmp_path / "set" / place / name
                folder.mkdir(parents=True)
                for k in range(number):
                    pixels = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
                    pixels[:, : width // 2] += np.uint8(100 * label)
                    pillow.fromarray(pixels).save(folder / f"{k}.png")
        return f"images:{tmp_path / 'set'}"

    return make


def test_batches_are_functions_of_seed_and_position(pictures: Callable[..., str]) -> None:
    data = load_data(pictures(), DataOptions(resize=24))
    assert isinstance(data, ImageFiles) and data.shape == (3, 24, 24)
    assert data.classes == ("n01", "n02") and len(data.train) == 6 and len(data.test) == 2
    a, b = FileBatches(data, 4, seed=1), FileBatches(data, 4, seed=1)
    b.batch(1, 0)
    images, labels = a.batch(0, 0)
    assert images.shape == (4, 3, 24, 24) and images.dtype == torch.float32
    assert torch.equal(images, b.batch(0, 0)[0]) and torch.equal(labels, b.batch(0, 0)[1])
    assert not torch.equal(images, FileBatches(data, 4, seed=2).batch(0, 0)[0])
    whole = FileBatches(data, 6, seed=0, augmentation="none")
    images, labels = whole.batch(0, 0)
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
    # Without augmentation the middle, and labels that belong to the images.
    left = images[:, :, :, :8].mean((1, 2, 3))
    assert left[labels == 1].min() > left[labels == 0].max()
    with pytest.raises(UserError, match=r"Unknown augmentation 'crop'.*parts"):
        FileBatches(data, 4, 0, "crop")


def test_normalisation_and_the_mirror(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    image = pillow.fromarray(np.stack([ramp] * 3, 2))
    y = torch.zeros(1, dtype=torch.int64)
    data = ImageFiles("x", [0], y, [0], y, ("a", "b"), 56, lambda item: image)
    test, _ = FileBatches(data, 1, 0).test_batch(0, 5)
    assert test.shape == (1, 3, 56, 56)
    # 56 of 64 columns: the middle, unscaled.
    assert float(test[0, 0, 0, 0]) == pytest.approx((4 / 255 - 0.485) / 0.229, abs=1e-5)
    slopes = set()
    for seed in range(12):
        batch, _ = FileBatches(data, 1, seed).batch(0, 0)
        slopes.add(bool(batch[0, 0, 0, 0] < batch[0, 0, 0, -1]))
    assert slopes == {True, False}


def test_boxes() -> None:
    assert middle((256, 512)) == (16.0, 144.0, 240.0, 368.0)
    draws = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)).tolist()
    boxes = [part((200, 100), d) for d in draws]
    areas = [(r - x) * (b - t) / 20000 for x, t, r, b in boxes]
    assert all(x >= 0 and t >= 0 and r <= 200 + 1e-9 and b <= 100 + 1e-9 for x, t, r, b in boxes)
    assert min(areas) >= 0.08 - 1e-9 and max(areas) <= 1 and min(areas) < 0.12


def test_what_is_refused(pictures: Callable[..., str], tmp_path: Path) -> None:
    name = pictures()
    with pytest.raises(UserError, match="give a folder with train/<class>"):
        load_data(f"images:{tmp_path}")
    with pytest.raises(UserError, match="decodes as it trains"):
        load_data(name, DataOptions(on_corrupt="skip"))
    (tmp_path / "set" / "train" / "n01" / "0.png").write_bytes(b"no image")
    data = load_data(name)
    with pytest.raises(UserError, match="cannot be decoded"):
        FileBatches(data, 6, 0).batch(0, 0)
    (tmp_path / "set" / "val" / "n03").mkdir()
    with pytest.raises(UserError, match="has the class 'n03'"):
        load_data(name)


def test_a_changed_file_changes_the_fingerprint(
    pictures: Callable[..., str], tmp_path: Path
) -> None:
    name = pictures()
    before = load_data(name).fingerprint()
    assert load_data(name).fingerprint() == before
    (tmp_path / "set" / "train" / "n01" / "0.png").write_bytes(b"other")
    assert load_data(name).fingerprint() != before


def test_rows_of_a_library_are_decoded_one_by_one() -> None:
    class Image:
        pass

    class ClassLabel:
        names = ("ant", "bee")

    class Rows:
        def __init__(self, count: int) -> None:
            self.features = {"image": Image(), "label": ClassLabel()}
            self.count, self.decoded = count, 0

        def __getitem__(self, key: Any) -> Any:
            if key == "label":
                return [k % 2 for k in range(self.count)]
            self.decoded += 1
            return {"image": pillow.new("RGB", (20, 20), (key, 0, 0))}

    train_rows = Rows(5)
    data = from_splits("x", {"train": train_rows, "validation": Rows(2)}, 16)
    assert data.classes == ("ant", "bee") and len(data.train) == 5 and train_rows.decoded == 0
    images, _ = FileBatches(data, 3, 0).batch(0, 0)
    assert images.shape == (3, 3, 16, 16) and train_rows.decoded == 3
    with pytest.raises(UserError, match="needs the splits train and test"):
        from_splits("x", {"train": train_rows}, 16)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv2", "alexnet"])
def test_full_size_configurations_run(
    name: str, pictures: Callable[..., str], tmp_path: Path
) -> None:
    """Every setting but the length is the file's: images of 224 x 224, the network in full."""
    config = read_config(CONFIGS / f"imagenet-{name}.toml")
    assert config.batch_size == 256 and config.resize == 224 and config.data == "images:imagenet"
    short = {
        "data": pictures(1, 260, 240),
        "epochs": 1,
        "batch_size": 2,
        "recipe": "sun2020",
        "out": str(tmp_path / "run"),
        "quiet": True,
        "checkpoint_every": 0,
    }
    record = train(TrainConfig(**{**vars(config), **short}))
    assert record["status"] == "complete" and record["data"]["shape"] == [3, 224, 224]
    assert record["steps"] == 1 and record["final"]["train_loss"] > 0
