"""Quest and Four Over Six: the oracle's bits, and what their papers measured."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import Rounding, Stochastic, get_format
from nybble.quantizers import (
    AbsMax,
    FourOverSix,
    Hadamard,
    Quantizer,
    Quest,
    RandomKey,
    get_quantizer,
    oracle,
    oracle_scales,
    quantize,
)

E2M1 = get_format("fp4_e2m1")
ERRORS = ("mse", "mae", "absmax")
QUESTS = [Quest(), Quest(exponent="floor"), Quest(block=16, clip=4.0)]


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp(torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1)))


def check(x: torch.Tensor, config: Quest | FourOverSix) -> None:
    """`x` is a matrix, its blocks lie along the rows."""
    q = quantize(x, Quantizer(E2M1, config))
    blocks = [block.tolist() for row in x for block in row.split(config.block)]
    if isinstance(config, Quest):
        fits = [oracle_scales.quest(b, 6.0, config.clip, config.exponent) for b in blocks]
    else:
        fits = oracle_scales.four_over_six(blocks, E2M1, config.error)
    assert q.scale.numel() == len(fits)
    values = [b for row in q.dequantize() for b in row.split(config.block)]
    for i, fit in enumerate(fits):
        assert same(float(q.scale.view(-1)[i]), fit.scale)
        assert same(float(q.fit.inv.view(-1)[i]), fit.inv)
        expected = oracle.quantize(blocks[i], E2M1, fit)[1]
        assert all(same(a, b) for a, b in zip(values[i].tolist(), expected, strict=True))


@pytest.mark.parametrize(
    "config", [*QUESTS, *(FourOverSix(error=e) for e in ERRORS)], ids=lambda c: c.short
)
@pytest.mark.parametrize("shape", [(3, 64), (2, 90), (1, 5)])
def test_equals_oracle(config: Quest | FourOverSix, shape: tuple[int, int]) -> None:
    x = data(*shape)
    check(x, config)
    check(torch.zeros(shape), config)
    turned = quantize(x.T, Quantizer(E2M1, config.along(0, 1))).dequantize()
    assert torch.equal(turned.T, quantize(x, Quantizer(E2M1, config)).dequantize())


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (3, 30), (1, 1), (5, 6, 3, 2)])
def test_tiles_equal_oracle(error: str, shape: tuple[int, ...]) -> None:
    """Of a convolution's weight, each of its taps has tiles of its own."""
    x, size = data(*shape, seed=len(shape)), 8
    config = FourOverSix(block=size, error=error, granularity="tile")  # type: ignore[arg-type]
    q = quantize(x, Quantizer(E2M1, config))
    rows, columns = (-(-n // size) * size for n in shape[:2])
    whole = torch.zeros(rows, columns, *shape[2:])
    whole[: shape[0], : shape[1]] = x
    squares = {
        (i, j, *rest): whole[i * size : (i + 1) * size, j * size : (j + 1) * size][(..., *rest)]
        for i in range(rows // size)
        for j in range(columns // size)
        for rest in itertools.product(*map(range, shape[2:]))
    }
    flat = [square.reshape(-1).tolist() for square in squares.values()]
    fits = oracle_scales.four_over_six(flat, E2M1, error)
    assert q.scale.shape == (rows // size, columns // size, *shape[2:])
    values = q.dequantize()
    for place, block, fit in zip(squares, flat, fits, strict=True):
        assert same(float(q.scale[place]), fit.scale)
        i, j, *rest = place
        found = values[i * size : (i + 1) * size, j * size : (j + 1) * size][(..., *rest)]
        expected = torch.tensor(oracle.quantize(block, E2M1, fit)[1]).view(size, size)
        assert torch.equal(found, expected[: found.shape[0], : found.shape[1]])
    turned = q.dequantize().transpose(0, 1)
    again = quantize(x.transpose(0, 1), Quantizer(E2M1, config)).dequantize()
    assert float((turned - again).abs().sum()) <= 0.01 * float(x.abs().sum())  # but for near ties


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.sampled_from(QUESTS),
)
@settings(max_examples=80)
def test_any_numbers_equal_quest_oracle(values: list[float], config: Quest) -> None:
    check(torch.tensor([values], dtype=torch.float32), config)


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
    st.sampled_from(ERRORS),
)
@settings(max_examples=80)
def test_any_numbers_equal_four_over_six_oracle(values: list[float], error: str) -> None:
    check(torch.tensor([values], dtype=torch.float32), FourOverSix(error=error))  # type: ignore[arg-type]


def squared_error(x: torch.Tensor, scale: AbsMax | Quest | FourOverSix) -> torch.Tensor:
    return (quantize(x, Quantizer(E2M1, scale)).dequantize() - x).square()


# ---- Quest --------------------------------------------------------------------------------------


def test_gaussian_error_of_quest_and_absmax() -> None:
    """Quartet's table: QuEST 1.32e-2, rounding to nearest by AbsMax 1.37e-2, stochastic 2.77e-2.
    All within 1.5 % for Gaussians of all sizes within an octave, after a Hadamard of 32; see the
    module for how the exponent is read."""
    generator = torch.Generator().manual_seed(0)
    size = 2.0 ** torch.rand(20000, 1, generator=generator)
    x = Hadamard(32, "none").apply(torch.randn(20000, 32, generator=generator) * size, 1)

    def error(scale: AbsMax | Quest, rounding: Rounding | None = None) -> float:
        q = quantize(x, Quantizer(E2M1, scale, rounding), key=RandomKey(seed=1))
        return float(((q.dequantize() - x).square() / size.square()).mean())

    assert error(Quest()) == pytest.approx(1.32e-2, rel=0.015)
    assert error(AbsMax.mx(headroom=4 / 3)) == pytest.approx(1.37e-2, rel=0.015)
    stochastic = error(AbsMax.mx(headroom=4 / 3), Stochastic())
    assert stochastic == pytest.approx(2.77e-2, rel=0.015)
    assert error(Quest()) < error(AbsMax.mx(headroom=4 / 3))
    assert error(Quest(exponent="floor")) > 1.8e-2


def test_the_bound_is_what_the_largest_value_stands_for() -> None:
    x = data(4, 64)
    fit = Quest().fit(x, E2M1)
    assert fit.bound is not None
    assert torch.equal(fit.bound, 6.0 * fit.scale)
    wide = fit.bound.repeat_interleave(32, 1)
    y = fit.dequantize(E2M1.round(fit.scaled(x)))
    assert bool((y.abs() <= wide).all())
    beyond = x.abs() > wide
    assert bool(beyond.any())
    assert torch.equal(y.abs()[beyond], wide[beyond])


# ---- Four Over Six ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
def test_four_over_six_never_has_the_larger_error(error: str) -> None:
    x = data(300, 64, seed=2)
    config = FourOverSix(error=error)  # type: ignore[arg-type]
    ours = (quantize(x, Quantizer(E2M1, config)).dequantize() - x).abs().view(-1, 16).double()
    six = quantize(x, Quantizer(E2M1, AbsMax.nv(limit=256.0)))
    theirs = (six.dequantize() - x).abs().view(-1, 16).double()
    measure = {
        "mse": lambda d: d.square().sum(1),
        "mae": lambda d: d.sum(1),
        "absmax": lambda d: d.amax(1),
    }[error]
    assert bool((measure(ours) <= measure(theirs) * (1 + 1e-6)).all())
    assert bool((measure(ours) < measure(theirs)).any())


def test_four_over_six_on_gaussian_data() -> None:
    x = torch.randn(2000, 128, generator=torch.Generator().manual_seed(4))
    error = {e: float(squared_error(x, FourOverSix(error=e)).mean()) for e in ERRORS}  # type: ignore[arg-type]
    six = float(squared_error(x, AbsMax.nv()).mean())
    assert error["mse"] < 0.9 * six
    assert error["mse"] == min(error.values())
    codes = FourOverSix().fit(x, E2M1).scale_codes
    plain = AbsMax.nv(limit=256.0).fit(x, E2M1).scale_codes
    assert codes is not None
    assert plain is not None
    share = float((codes != plain).float().mean())
    assert 0.2 < share < 0.8


def test_a_block_near_its_maximum_goes_to_four() -> None:
    """The abstract's point: with the maximum at 6, what lies at 5 / 6 of it is rounded far."""
    x = torch.tensor([[1536.0, *[0.0] * 15], [6.0, 4.6, 4.6, 4.6, *[0.0] * 12]])
    fit = FourOverSix().fit(x, E2M1)
    assert fit.scale.view(-1).tolist() == [256.0, 1.5]
    tie = torch.tensor([[1536.0, 768.0, *[0.0] * 14]])  # exact either way: 6
    assert float(FourOverSix().fit(tie, E2M1).scale) == 256.0


def test_what_is_not_finite_and_empty() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.ones(2, 64)
        x[1, 40] = bad
        y = quantize(x, Quantizer(E2M1, Quest())).dequantize()
        assert bool(y[1, 32:].isnan().all())
        assert bool(y[0].isfinite().all())
        assert bool(y[1, :32].isfinite().all())
        assert bool(quantize(x, Quantizer(E2M1, FourOverSix())).dequantize().isnan().all())
    for scale in (Quest(), FourOverSix()):
        for shape in ((3, 0), (0, 3), (0, 0)):
            assert quantize(torch.zeros(shape), Quantizer(E2M1, scale)).shape == shape


def test_names_json_and_errors() -> None:
    assert Quest(0, 16, 3.0, "floor", "pass").short == "quest(mx16, axis 0, clip 3, floor, pass)"
    assert FourOverSix(0, 8, "mae").short == "fouroversix(nv8, axis 0, mae)"
    tile = FourOverSix(granularity="tile")
    assert tile.short == "fouroversix(nv16x16)" and tile.along(1, 0) == tile
    assert tile.along(1, None) == FourOverSix(1)
    assert get_quantizer("fp4_e2m1:fouroversix(nv16x16)").scale == tile
    for scale in (Quest(0, 16, 3.0, "floor", "pass"), FourOverSix(0, 8, "mae"), tile):
        quantizer = Quantizer(E2M1, scale)
        assert Quantizer.from_dict(json.loads(json.dumps(quantizer.to_dict()))) == quantizer
    assert get_quantizer("fp4_e2m1:quest(mx32)").scale == Quest()
    assert get_quantizer("fp4_e2m1:fouroversix(nv16, mae)").scale == FourOverSix(error="mae")
    for config in ({"block": 0}, {"clip": 0.0}, {"exponent": "up"}, {"ste": "stop"}):
        with pytest.raises(UserError, match="Quest"):
            Quest(**config)  # type: ignore[arg-type]
    for config in (
        {"block": 0},
        {"error": "mape"},
        {"granularity": "row"},
        {"granularity": "tile", "axis": 0},
    ):
        with pytest.raises(UserError, match="FourOverSix"):
            FourOverSix(**config)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="4 and 6 are levels of fp4_e2m1"):
        FourOverSix().fit(torch.ones(16), get_format("int4"))
    for scale in (Quest(2), FourOverSix(2)):
        with pytest.raises(UserError, match="axis 2"):
            scale.fit(torch.ones(2, 2), E2M1)


def test_the_error_of_a_tile_is_summed_row_by_row() -> None:
    """The order is part of the definition: another one rounds otherwise."""
    size, d = 16, data(32, 20, seed=5)
    found = FourOverSix(block=size, granularity="tile").error_of_(d.clone(), 0)
    whole = torch.zeros(32, 32)
    whole[:, :20] = d.square()
    tiles = {
        (i, j): whole[size * i : size * (i + 1), size * j : size * (j + 1)]
        for i, j in itertools.product(range(2), range(2))
    }
    for place, tile in tiles.items():
        assert float(found[place]) == oracle.tree_sum(tile.reshape(-1).tolist())
    assert any(
        float(found[place]) != oracle.tree_sum(tile.T.reshape(-1).tolist())
        for place, tile in tiles.items()
    )
