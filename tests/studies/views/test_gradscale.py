"""The histories follow the rule, written here once more in Python."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from nybble.errors import UserError
from nybble.studies.views import ViewConfig, measure_gradscale
from nybble.studies.views.gradscale import scaled_layers
from nybble.studies.views.run import log2, short_run

SMALL = ViewConfig(model="cnn", steps=8, batch_size=16, recipe="sun2020:gradscale_start=one")


@pytest.mark.parametrize("recipe", ["sun2020:gradscale_start=one", "sun2020"])
def test_the_rule(recipe: str) -> None:
    found = measure_gradscale(ViewConfig(**{**vars(SMALL), "recipe": recipe}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["log2_top"] == 6.0 and found["log2_loss_scale"] == 10.0
    assert [row["layer"] for row in found["layers"]] == ["features.4", "features.8"]
    for row in found["layers"]:
        scale, largest, product = (row[f"log2_{n}"] for n in ("scale", "max", "scaled"))
        assert product == pytest.approx(
            [s + m for s, m in zip(scale, largest, strict=True)], abs=1e-4
        )
        for now, after, seen in zip(scale, scale[1:], product, strict=False):
            assert after == now + (1 if seen <= 5 else -1 if seen > 6 else 0)
        ups = sum(b > a for a, b in pairwise(scale))
        assert row["moves"]["up"] == ups
    first = found["layers"][0]
    if recipe == "sun2020":
        assert 5 < first["log2_scaled"][0] <= 6  # the start is one exact fit
    else:
        assert first["log2_scale"][:3] == [0.0, 1.0, 2.0]


def test_the_maxima_are_those_that_the_layers_note() -> None:
    found = measure_gradscale(SMALL)
    with short_run(SMALL) as run:
        watched = scaled_layers(run)
        for step in range(3):
            run.forward_backward(step)
            for row in found["layers"]:
                layer = watched[row["layer"]]
                assert row["log2_max"][step] == log2(float(layer.nybble_grad_amax))
                assert row["log2_scale"][step] == log2(float(layer.nybble_grad_scale))
            run.update(step)


def test_one_layer() -> None:
    found = measure_gradscale(ViewConfig(**{**vars(SMALL), "steps": 1}), layer="features.8")
    assert [row["layer"] for row in found["layers"]] == ["features.8"]
    assert found["command"].endswith("--layer features.8")


@pytest.mark.parametrize("recipe", ["fp32", "luq", "hfp8"])
def test_a_recipe_without_gradscale(recipe: str) -> None:
    with pytest.raises(UserError, match="no layer of cnn has a GradScale under"):
        measure_gradscale(ViewConfig(**{**vars(SMALL), "recipe": recipe}))


def test_a_layer_without_gradscale() -> None:
    with pytest.raises(UserError, match="no layer with a GradScale 'classifier'"):
        measure_gradscale(SMALL, layer="classifier")
