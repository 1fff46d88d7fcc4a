"""BestOfTwo: the oracle's bits, group by group, and what it promises about the error."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import Format, Nearest, Table16, get_format
from nybble.quantizers import AbsMax, BestOfTwo, Quantizer, oracle, oracle_scales, quantize

HALF = (1, 3, 5, 7, 9, 12, 15, 20)
W20 = Table16((*HALF, *(-v for v in HALF)), "w20")


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    return torch.where(torch.rand(*shape, generator=generator) < 0.02, 20 * x, x)


def check(x: torch.Tensor, config: BestOfTwo, format: Format, groups: list[torch.Tensor]) -> None:
    """`groups`: the elements of each scale, in the order in which the scales lie."""
    fit = config.fit(x, format)
    assert fit.scale.numel() == len(groups)
    for i, group in enumerate(groups):
        expected = oracle_scales.best_of_two(group.reshape(-1).tolist(), format, config.rms)
        assert same(float(fit.scale.reshape(-1)[i]), expected.scale)
        assert same(float(fit.inv.reshape(-1)[i]), expected.inv)


@pytest.mark.parametrize("format", [W20, get_format("int4_sym"), get_format("fp4_e2m1")], ids=str)
@pytest.mark.parametrize("shape", [(5,), (9, 24), (2, 3, 40), (2, 1100)])
def test_rows_equal_oracle(shape: tuple[int, ...], format: Format) -> None:
    x = data(*shape)
    check(x, BestOfTwo("row", rms=2.4 / format.max_value), format, list(x.view(-1, shape[-1])))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_channels_and_tensor_equal_oracle(axis: int | None) -> None:
    x = data(4, 3, 5, 6)
    last = x.to(memory_format=torch.channels_last)
    place = (axis or 0) % 4
    config = BestOfTwo("channel", axis=axis)
    check(x, config, W20, [x.select(place, i) for i in range(x.shape[place])])
    lying = [last.select(place, i) for i in range(x.shape[place])]
    if place == 0:
        lying = [t.permute(1, 2, 0) for t in lying]  # [C, H, W] lies as [H, W, C]
    elif place == 1:
        lying = [t.reshape(-1) for t in lying]  # [N, H, W]
    else:
        lying = [t.permute(0, 2, 1) for t in lying]  # [N, C, H] lies as [N, H, C]
    check(last, config, W20, lying)
    check(x, BestOfTwo("tensor"), W20, [x])
    check(last, BestOfTwo("tensor"), W20, [last.permute(0, 2, 3, 1)])


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
@settings(max_examples=80)
def test_any_numbers_equal_oracle(values: list[float], rms: float) -> None:
    x = torch.tensor([values], dtype=torch.float32)
    check(x, BestOfTwo("row", rms=rms), W20, [x])


def test_what_a_gemm_leaves_free() -> None:
    free = BestOfTwo("free")
    assert free.along(1, 0) == BestOfTwo("channel", axis=0)
    assert free.along(-2, None) == BestOfTwo("row", axis=-2)
    assert BestOfTwo("row").along(0, 1) == BestOfTwo("row")
    x = data(3, 7, 5)
    lines = [x[i, :, j] for i in range(3) for j in range(5)]
    check(x, free.along(-2, None), W20, lines)
    assert free.along(-2, None).fit(x, W20).scale.shape == (3, 1, 5)
    matrix = free.along(0, None).fit(x[0], W20)
    assert (matrix.scale.shape, matrix.axis) == ((1, 5), 1)


def test_both_candidates_win_and_never_lose() -> None:
    x = data(400, 64, seed=3)
    config = BestOfTwo("row")
    chosen = config.fit(x, W20).scale.view(-1)
    by_top, by_rms = config.candidates(x, W20)
    assert 20 < int((chosen == by_rms).sum()) < 380
    assert bool(((chosen == by_rms) | (chosen == by_top)).all())

    def errors(scale: torch.Tensor) -> torch.Tensor:
        y = W20.round(x / scale[:, None], Nearest()) * scale[:, None]
        return (y - x).double().square().sum(1)

    least = torch.minimum(errors(by_top), errors(by_rms))
    assert torch.allclose(errors(chosen), least, rtol=1e-4)


def test_gaussian_error_of_the_table_is_below_absmax_rows_of_int4() -> None:
    x = torch.randn(400, 256, generator=torch.Generator().manual_seed(1))

    def error(quantizer: Quantizer) -> float:
        return float((quantize(x, quantizer).dequantize() - x).square().mean())

    # 0.967e-2 is the table's own error at its best scale, from this project's recipe search.
    by_rms = BestOfTwo("row").candidates(x, W20)[1][:, None]
    assert float((W20.round(x / by_rms) * by_rms - x).square().mean()) == pytest.approx(
        0.967e-2, rel=0.02
    )
    assert error(Quantizer(W20, BestOfTwo("row"))) < 0.95e-2
    assert error(Quantizer(get_format("int4_sym"), AbsMax("row"))) > 1.3e-2


def test_zero_constant_empty_and_what_is_not_finite() -> None:
    for shape in ((4, 32), (1, 1), (3, 0), (0, 3), (0, 0)):
        fit = BestOfTwo("row").fit(torch.zeros(shape), W20)
        assert fit.scale.shape == (shape[0], 1)
        assert bool((fit.scale == (2.0**-126 if shape[1] else 1.0)).all())
        zeros = quantize(torch.zeros(shape), Quantizer(W20, BestOfTwo())).dequantize()
        assert bool((zeros.abs() < 1e-36).all())  # W20 has no zero; a scale of 1 would give ones
        plain = BestOfTwo("row").fit(torch.zeros(shape), get_format("int4_sym"))
        assert bool((plain.scale == 1).all())
    x = torch.ones(3, 8)
    assert torch.equal(quantize(x * 5, Quantizer(W20, BestOfTwo())).dequantize(), x * 5)
    for bad in (math.nan, math.inf, -math.inf):
        x[1, 3] = bad
        y = quantize(x, Quantizer(W20, BestOfTwo())).dequantize()
        assert bool(y[1].isnan().all())
        assert bool(y[[0, 2]].isfinite().all())
    huge = torch.tensor([[3e38, 1e38, -2e38]])  # the squares overflow: the maximum's scale
    assert float(BestOfTwo().fit(huge, W20).scale) == pytest.approx(1.5e37)


def test_names_json_and_errors() -> None:
    assert BestOfTwo("channel", axis=1, rms=0.25).short == "bestoftwo(channel, axis 1, 0.25)"
    quantizer = Quantizer(W20, BestOfTwo("channel", axis=1, rms=0.25))
    assert Quantizer.from_dict(quantizer.to_dict()) == quantizer
    assert quantize(data(3, 4), "int4_sym:bestoftwo(row, 0.1362)").scale.shape == (3, 1)
    for config in (
        {"granularity": "block"},
        {"granularity": "tensor", "axis": 0},
        {"rms": 0.0},
        {"rms": math.nan},
    ):
        with pytest.raises(UserError, match="BestOfTwo"):
            BestOfTwo(**config)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="granularity 'free' is for an operand"):
        BestOfTwo("free").fit(torch.ones(2, 2), W20)
    with pytest.raises(UserError, match="axis 2"):
        BestOfTwo("channel", axis=2).fit(torch.ones(2, 2), W20)
    with pytest.raises(UserError, match="at least 1 dimension"):
        BestOfTwo("row").fit(torch.tensor(1.0), W20)
