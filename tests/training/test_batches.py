"""Batches are pure functions of (seed, epoch, step), and augmentation does what it says."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nybble.errors import UserError
from nybble.training.data.base import ImageData, make_image_data
from nybble.training.data.batches import PADDING, Batches, augment


def numbered(count: int = 50) -> ImageData:
    """Image i is filled with the number i."""
    images = torch.arange(count).view(-1, 1, 1, 1).expand(count, 1, 6, 6).to(torch.uint8)
    labels = torch.arange(count) % 2
    return make_image_data("n", (images, labels), (images, labels), ("a", "b"))


def numbers(batches: Batches, epoch: int, step: int) -> list[int]:
    x, _ = batches.batch(epoch, step)
    mean, std = batches.data.mean[0], batches.data.std[0]
    return (x[:, 0, 0, 0] * std + mean).round().int().tolist()


def test_an_epoch_sees_every_image_once() -> None:
    batches = Batches(numbered(), 7, seed=3)
    assert batches.steps_per_epoch == 7
    for epoch in (0, 5):
        seen = [n for step in range(7) for n in numbers(batches, epoch, step)]
        assert len(seen) == len(set(seen)) == 49
    assert numbers(batches, 0, 0) != numbers(batches, 1, 0)


def test_order_of_calls_does_not_matter() -> None:
    one, two = Batches(numbered(), 8, 1, "crop-flip"), Batches(numbered(), 8, 1, "crop-flip")
    places = [(e, s) for e in range(3) for s in range(one.steps_per_epoch)]
    forward = {place: one.batch(*place) for place in places}
    torch.manual_seed(999)
    for place in reversed(places):
        x, y = two.batch(*place)
        assert torch.equal(x, forward[place][0]) and torch.equal(y, forward[place][1])
    other = Batches(numbered(), 8, 2, "crop-flip")
    assert not torch.equal(other.batch(0, 0)[1], forward[0, 0][1])


def test_a_batch_larger_than_the_set_is_the_set() -> None:
    batches = Batches(numbered(5), 100, 0)
    assert batches.steps_per_epoch == 1 and sorted(numbers(batches, 0, 0)) == [0, 1, 2, 3, 4]


def test_normalised_to_zero_mean_and_unit_deviation() -> None:
    x = Batches(numbered(), 50, 0).batch(0, 0)[0]
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "padding"), [("shift", 2), ("shift-flip", 2), ("crop", 4), ("crop-flip", 4)]
)
def test_augmentation_is_every_crop_equally_often(kind: str, padding: int) -> None:
    image = torch.arange(1, 31).view(1, 1, 5, 6).to(torch.uint8)
    count = 20000
    random = torch.Generator().manual_seed(0)
    out = augment(image.expand(count, 1, 5, 6), kind, random)
    padded = torch.nn.functional.pad(image[0, 0], (padding,) * 4)
    crops = [
        padded[dy : dy + 5, dx : dx + 6]
        for dy in range(2 * padding + 1)
        for dx in range(2 * padding + 1)
    ]
    allowed = {crop.numpy().tobytes() for crop in crops}
    if kind.endswith("flip"):
        allowed |= {crop.flip(1).numpy().tobytes() for crop in crops}
    seen = Counter(sample.numpy().tobytes() for sample in out[:, 0].contiguous())
    assert set(seen) == allowed
    expected = count / len(allowed)
    assert max(seen.values()) < 1.6 * expected and min(seen.values()) > 0.5 * expected


def test_no_augmentation_returns_the_images() -> None:
    image = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    assert augment(image, "none", torch.Generator()) is image
    assert PADDING["none"] == 0


def test_colour_planes_move_together() -> None:
    plane = torch.arange(25).view(1, 1, 5, 5).to(torch.uint8)
    out = augment(plane.expand(64, 3, 5, 5), "crop-flip", torch.Generator().manual_seed(1))
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])


def test_unknown_augmentation() -> None:
    with pytest.raises(UserError, match=r"Unknown augmentation 'shifts'.*Did you mean 'shift'"):
        Batches(numbered(), 8, 0, "shifts")
