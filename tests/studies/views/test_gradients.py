"""The histogram and the grids against numpy, and the layers that have one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from nybble.errors import UserError
from nybble.quantizers import get_quantizer
from nybble.studies.views import ViewConfig, measure_gradients
from nybble.studies.views.gradients import histogram
from nybble.studies.views.grids import Scaled, fitted, grid
from nybble.studies.views.run import layers, output_gradients, short_run

SMALL = ViewConfig(model="cnn", steps=2, batch_size=16)


def test_histogram_is_numpys() -> None:
    g = torch.randn(5000, generator=torch.Generator().manual_seed(1)).exp() * 1e-4
    found = histogram(g)
    counts, _ = np.histogram(np.log2(g.double().numpy()), bins=np.array(found["edges"]))
    assert counts.sum() == 5000
    assert found["shares"] == pytest.approx(counts / 5000, abs=1e-6)
    assert found["log2_max"] == pytest.approx(math.log2(g.max()), abs=1e-5)


def test_histogram_of_zeros_and_of_the_smallest_numbers() -> None:
    assert histogram(torch.zeros(3))["zero"] == 1.0
    found = histogram(torch.tensor([0.0, 2.0**-149]))
    assert found["zero"] == 0.5 and found["edges"][0] == -60 and sum(found["shares"]) == 0.5


def test_grid_by_hand() -> None:
    # Scale 1/4: y = 4 x, levels 4^n / 4, thresholds 4^n / 1.6 / 4.
    x = torch.tensor([0.0, 0.002, 0.0025, 0.16, -0.15, 16.0, 20.0, -100.0])
    found = grid(Scaled(get_quantizer("fp4_radix4:gradscale"), 4.0, 0.25), x)
    assert found["levels"] == [4.0**n / 4 for n in range(-3, 4)]
    # y: 0, 0.008 -> 0, 0.01 -> 1/64, 0.64 -> 1, -0.6 -> -1/4, 64 -> 64, 80 and -400 -> beyond
    assert found["underflow"] == 1 / 8
    assert found["saturation"] == 2 / 8
    assert found["shares"] == [1 / 8, 0.0, 1 / 8, 1 / 8, 0.0, 0.0, 3 / 8]


def test_int4_reaches_its_own_largest_level_on_either_side() -> None:
    found = grid(fitted(get_quantizer("int4:absmax"), x := torch.tensor([-7.0, 7.0, 0.4]), ""), x)
    assert (found["saturation"], found["underflow"]) == (0.0, pytest.approx(1 / 3, abs=1e-6))
    assert found["levels"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_stochastic_rounding_keeps_the_mean_and_repeats() -> None:
    x = torch.full((4000,), 2.0)
    scaled = Scaled(get_quantizer("fp4_radix4:gradscale:stochastic"), 1.0, 1.0)
    found = grid(scaled, x, seed=1)
    assert found["shares"][4] == pytest.approx(1 / 3, abs=0.03)  # 2 is a third of the way to 4
    assert found == grid(scaled, x, seed=1) != grid(scaled, x, seed=2)


def test_the_view_is_of_the_gradient_that_the_layer_gets() -> None:
    found = measure_gradients(SMALL, layer="features.4")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == measure_gradients(SMALL, layer="features.4")
    assert found["shares"] != measure_gradients(ViewConfig(**{**vars(SMALL), "seed": 1}))["shares"]
    with short_run(SMALL) as run:
        run.forward_backward(0)
        run.update(0)
        module = layers(run)["features.4"]
        with output_gradients({"g": module}) as seen:
            run.forward_backward(1)
        g = seen["g"][0].double().numpy().ravel()
        s, loss_scale = float(module.nybble_grad_scale), run.loss_scale  # type: ignore[arg-type]
    assert found["elements"] == g.size and found["loss_scale"] == loss_scale == 1024
    even, odd, int4 = found["grids"]
    y = np.abs(g) * s
    nonzero = y > 0
    assert even["place"], odd["place"] == ("grad_input", "grad_weight")
    assert even["levels"] == [4.0**n / s / 1024 for n in range(-3, 4)]
    assert odd["levels"] == [level / 2 for level in even["levels"]]
    for one, smallest in ((even, 4.0**-3), (odd, 4.0**-3 / 2)):
        lost = (nonzero & (y < smallest / 1.6)).mean()
        assert one["underflow"] == pytest.approx(lost, abs=1e-6)
        assert one["saturation"] == pytest.approx((y > smallest * 4**6).mean(), abs=1e-6)
    unit = np.float32(np.abs(g).max()) / np.float32(7)
    steps = np.abs(g.astype(np.float32) * (np.float32(1) / unit))
    assert int4["underflow"] == pytest.approx((nonzero & (steps <= 0.5)).mean(), abs=1e-6)
    assert int4["levels"][-1] == pytest.approx(np.abs(g).max() / 1024, rel=1e-6)
    assert sum(found["shares"]) + found["zero"] == pytest.approx(1.0, abs=1e-5)


def test_a_float32_run_is_drawn_on_sun2020s_grids() -> None:
    config = ViewConfig(model="cnn", recipe="fp32", steps=1, batch_size=16)
    found = measure_gradients(config, layer="features.0", against=())
    assert [g["format"] for g in found["grids"]] == ["fp4_radix4", "fp4_radix4_odd"]
    assert found["loss_scale"] == 1.0
    top = found["grids"][0]["log2_levels"][-1]
    assert top - 1 < found["log2_max"] <= top  # an exact fit


def test_equal_slots_are_one_grid() -> None:
    found = measure_gradients(ViewConfig(**{**vars(SMALL), "recipe": "sun2020:gradients=radix2"}))
    assert [g["place"] for g in found["grids"]] == ["both backward Gemms", "beside"]
    assert found["grids"][0]["format"] == "fp4_radix2"


@pytest.mark.parametrize(
    ("layer", "against", "recipe", "message"),
    [
        ("feature.4", (), "sun2020", "no layer 'feature.4' here.*Did you mean 'features.4'"),
        ("classifier", (), "sun2020", "is fp16, whose levels are too many"),
        (None, (), "nybble4", "no layer of cnn has gradients on a grid"),
        ("features.4", (), "nybble4", "scale is not one number"),
        (None, ("int4:absmx",), "sun2020", "unknown scale 'absmx'"),
        (None, ("int4:absmax(row)",), "sun2020", "scale is not one number"),
        (None, ("int4_sym:sawb(ibm15, per channel)",), "sun2020", "scale is not one number"),
        (None, ("uint4:absmax",), "sun2020", "is uint4, but gradients have both signs"),
        (None, ("int4:minmax",), "sun2020", "scale is not one number"),
        (None, ("fp16:absmax",), "sun2020", "the quantizer 'fp16:absmax' is fp16, whose levels"),
    ],
)
def test_mistakes(layer: str | None, against: tuple[str, ...], recipe: str, message: str) -> None:
    config = ViewConfig(model="cnn", recipe=recipe, steps=1, batch_size=16)
    with pytest.raises(UserError, match=message) as caught:
        measure_gradients(config, layer, against)
    assert "\n" not in str(caught.value)
