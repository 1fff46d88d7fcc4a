"""Worse training labels, on purpose: wrong ones, and few of some classes. The test set stays.

    label_noise=S    a share S of the training items, drawn at random, gets another class, each of
                     the others with equal probability ("symmetric" label noise)
    imbalance=R      a long tail: of class c of C at most n R^(-c / (C - 1)) training items stay, at
                     least one, drawn at random; n is the size of the largest class, so the first
                     class keeps all its items and the last a share of 1 / R (Cui et al. 2019, arXiv
                     1901.05555, section 4: exponential decay)

Both are functions of (seed, what they are), so recipes with one seed see the same labels and every
seed sees others. The tail is cut first. Normalisation (mean and deviation of images) stays that of
the whole training set. Nothing is done against either: no weighted loss, no sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.training.seeds import generator
from nybble.training.tasks.options import Option

LABEL_OPTIONS: Mapping[str, Option] = {
    "label_noise": Option(
        float, None, "Share of training labels that are made wrong.", low=0.0, high=1.0
    ),
    "imbalance": Option(
        float, None, "Long tail: largest training class over the smallest.", low=1.0, high=1e6
    ),
}
"""The options of a task that tells classes apart."""


@dataclass(frozen=True)
class Labels:
    """What is left of a training set: indices into it, the labels of those, and what to say."""

    kept: Tensor
    labels: Tensor
    notes: tuple[str, ...]


def worsened(
    labels: Tensor, classes: int, seed: int, values: Mapping[str, Any], name: str
) -> Labels | None:
    """What the options in `values` make of the training labels of `name`; None: nothing.

    labels: int64 [N], values in [0, classes).

    Raises:
        UserError: there is one class only.

    >>> found = worsened(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 2, 0, {"imbalance": 4.0}, "x")
    >>> found.labels.bincount()
    tensor([4, 1])
    """
    share, ratio = values.get("label_noise") or 0.0, values.get("imbalance") or 1.0
    if share == 0.0 and ratio == 1.0:
        return None
    if classes < 2:
        raise UserError(f"{name}: label_noise and imbalance need at least two classes.")
    kept = torch.arange(len(labels))
    notes: tuple[str, ...] = ()
    if ratio > 1.0:
        kept = long_tail(labels, classes, ratio, seed)
        sizes = torch.bincount(labels[kept], minlength=classes).tolist()
        notes += (f"imbalance {ratio:g}: training items by class {sizes}",)
    left = labels[kept]
    if share > 0.0:
        noisy = with_noise(left, classes, share, seed)
        notes += (f"label noise {share:g}: {int((noisy != left).sum())} training labels are wrong",)
        left = noisy
    return Labels(kept, left, notes)


def with_noise(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """`labels` with round(share * N) of them replaced by another class.

    >>> (with_noise(torch.zeros(10, dtype=torch.int64), 3, 0.5, seed=0) != 0).sum().item()
    5
    """
    random = generator(seed, "label noise")
    count = len(labels)
    wrong = torch.randperm(count, generator=random)[: round(share * count)]
    step = torch.randint(1, classes, (len(wrong),), generator=random)
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + step) % classes
    return noisy


def long_tail(labels: Tensor, classes: int, ratio: float, seed: int) -> Tensor:
    """Indices of the items that stay, in their order."""
    random = generator(seed, "imbalance")
    largest = int(torch.bincount(labels, minlength=classes).max())
    stays = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=random)]
        most = max(1, round(largest * ratio ** (-label / (classes - 1))))
        stays[members[:most]] = True
    return torch.nonzero(stays).flatten()
