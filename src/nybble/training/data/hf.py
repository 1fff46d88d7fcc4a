"""A data set of the Hugging Face hub or of a local folder, by name: `hf:NAME`.

Loaded with the `datasets` library (an optional extra). The set needs a column of images (feature
type Image) and one of labels (ClassLabel, or integers); the split "train" and one of "test",
"validation", "valid"; without the latter a fixed random fifth of every class is test.
`hf:NAME@CONFIG` chooses a configuration.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.training.data.base import (
    DataOptions,
    Found,
    ImageData,
    Source,
    make_image_data,
    stratified_split,
)
from nybble.training.data.images import need_pillow, stack_images

INSTALL = "pip install datasets==5.2.0 pillow"
TEST_SPLITS = ("test", "validation", "valid", "val")


def find() -> Found:
    """Whether the `datasets` library is there; the sets themselves are fetched by name."""
    there = importlib.util.find_spec("datasets") is not None
    return Found("the Python package datasets" if there else None, ("the Python package datasets",))


def load(argument: str, options: DataOptions | None = None) -> ImageData:
    """Load the set `argument` through `datasets.load_dataset`."""
    return from_splits(f"hf:{argument}", load_splits(argument), options or DataOptions())


def load_splits(argument: str) -> Any:
    """The splits of the set NAME or NAME@CONFIG, as the library gives them."""
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"hf:{argument} needs the datasets library. Install it with: {INSTALL}")
    need_pillow(f"hf:{argument}")
    import datasets

    name, _, configuration = argument.partition("@")
    try:
        return datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library raises many kinds: network, name, configuration, files
        first = str(error).strip().splitlines() or [""]
        raise UserError(
            f"The data set hf:{argument} cannot be loaded ({type(error).__name__}: {first[0]})."
        ) from error


def from_splits(name: str, splits: Any, options: DataOptions) -> ImageData:
    """Make `ImageData` of a mapping {split name: rows with `features`}."""
    if "train" not in splits:
        raise UserError(f"{name} has no split 'train' (it has {', '.join(splits)}).")
    image, label = columns(name, splits["train"])
    train_x, train_y, classes, corrupt = _read(name, splits["train"], image, label, options, ())
    notes: tuple[str, ...] = ()
    test_name = next((key for key in TEST_SPLITS if key in splits), None)
    if test_name is None:
        train, test = stratified_split(train_y, 0.2)
        pairs = (train_x[train], train_y[train]), (train_x[test], train_y[test])
        notes += ("of every class a fixed random fifth is test",)
    else:
        test_x, test_y, classes, more = _read(
            name, splits[test_name], image, label, options, classes
        )
        corrupt += more
        if train_x.shape[1:] != test_x.shape[1:]:
            raise UserError(
                f"{name}: training images are {list(train_x.shape[1:])} and test images "
                f"{list(test_x.shape[1:])}; bring them to one size with --resize N."
            )
        pairs = (train_x, train_y), (test_x, test_y)
    if corrupt:
        notes += (f"{len(corrupt)} corrupt images left out: {', '.join(corrupt[:5])}",)
    return make_image_data(name, *pairs, classes, "crop-flip", notes)


def columns(name: str, rows: Any) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    features = rows.features
    kinds = {key: type(feature).__name__ for key, feature in features.items()}
    images = [key for key, kind in kinds.items() if kind == "Image"]
    labels = [key for key, kind in kinds.items() if kind == "ClassLabel"]
    labels += [key for key in ("label", "labels", "fine_label") if key in kinds]
    if not images or not labels:
        missing = "images" if not images else "labels"
        raise UserError(f"{name} has no column of {missing}; its columns are {kinds}.")
    return images[0], labels[0]


def _read(
    name: str, rows: Any, image: str, label: str, options: DataOptions, classes: tuple[str, ...]
) -> tuple[Tensor, Tensor, tuple[str, ...], list[str]]:
    count = len(rows)
    names = [f"{name}[{index}]" for index in range(count)]
    images, kept, corrupt = stack_images(names, lambda index: rows[index][image], options, name)
    values = list(rows[label])
    labels = torch.tensor([int(values[index]) for index in kept])
    known = getattr(rows.features[label], "names", None)
    if known:
        classes = tuple(known)
    elif not classes:
        classes = tuple(str(value) for value in range(int(labels.max()) + 1))
    return images, labels, classes, corrupt


SOURCE = Source(
    name="hf",
    usage="hf:NAME",
    summary="an image classification set of the Hugging Face hub, through `datasets`",
    install=INSTALL,
    load=load,
    find=find,
    argument="required",
    licence="the set's own",
    tasks=("vision",),
)
