"""SAWB: the oracle's bits, the published constants, and the weights that break the formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers import SAWB, Quantizer, oracle, quantize
from nybble.quantizers.scales import sawb
from nybble.quantizers.scales.sawb import COEFFICIENTS, sawb_alpha

FORMAT = {"ibm15": "int4_sym", "ibm16": "int4_zeroless", "luq": "int4_sym"}
SETS = list(COEFFICIENTS)


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def check(w: torch.Tensor, name: str) -> float:
    """Fit and oracle agree in alpha, scale and inv; returns alpha."""
    c1, c2, levels = COEFFICIENTS[name]
    fit = SAWB(name).fit(w, get_format(FORMAT[name]))
    alpha, expected = oracle.sawb(w.reshape(-1).tolist(), c1, c2, levels)
    assert fit.bound is not None
    assert same(float(fit.bound), alpha)
    assert same(float(fit.scale), expected.scale)
    assert same(float(fit.inv), expected.inv)
    assert fit.scale.shape == ()
    assert fit.scale.dtype == torch.float32
    return alpha


def test_the_published_coefficients() -> None:
    assert COEFFICIENTS == {
        "ibm15": (12.035, 12.03, 7.0),
        "ibm16": (12.68, 12.80, 7.5),
        "luq": (12.1, 12.2, 7.0),
    }


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (3, 5), (16, 3, 3, 3), (1024,), (3000,)])
def test_fit_equals_oracle(name: str, shape: tuple[int, ...]) -> None:
    alpha = check(weights(*shape), name)
    assert 0 < alpha <= float(weights(*shape).abs().max())


@pytest.mark.parametrize("name", SETS)
def test_gaussian_weights_are_clipped_near_the_best_clip(name: str) -> None:
    w = weights(100_000)
    alpha = float(sawb_alpha(w.view(1, -1), *COEFFICIENTS[name][:2]))
    # MSE-optimal clips of a Gaussian are 2.47 (15 levels) and 2.54 (16 levels) times the rms.
    assert 2.3 < alpha / float(w.square().mean().sqrt()) < 2.6


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("magnitude", [1.0, 0.1, 3e-5, 1e-30, 2.0**-126, 1e15])
@pytest.mark.parametrize("n", [1, 2, 100, 3001])
def test_constant_magnitude_gives_the_maximum(name: str, magnitude: float, n: int) -> None:
    signs = torch.where(torch.arange(n) % 3 == 0, -1.0, 1.0)
    w = signs * magnitude
    alpha = check(w, name)
    assert same(alpha, float(w.abs().max()))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("share", [1, 3, 10, 29])
def test_ternary_weights_never_exceed_the_maximum(name: str, share: int) -> None:
    w = torch.zeros(30)
    w[:share] = 0.25
    w[: share // 2] = -0.25
    alpha = check(w, name)
    assert 0 < alpha <= 0.25
    if share < 20:
        assert alpha == 0.25


def test_an_outlier_among_constant_magnitudes_does_not_swallow_them() -> None:
    w = torch.full((10_000,), 0.1)
    w[0] = 3.0
    fit = SAWB().fit(w, get_format("int4_sym"))
    assert fit.bound is not None
    assert float(fit.bound) == pytest.approx(2 * 0.1, rel=0.01)
    q = quantize(w, Quantizer(get_format("int4_sym"), SAWB()))
    assert float((q.dequantize() != 0).float().mean()) == 1.0


@pytest.mark.parametrize("name", SETS)
def test_zero_and_empty_weights_have_scale_one(name: str) -> None:
    for w in (torch.zeros(5), torch.zeros(3, 0), torch.empty(0)):
        alpha = check(w, name)
        assert alpha == 0.0
        assert float(SAWB(name).fit(w, get_format(FORMAT[name])).scale) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 5, 70_000])
def test_weights_that_are_not_finite_give_nan(bad: float, n: int) -> None:
    w = torch.ones(n)
    w[n // 2] = bad
    fit = SAWB().fit(w, get_format("int4_sym"))
    assert math.isnan(float(fit.scale))
    assert math.isnan(float(fit.inv))
    assert quantize(w, Quantizer(get_format("int4_sym"), SAWB())).dequantize().isnan().all()


def test_moments_that_overflow_give_the_maximum() -> None:
    w = torch.tensor([1e25, -3e25, 2e25])
    assert check(w, "ibm15") == float(w.abs().max())
    check(torch.full((3000,), 3e38), "ibm15")


def test_tiny_weights_meet_the_smallest_scale() -> None:
    w = torch.tensor([1e-44, -2e-44])
    check(w, "ibm15")
    assert float(SAWB().fit(w, get_format("int4_sym")).scale) == 2.0**-126


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30), st.sampled_from(SETS))
@settings(max_examples=150)
def test_any_weights_equal_oracle(values: list[float], name: str) -> None:
    w = torch.tensor(values, dtype=torch.float32)
    alpha = check(w, name)
    assert 0 <= alpha <= float(w.abs().max())
    assert (alpha > 0) == bool((w != 0).any())


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (1, 50), (5, 1), (3,), (6, 0), (0, 4)])
def test_per_channel_equals_oracle(shape: tuple[int, ...]) -> None:
    w = weights(*shape)
    fit = SAWB(per_channel=True).fit(w, get_format("int4_sym"))
    assert fit.scale.shape == (shape[0], *[1] * (len(shape) - 1))
    assert (fit.granularity, fit.axis) == ("channel", 0)
    c1, c2, levels = COEFFICIENTS["ibm15"]
    assert fit.bound is not None
    for i in range(shape[0]):
        alpha, expected = oracle.sawb(w[i].reshape(-1).tolist(), c1, c2, levels)
        assert same(float(fit.bound[i].reshape(())), alpha)
        assert same(float(fit.scale[i].reshape(())), expected.scale)
        assert same(float(fit.inv[i].reshape(())), expected.inv)


def test_large_weights_take_the_torch_path_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights(2, 700)
    expected = sawb_alpha(w, 12.035, 12.03)
    one = sawb_alpha(w[:1], 12.035, 12.03)
    monkeypatch.setattr(sawb, "_SMALL", 0)
    assert torch.equal(sawb_alpha(w, 12.035, 12.03), expected)
    assert torch.equal(sawb_alpha(w[:1], 12.035, 12.03), one)
    monkeypatch.setattr(sawb, "to_array", lambda x: x.detach())
    assert torch.equal(sawb_alpha(w, 12.035, 12.03), expected)
    assert torch.equal(sawb_alpha(w[:1], 12.035, 12.03), one)


def test_other_types_of_weights() -> None:
    w = weights(40).to(torch.bfloat16)
    assert float(SAWB().fit(w, get_format("int4_sym")).scale) == float(
        SAWB().fit(w.float(), get_format("int4_sym")).scale
    )
    parameter = torch.nn.Parameter(weights(40))
    assert not SAWB().fit(parameter, get_format("int4_sym")).scale.requires_grad


def test_int4_may_use_the_15_level_sets() -> None:
    assert float(SAWB().fit(weights(40), get_format("int4")).scale) == float(
        SAWB().fit(weights(40), get_format("int4_sym")).scale
    )


def test_wrong_use_is_a_user_error() -> None:
    with pytest.raises(UserError, match="Did you mean 'ibm1"):
        SAWB("ibm51")
    with pytest.raises(UserError, match="ste"):
        SAWB(ste="stop")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="use coefficients ibm16"):
        SAWB().fit(weights(3), get_format("int4_zeroless"))
    with pytest.raises(UserError, match="use coefficients ibm15 or luq"):
        SAWB("ibm16").fit(weights(3), get_format("int4_sym"))
    with pytest.raises(UserError, match="AbsMax"):
        SAWB().fit(weights(3), get_format("int8"))
    with pytest.raises(UserError, match="channel"):
        SAWB(per_channel=True).fit(torch.tensor(1.0), get_format("int4_sym"))


def test_short_names() -> None:
    assert SAWB().short == "sawb(ibm15)"
    assert SAWB("luq", per_channel=True, ste="clip").short == "sawb(luq, per channel, clip)"
