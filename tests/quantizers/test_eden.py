"""Eden and RowLeastSquares: the oracle's bits, and that a rotation makes them unbiased."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import Stochastic, Table16, get_format
from nybble.quantizers import (
    AbsMax,
    Eden,
    Hadamard,
    QTensor,
    Quantizer,
    RandomKey,
    RowLeastSquares,
    get_quantizer,
    oracle,
    oracle_scales,
    quantize,
    random24,
)

E2M1 = get_format("fp4_e2m1")
HALF = (1, 3, 5, 7, 9, 12, 15, 20)
W20 = Table16((*HALF, *(-v for v in HALF)), "w20")
KEY = RandomKey(seed=3, layer=1)


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp(2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1)))


def check_eden(x: torch.Tensor, config: Eden) -> None:
    """`x` is a matrix, its blocks lie along the rows."""
    q = quantize(x, Quantizer(E2M1, config), key=KEY)
    groups = [
        [block.tolist() for block in group.split(config.block)]
        for row in x
        for group in row.split(config.group)
    ]
    bits = random24(q.scale.shape, replace(KEY, operand=8)).view(-1).tolist()
    expected = oracle_scales.eden(groups, E2M1, bits.__getitem__)
    codes = [b for row in q.codes() for b in row.split(config.block)]
    assert q.scale.numel() == len(expected)
    for i, (want, scale) in enumerate(expected):
        assert codes[i].tolist() == want
        assert same(float(q.scale.view(-1)[i]), scale)


@pytest.mark.parametrize("config", [Eden(), Eden(group=64), Eden(block=8, group=8)], ids=str)
@pytest.mark.parametrize("shape", [(3, 64), (2, 90), (1, 5)])
def test_eden_equals_oracle(config: Eden, shape: tuple[int, int]) -> None:
    x = data(*shape)
    check_eden(x, config)
    check_eden(torch.zeros(shape), config)
    turned = quantize(x.T, Quantizer(E2M1, config.along(0, 1)), key=KEY)
    assert turned.fit.axis == 0
    straight = quantize(x, Quantizer(E2M1, config), key=KEY)
    assert torch.equal(turned.codes(), straight.codes().T)


@given(st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=70))
@settings(max_examples=60)
def test_any_numbers_equal_eden_oracle(values: list[float]) -> None:
    check_eden(torch.tensor([values], dtype=torch.float32), Eden())


@pytest.mark.parametrize("size", [1e-36, 1e-24, 1e24, 1e36])
def test_gradients_of_any_size_are_corrected(size: float) -> None:
    x = data(4, 64)
    x = x / x.abs().max() * size
    check_eden(x, Eden())
    found = quantize(x, Quantizer(E2M1, Eden()), key=KEY).dequantize()
    assert found.isfinite().all()
    assert float((found / size).norm() / (x / size).norm()) == pytest.approx(1.0, abs=0.05)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
@settings(max_examples=80)
def test_any_numbers_equal_row_oracle(values: list[float], rms: float) -> None:
    x = torch.tensor([values], dtype=torch.float32)
    fit = RowLeastSquares("row", rms=rms).fit(x, W20)
    expected = oracle_scales.row_least_squares(values, W20, rms)
    assert same(float(fit.scale), expected.scale)
    assert same(float(fit.inv), expected.inv)


@pytest.mark.parametrize("name", ["int4_sym", "fp4_e2m1"])
def test_rows_channels_and_tensor_equal_oracle(name: str) -> None:
    x = data(5, 40)
    format = get_format(name)
    for config, groups in (
        (RowLeastSquares("row", rms=0.3), list(x)),
        (RowLeastSquares("channel", axis=1, rms=0.3), list(x.T)),
        (RowLeastSquares("free", rms=0.3).along(0, 1), list(x.T)),
        (RowLeastSquares("free", rms=0.3).along(1, None), list(x)),
        (RowLeastSquares("tensor", rms=0.3), [x]),
    ):
        q = quantize(x, Quantizer(format, config))
        assert q.scale.numel() == len(groups)
        for scale, group in zip(q.scale.view(-1), groups, strict=True):
            want = oracle_scales.row_least_squares(group.reshape(-1).tolist(), format, 0.3)
            assert same(float(scale), want.scale)


def test_the_corrected_row_has_the_row_s_own_product() -> None:
    x = data(50, 64)
    y = quantize(x, Quantizer(W20, RowLeastSquares())).dequantize()
    assert torch.allclose((x * y).sum(1), x.square().sum(1), rtol=1e-5)
    tiny = torch.full((1, 8), 1e-30)  # squares underflow, and overflow: the maximum's scale
    for size in (tiny, torch.full((1, 8), 1e30)):
        back = quantize(size, Quantizer(W20, RowLeastSquares())).dequantize()
        assert torch.allclose(back, size, rtol=1e-5, atol=0.0)


def test_what_is_not_finite_makes_its_group_nan() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.ones(3, 8)
        x[1, 3] = bad
        y = quantize(x, Quantizer(W20, RowLeastSquares())).dequantize()
        assert bool(y[1].isnan().all())
        assert bool(y[[0, 2]].isfinite().all())
        assert bool(quantize(x, Quantizer(E2M1, Eden()), key=KEY).dequantize().isnan().all())
    zeros = quantize(torch.zeros(2, 8), Quantizer(W20, RowLeastSquares())).dequantize()
    assert bool((zeros.abs() < 1e-36).all())  # W20 has no zero; a scale of 1 would give ones
    for shape in ((3, 0), (0, 3), (0, 0)):
        assert quantize(torch.zeros(shape), Quantizer(W20, RowLeastSquares())).shape == shape
        assert quantize(torch.zeros(shape), Quantizer(E2M1, Eden()), key=KEY).shape == shape


# ---- what the papers say of them ----------------------------------------------------------------


def turned_back(x: torch.Tensor, quantizer: Quantizer, calls: int, block: int) -> torch.Tensor:
    """[calls, *x.shape]: rotated at random, quantised, and rotated back."""
    found = []
    for call in range(calls):
        key = RandomKey(seed=11, call=call)

        def bits(stream: int, shape: object, key: RandomKey = key) -> torch.Tensor:
            return random24(shape, replace(key, operand=8 * stream))  # type: ignore[arg-type]

        turn = Hadamard(block, "random")
        q: QTensor = quantize(turn.apply(x, 1, bits), quantizer, key=key)
        found.append(turn.inverse(q.dequantize(), 1, bits))
    return torch.stack(found)


def gain_and_error(x: torch.Tensor, samples: torch.Tensor) -> tuple[float, float]:
    """<x, mean of the samples> / <x, x>, and the mean squared error of one sample over <x, x>."""
    gain = float((samples.mean(0) * x).sum() / x.square().sum())
    return gain, float((samples - x).square().mean() / x.square().mean())


def test_ms_eden_is_unbiased_with_less_than_half_of_stochastic_rounding_s_error() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(5))
    x[0] *= 10
    x[:, 3] *= 4
    calls = 100
    samples = turned_back(x, Quantizer(E2M1, Eden(group=128)), calls, 128)
    gain, error = gain_and_error(x, samples)
    assert abs(gain - 1.0) < 0.001
    left = float((samples.mean(0) - x).square().mean() / x.square().mean())
    # Without bias the mean of n samples has 1 / n of one sample's error.
    assert left < 1.15 * error / calls
    stochastic = Quantizer(E2M1, AbsMax.nv(headroom=17 / 16), Stochastic())
    sr_gain, sr_error = gain_and_error(x, turned_back(x, stochastic, 20, 128))
    assert abs(sr_gain - 1.0) < 0.006
    assert error < sr_error / 2  # Quartet II: "more than 2x"
    uncorrected = AbsMax.nv(headroom=17 / 16 * 0.93, limit=255.99)
    nearest = turned_back(x, Quantizer(E2M1, uncorrected), 20, 128)
    assert gain_and_error(x, nearest)[0] < 0.992


def test_row_least_squares_is_unbiased_after_a_rotation() -> None:
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(6))
    x[:, 5] *= 4
    calls = 200
    samples = turned_back(x, Quantizer(W20, RowLeastSquares("row")), calls, 64)
    gain, error = gain_and_error(x, samples)
    assert abs(gain - 1.0) < 1e-4
    assert error < 0.0115
    left = float((samples.mean(0) - x).square().mean() / x.square().mean())
    assert left < 1.3 * error / calls


def test_names_json_and_errors() -> None:
    assert Eden(0, group=128).short == "eden(nv16, group 128, axis 0)"
    assert RowLeastSquares("channel", axis=1).short == "rowleastsquares(channel, axis 1, 0.1362)"
    for scale in (Eden(0, group=128), RowLeastSquares("channel", axis=1, rms=0.5)):
        quantizer = Quantizer(W20, scale)
        assert Quantizer.from_dict(json.loads(json.dumps(quantizer.to_dict()))) == quantizer
    assert get_quantizer("fp4_e2m1:eden(nv16, group 128)").scale == Eden(group=128)
    assert get_quantizer("int4:rowleastsquares(row, 0.1362)").scale == RowLeastSquares()
    with pytest.raises(UserError, match="multiple of block"):
        Eden(group=40)
    for config in ({"granularity": "block"}, {"rms": 0.0}):
        with pytest.raises(UserError, match="RowLeastSquares"):
            RowLeastSquares(**config)  # type: ignore[arg-type]
    x = torch.ones(2, 16)
    for scale in (Eden(), RowLeastSquares()):
        with pytest.raises(UserError, match="corrects the error of nearest rounding"):
            quantize(x, Quantizer(E2M1, scale, Stochastic()), key=KEY)
    with pytest.raises(UserError, match="key=RandomKey"):
        quantize(x, Quantizer(E2M1, Eden()))
    with pytest.raises(UserError, match="random bits"):
        Eden().encode(x, E2M1, None, None)
    assert quantize(x, "int4:rowleastsquares(row, 0.1362)").dequantize().shape == x.shape
    assert quantize(x, Quantizer(get_format("fp4_radix4"), RowLeastSquares(rms=1.0))).shape == (
        2,
        16,
    )
