"""A folder of images: `folder:DIR`, one sub-folder a class.

    DIR/train/<class>/*.png and DIR/test/<class>/*.png, or
    DIR/<class>/*.png: of every class a fixed random fifth is test (the order of the names decides)

Classes are the names of the sub-folders in alphabetical order; images may lie deeper inside them.
Names that begin with a dot are ignored.
"""

from __future__ import annotations

from pathlib import Path
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
from nybble.training.data.images import EXTENSIONS, need_pillow, stack_images

INSTALL = "nothing to install; the images are yours (pillow decodes them: pip install pillow)"
TEST_NAMES = ("test", "val", "valid", "validation")


def find() -> Found:
    """Nowhere: only the user knows the folder."""
    return Found(None)


def load(argument: str, options: DataOptions | None = None) -> ImageData:
    """Load every image below the folder `argument`."""
    need_pillow("A folder of images")
    options = options or DataOptions()
    folder = Path(argument)
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist.")
    train_folder = folder / "train"
    test_folder = next((folder / n for n in TEST_NAMES if (folder / n).is_dir()), None)
    name = f"folder:{folder.name}"
    if train_folder.is_dir() and test_folder is not None:
        classes = class_names(train_folder)
        unknown = sorted(set(class_names(test_folder)) - set(classes))
        if unknown:
            raise UserError(
                f"{test_folder} has the class '{unknown[0]}', which {train_folder} has not."
            )
        train_x, train_y, train_bad = _read(train_folder, classes, options)
        test_x, test_y, test_bad = _read(test_folder, classes, options, all_classes=False)
        if train_x.shape[1:] != test_x.shape[1:]:
            raise UserError(
                f"The images of {train_folder} are {_size(train_x)} and those of {test_folder} "
                f"{_size(test_x)}. Bring them to one size with --resize {max(train_x.shape[2:])}."
            )
        notes = _notes(train_bad + test_bad)
        return make_image_data(
            name, (train_x, train_y), (test_x, test_y), classes, "crop-flip", notes
        )
    classes = class_names(folder)
    images, labels, corrupt = _read(folder, classes, options)
    train, test = stratified_split(labels, 0.2)
    notes = ("of every class a fixed random fifth is test", *_notes(corrupt))
    return make_image_data(
        name,
        (images[train], labels[train]),
        (images[test], labels[test]),
        classes,
        "crop-flip",
        notes,
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders, each a class, in alphabetical order; UserError if there is none."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        loose = any(path.suffix.lower() in EXTENSIONS for path in folder.iterdir())
        what = "images but no sub-folder" if loose else "no sub-folder"
        raise UserError(
            f"The folder {folder} has {what}: put the images of each class into a sub-folder "
            f"named after the class, {folder}/<class>/*.png."
        )
    return tuple(names)


def _read(
    folder: Path, classes: tuple[str, ...], options: DataOptions, all_classes: bool = True
) -> tuple[Tensor, Tensor, list[str]]:
    from PIL import Image

    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
        )
        paths += inside
        labels += [label] * len(inside)
    if not paths:
        raise UserError(
            f"The folder {folder} holds no images ({', '.join(sorted(EXTENSIONS))}) in its "
            f"{len(classes)} sub-folders."
        )
    empty = [name for label, name in enumerate(classes) if label not in labels]
    if empty and all_classes:
        raise UserError(f"The class folder {folder / empty[0]} holds no images; remove it.")
    if len(classes) == 1:
        raise UserError(
            f"The folder {folder} has one class only ({classes[0]}); a classifier needs two."
        )

    def decode(index: int) -> Any:
        with Image.open(paths[index]) as image:
            image.load()
            return image.copy()

    images, kept, corrupt = stack_images([str(p) for p in paths], decode, options, str(folder))
    return images, torch.tensor([labels[i] for i in kept]), corrupt


def _notes(corrupt: list[str]) -> tuple[str, ...]:
    if not corrupt:
        return ()
    shown = ", ".join(corrupt[:5]) + (", ..." if len(corrupt) > 5 else "")
    return (f"{len(corrupt)} corrupt images left out: {shown}",)


def _size(images: Tensor) -> str:
    channels, height, width = images.shape[1:]
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"


SOURCE = Source(
    name="folder",
    usage="folder:DIR",
    summary="your own images, a sub-folder a class (DIR/train and DIR/test, or a fifth is test)",
    install=INSTALL,
    load=load,
    find=find,
    argument="required",
    licence="yours",
    tasks=("vision",),
)
