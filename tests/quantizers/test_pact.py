"""PACT: fits, masks, the gradient of alpha, and the first batch's clip."""

from __future__ import annotations

import math

import pytest
import torch

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers import PACT, Quantizer, oracle, quantize
from nybble.quantizers.scales.pact import _odd_step

FORMAT = {"unsigned": "uint4", "symmetric": "int4_sym", "two_sided": "int4"}
KINDS = list(FORMAT)


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def activations(n: int = 2000, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [6.0, 0.1, 1e-30, 3.3e38, 2.0**-126, 1e-42, 0.0, -3.0, math.nan])
@pytest.mark.parametrize(("kind", "levels"), [("unsigned", 15.0), ("symmetric", 7.0)])
def test_fit_alpha_equals_oracle(alpha: float, kind: str, levels: float) -> None:
    clip = torch.tensor([alpha])
    fit = PACT(kind).fit_alpha(clip, get_format(FORMAT[kind]))  # type: ignore[arg-type]
    expected = oracle.pact(float(clip), levels)
    assert same(float(fit.scale), expected.scale)
    assert same(float(fit.inv), expected.inv)
    assert fit.scale.shape == ()
    assert fit.zero_point is None


def test_an_infinite_clip_is_not_a_scale() -> None:
    fit = PACT().fit_alpha(torch.tensor(math.inf), get_format("uint4"))
    assert math.isnan(float(fit.scale))


@pytest.mark.parametrize(("upper", "lower"), [(1.5, 0.3), (0.2, 4.0), (1.0, 1e-30), (-1.0, 2.0)])
def test_two_sided_equals_oracle_of_the_affine_scale(upper: float, lower: float) -> None:
    clips = torch.tensor([upper, lower])
    fit = PACT("two_sided").fit_alpha(clips, get_format("int4"))
    ends = clips.clamp(min=2.0**-126)
    expected = oracle.minmax([float(ends[0]), -float(ends[1])], -8, 7)
    assert same(float(fit.scale), expected.scale)
    assert fit.zero_point is not None
    assert float(fit.zero_point) == expected.zero
    assert fit.bound is not None
    assert torch.equal(fit.bound, ends)


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_values_equal_oracle(kind: str) -> None:
    x = activations(300) * 2
    x[:4] = torch.tensor([0.0, -0.0, 1.5, -1.5])
    format = get_format(FORMAT[kind])
    clips = torch.tensor([1.5, 0.7][: PACT(kind).clips])  # type: ignore[arg-type]
    q = quantize(x, Quantizer(format, PACT(kind)), alpha=clips)  # type: ignore[arg-type]
    if kind == "two_sided":
        fit = oracle.minmax([1.5, -float(clips[1])], -8, 7)
    else:
        fit = oracle.pact(1.5, format.max_value)
    codes, values = oracle.quantize(x.tolist(), format, fit)
    assert q.codes().tolist() == codes
    assert all(same(a, b) for a, b in zip(q.dequantize().tolist(), values, strict=True))


def test_values_stay_within_the_clip() -> None:
    x = activations() * 3
    for kind, low, high in (("unsigned", 0.0, 1.0), ("symmetric", -1.0, 1.0)):
        q = quantize(
            x,
            Quantizer(get_format(FORMAT[kind]), PACT(kind)),  # type: ignore[arg-type]
            alpha=torch.tensor(1.0),
        )
        y = q.dequantize()
        assert float(y.min()) == pytest.approx(low)
        assert float(y.max()) == pytest.approx(high)


def test_a_clip_below_zero_clips_all_and_can_recover() -> None:
    x = activations(100).abs() + 0.1
    alpha = torch.tensor([-0.5])
    q = quantize(x, Quantizer(get_format("uint4"), PACT()), alpha=alpha)
    assert float(q.dequantize().max()) < 1e-30


@pytest.mark.parametrize("kind", KINDS)
def test_initial_clip_is_the_best_of_its_grid(kind: str) -> None:
    x = activations(4000)
    if kind == "unsigned":
        x = x.relu()
    scale, format = PACT(kind), get_format(FORMAT[kind])  # type: ignore[arg-type]
    alpha = scale.initial_alpha(x, format)
    assert alpha.shape == (scale.clips,)
    assert bool((alpha > 0).all())

    def error(clip: torch.Tensor) -> float:
        q = quantize(x, Quantizer(format, scale), alpha=clip)
        return float((q.dequantize() - x).double().square().sum())

    best = error(alpha)
    for factor in (2.0**0.125, 2.0**-0.125, 2.0**0.5, 2.0**-0.5):
        assert best < error(alpha * factor)
    # Known optimum for a Gaussian, 15 or 16 levels: about 2.5 times the rms; a half-normal is
    # quantised with twice the levels on its side.
    expected = {"unsigned": (2.2, 3.2), "symmetric": (2.2, 2.8), "two_sided": (2.2, 3.0)}[kind]
    assert expected[0] < float(alpha[0]) < expected[1]


def test_initial_clip_ignores_outliers_and_what_is_not_finite() -> None:
    x = activations(5000).relu()
    clean = PACT().initial_alpha(x, get_format("uint4"))
    spoiled = x.clone()
    spoiled[0] = math.nan
    spoiled[1] = math.inf
    assert float(PACT().initial_alpha(spoiled, get_format("uint4"))) == pytest.approx(
        float(clean), rel=0.2
    )


def test_initial_clip_without_data_on_its_side() -> None:
    for x in (torch.empty(0), torch.zeros(9), -torch.ones(9), torch.zeros(0, 3)):
        assert PACT().initial_alpha(x, get_format("uint4")).tolist() == [1.0]
    assert PACT("two_sided").initial_alpha(torch.zeros(4), get_format("int4")).tolist() == [1, 1]
    upper, lower = PACT("two_sided").initial_alpha(torch.ones(4), get_format("int4")).tolist()
    assert upper == 1.0
    assert lower == 2.0**-126


def test_initial_clip_is_deterministic_and_samples_large_batches() -> None:
    x = activations(300_000).relu()
    first = PACT().initial_alpha(x, get_format("uint4"))
    assert torch.equal(first, PACT().initial_alpha(x.clone(), get_format("uint4")))
    full = PACT().initial_alpha(x[:65536], get_format("uint4"))
    assert float(first) == pytest.approx(float(full), rel=0.2)
    for n in (1, 65536, 65537, 131072, 196608, 10**6, 10**7):
        step = _odd_step(n)
        assert step % 2 == 1
        assert -(-n // step) <= 65536
        assert step == 1 or -(-n // step) > 20_000


def test_fit_uses_the_initial_clip() -> None:
    x = activations(1000).relu()
    clip = PACT().initial_alpha(x, get_format("uint4"))
    assert torch.equal(
        PACT().fit(x, get_format("uint4")).scale, PACT().fit_alpha(clip, get_format("uint4")).scale
    )


def test_nan_in_the_activation_makes_everything_nan() -> None:
    x = torch.tensor([1.0, math.nan, 2.0])
    q = quantize(x, Quantizer(get_format("uint4"), PACT()), alpha=torch.tensor(2.0))
    assert bool(q.dequantize().isnan().all())
    # An infinite activation is one that the clip holds.
    q = quantize(
        torch.tensor([math.inf, 1.0]), Quantizer(get_format("uint4"), PACT()), alpha=torch.ones(1)
    )
    assert q.dequantize().tolist() == pytest.approx([1.0, 1.0])


def test_parameters_are_taken_without_their_graph() -> None:
    alpha = torch.nn.Parameter(torch.tensor([2.0]))
    fit = PACT().fit_alpha(alpha, get_format("uint4"))
    assert not fit.scale.requires_grad
    assert float(fit.scale) == oracle.pact(2.0, 15.0).scale


def test_wrong_use_is_a_user_error() -> None:
    with pytest.raises(UserError, match="kind must be"):
        PACT("signed")  # type: ignore[arg-type]
    for kind, name, use in (
        ("unsigned", "int4", "uint4"),
        ("symmetric", "int4", "int4_sym"),
        ("symmetric", "uint4", "int4_sym"),
        ("two_sided", "int4_sym", "int4"),
        ("two_sided", "fp4_radix4", "int4"),
    ):
        with pytest.raises(UserError, match=f"use '{use}'"):
            PACT(kind).fit_alpha(torch.ones(PACT(kind).clips), get_format(name))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="takes 2 clip"):
        PACT("two_sided").fit_alpha(torch.ones(1), get_format("int4"))


def test_wider_formats_fit_too() -> None:
    assert float(PACT().fit_alpha(torch.tensor(255.0), get_format("uint8")).scale) == 1.0
    assert (
        float(PACT("symmetric").fit_alpha(torch.tensor(127.0), get_format("int8_sym")).scale) == 1.0
    )
