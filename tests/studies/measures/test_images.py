"""Corruptions of pictures: what each does, computed another way, and what they do to a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nybble.errors import UserError
from nybble.studies.measures.images import pixel_scale, with_corruptions
from nybble.studies.measures.pixels import (
    CORRUPTIONS,
    blur,
    brightness,
    contrast,
    occlusion,
    translation,
)
from nybble.studies.measures.trained import Trained

Load = Callable[..., Trained]


def pictures(*shape: int) -> torch.Tensor:
    return 255.0 * torch.rand(shape, generator=torch.Generator().manual_seed(0))


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_blur_is_scipys_gaussian(deviation: float) -> None:
    x = pictures(2, 3, 12, 9)
    wanted = gaussian_filter(
        x.numpy().astype(np.float64),
        (0, 0, deviation, deviation),
        mode="nearest",
        radius=(0, 0, *(max(1, int(np.ceil(3 * deviation))),) * 2),
    )
    np.testing.assert_allclose(blur(x, deviation, random()).numpy(), wanted, atol=1e-3)


def test_contrast_and_brightness() -> None:
    x = pictures(3, 2, 5, 5)
    flat = contrast(x, 0.25, random())
    assert torch.allclose(flat.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-3)
    assert torch.allclose(flat.std((1, 2, 3)), 0.25 * x.std((1, 2, 3)), atol=1e-3)
    assert torch.allclose(brightness(x, 0.2, random()) - x, torch.tensor(51.0), atol=1e-3)


def test_a_moved_picture_is_rolled_and_black_behind() -> None:
    x = pictures(64, 2, 8, 8) + 1.0  # no black
    moved = translation(x, 1 / 4, random())
    seen = set()
    for before, after in zip(x, moved, strict=True):
        found = [
            (down, right)
            for down in (-2, 0, 2)
            for right in (-2, 0, 2)
            if torch.equal(_shifted(before, down, right), after)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 8  # all directions
    assert (0, 0) not in seen


def _shifted(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
    y = torch.roll(x, (down, right), (1, 2))
    y[:, : max(0, down)] = 0
    y[:, 8 + min(0, down) :] = 0
    y[:, :, : max(0, right)] = 0
    y[:, :, 8 + min(0, right) :] = 0
    return y


def test_a_black_square_lies_wholly_inside() -> None:
    x = pictures(200, 2, 9, 8) + 1.0
    covered = occlusion(x, 1 / 2, random()) == 0
    assert covered.sum((1, 2, 3)).tolist() == [2 * 4 * 4] * 200
    rows = covered[:, 0].any(2)
    assert rows.sum(1).tolist() == [4] * 200
    first = rows.int().argmax(1)
    assert set(first.tolist()) == set(range(6))  # every place is possible
    assert torch.equal(covered[:, 0], covered[:, 1])
    assert torch.equal(torch.where(covered, x, 0.0) + occlusion(x, 1 / 2, random()), x)


def test_the_levels_hurt_more_and_more(trained: Load) -> None:
    run = trained("images")
    found = with_corruptions(run)
    assert list(found) == [f"{kind}-{level}" for kind in CORRUPTIONS for level in (1, 2, 3)]
    assert run.metric() >= found["occlusion-1"] > found["occlusion-2"] > found["occlusion-3"]
    assert found == with_corruptions(run)


def test_pictures_are_changed_as_pixels(trained: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("images")
    given: list[torch.Tensor] = []

    def spy(pixels: torch.Tensor, amount: float, generator: Any) -> torch.Tensor:
        given.append(pixels)
        return pixels + 1000.0  # to be clipped to white

    monkeypatch.setitem(CORRUPTIONS, "blur", (spy, (1.0,)))
    seen: list[torch.Tensor] = []
    forward = run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with_corruptions(run, ("blur",))
    forward.remove()
    data: Any = run.task.data  # type: ignore[attr-defined]
    assert torch.allclose(torch.cat(given), data.test_x.float(), atol=1e-3)
    mean, deviation = pixel_scale(run)
    assert torch.allclose(torch.cat(seen) * deviation + mean, torch.tensor(255.0), atol=1e-2)


def test_other_places_with_another_seed(trained: Load) -> None:
    run = trained("images")
    seen: list[torch.Tensor] = []
    hook = run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for seed in (0, 0, 7):
        with_corruptions(replace(run, seed=seed), ("occlusion",))
    hook.remove()
    first, again, other = (torch.cat(seen[i : i + 3]) for i in (0, 3, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_text_has_no_pictures(trained: Load) -> None:
    with pytest.raises(UserError, match="the task language has no images"):
        with_corruptions(trained("text"))
