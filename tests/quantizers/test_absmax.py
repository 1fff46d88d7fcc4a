"""AbsMax of every granularity, MX and NV blocks: the oracle's bits, group by group."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers import AbsMax, Quantizer, oracle, quantize
from nybble.quantizers.scales.blocks import mx_from_codes

FORMATS = ["int4", "int4_sym", "fp4_radix4", "fp4_radix2", "fp4_e2m1", "int8_sym", "fp8_e4m3"]


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp(2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1)))


def check_group(
    q_values: torch.Tensor, codes: torch.Tensor, x: torch.Tensor, fit: oracle.OracleFit, name: str
) -> None:
    expected_codes, expected = oracle.quantize(x.tolist(), get_format(name), fit)
    assert codes.tolist() == expected_codes
    assert all(same(a, b) for a, b in zip(q_values.tolist(), expected, strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_tensor_equals_oracle(name: str) -> None:
    x = data(15, 10)
    format = get_format(name)
    q = quantize(x, Quantizer(format, AbsMax()))
    assert q.scale.shape == ()
    fit = oracle.absmax(x.reshape(-1).tolist(), format.max_value)
    assert same(float(q.scale), fit.scale)
    check_group(q.dequantize().view(-1), q.codes().view(-1), x.view(-1), fit, name)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channel_equals_oracle(axis: int) -> None:
    x = data(3, 4, 5)
    q = quantize(x, Quantizer(get_format("int4"), AbsMax("channel", axis=axis)))
    assert q.fit.axis == axis % 3
    assert q.scale.shape == tuple(s if d == axis % 3 else 1 for d, s in enumerate(x.shape))
    for i in range(x.shape[axis]):
        line = x.select(axis, i).reshape(-1)
        fit = oracle.absmax(line.tolist(), 7.0)
        assert same(float(q.scale.reshape(-1)[i]), fit.scale)
        check_group(
            q.dequantize().select(axis, i).reshape(-1),
            q.codes().select(axis, i).reshape(-1),
            line,
            fit,
            "int4",
        )


@pytest.mark.parametrize("shape", [(7,), (4, 6), (2, 3, 5)])
def test_row_equals_oracle(shape: tuple[int, ...]) -> None:
    x = data(*shape)
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), AbsMax("row")))
    assert q.scale.shape == (*shape[:-1], 1)
    assert q.fit.axis == (0 if len(shape) == 2 else None)
    lines = x.view(-1, shape[-1])
    for i, line in enumerate(lines):
        fit = oracle.absmax(line.tolist(), 6.0)
        assert same(float(q.scale.view(-1)[i]), fit.scale)
        values, codes = q.dequantize().view_as(lines)[i], q.codes().view_as(lines)[i]
        check_group(values, codes, line, fit, "fp4_e2m1")


@pytest.mark.parametrize("kind", ["float32", "mx", "nv"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 64), -1), ((3, 50), 1), ((70, 2), 0), ((2, 33, 3), 1), ((5,), 0)]
)
def test_blocks_equal_oracle(kind: str, shape: tuple[int, ...], axis: int) -> None:
    x = data(*shape)
    x.view(-1)[3] = 0.0
    scale = {
        "float32": AbsMax("block", axis=axis, block=16),
        "mx": AbsMax.mx(axis),
        "nv": AbsMax.nv(axis),
    }[kind]
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), scale))
    assert (q.fit.granularity, q.fit.axis, q.fit.blocks) == (
        "block",
        axis % len(shape),
        scale.block,
    )
    size = shape[axis]
    count = -(-size // scale.block)
    assert q.scale.shape[axis] == count

    def lines(t: torch.Tensor) -> torch.Tensor:
        return t.movedim(axis, -1).reshape(-1, t.shape[axis])

    blocks = [line.split(scale.block) for line in lines(x)]
    flat = [block for row in blocks for block in row]
    if kind == "nv":
        fits = oracle.nv_blocks([b.tolist() for b in flat], 6.0, get_format("fp8_e4m3"))
    elif kind == "mx":
        fits = [oracle.mx_block(b.tolist(), 6.0) for b in flat]
    else:
        fits = [oracle.absmax(b.tolist(), 6.0) for b in flat]
    scales, invs = lines(q.scale).reshape(-1), lines(q.fit.inv).reshape(-1)
    values = [b for line in lines(q.dequantize()) for b in line.split(scale.block)]
    codes = [b for line in lines(q.codes()) for b in line.split(scale.block)]
    for i, fit in enumerate(fits):
        assert same(float(scales[i]), fit.scale)
        assert same(float(invs[i]), fit.inv)
        check_group(values[i], codes[i], flat[i], fit, "fp4_e2m1")


@pytest.mark.parametrize("name", FORMATS)
def test_mx_scale_is_the_floor_rule(name: str) -> None:
    format = get_format(name)
    emax = math.floor(math.log2(format.max_value))
    for top in (1.0, 1.5, 2.0**-126, 1e-42, 3e38, 0.0, 6.0, 7.999):
        x = torch.zeros(32)
        x[7] = -top
        scale = float(AbsMax.mx().fit(x, format).scale)
        if top == 0:
            assert scale == 1.0
        else:
            floor = math.floor(math.log2(float(x[7].abs())))
            assert scale == 2.0 ** max(floor - emax, -126)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.sampled_from(["int4", "fp4_e2m1", "fp4_radix4"]),
)
@settings(max_examples=120)
def test_any_numbers_equal_oracle(values: list[float], name: str) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    format = get_format(name)
    q = quantize(x, Quantizer(format, AbsMax()))
    fit = oracle.absmax(values, format.max_value)
    assert same(float(q.scale), fit.scale)
    check_group(q.dequantize(), q.codes(), x, fit, name)


@pytest.mark.parametrize("name", FORMATS)
def test_power_of_two_clips_nothing_and_wastes_no_octave(name: str) -> None:
    format = get_format(name)
    for top in (1.0, 3.7, 64.0, 64.1, 1e-20, 1e20):
        x = torch.tensor([top, -top / 3])
        scale = float(AbsMax(power_of_two=True).fit(x, format).scale)
        assert math.frexp(scale)[0] == 0.5
        assert format.max_value / 2 < float(x.max()) / scale <= format.max_value
        assert 1.0 / scale == oracle.warm_start(float(x.max()), format.max_value)


def test_every_e8m0_code_has_its_scale() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    fit = mx_from_codes(codes, {})
    assert fit.scale[:255].tolist() == [2.0 ** (code - 127) for code in range(255)]
    assert fit.inv[:255].tolist() == [2.0 ** (127 - code) for code in range(255)]
    assert math.isnan(fit.scale[255])
    assert math.isnan(fit.inv[255])


CONFIGS = [
    AbsMax(),
    AbsMax("channel"),
    AbsMax("row"),
    AbsMax("block", block=16),
    AbsMax.mx(),
    AbsMax.nv(),
    AbsMax(power_of_two=True),
    AbsMax("row", power_of_two=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.short)
def test_zero_constant_single_and_empty(config: AbsMax) -> None:
    format = get_format("fp4_e2m1")
    quantizer = Quantizer(format, config)
    for shape in ((4, 32), (1, 1), (3, 0), (0, 3), (0, 0)):
        q = quantize(torch.zeros(shape), quantizer)
        assert q.dequantize().shape == shape
        assert not bool(q.dequantize().any())
        if config.scale_format != "fp8_e4m3":
            assert bool((q.scale == 1).all())
    constant = quantize(torch.full((4, 32), 6.0), quantizer).dequantize()
    assert torch.equal(constant, torch.full((4, 32), 6.0))
    assert quantize(torch.tensor([-1.5]), quantizer).dequantize().tolist() == pytest.approx([-1.5])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.short)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_its_group_nan(config: AbsMax, bad: float) -> None:
    x = torch.ones(4, 64)
    x[1, 40] = bad
    y = quantize(x, Quantizer(get_format("int4"), config)).dequantize()
    if config.granularity == "tensor" or config.scale_format == "fp8_e4m3":
        assert bool(y.isnan().all())
    else:
        assert bool(y[1, 40].isnan())
        assert bool(y[[0, 2, 3]].isfinite().all())


def test_wrong_use_is_a_user_error() -> None:
    for config in (
        {"granularity": "layer"},
        {"scale_format": "fp16"},
        {"scale_format": "e8m0"},
        {"granularity": "block", "scale_format": "e8m0", "power_of_two": True},
        {"axis": 1},
        {"granularity": "free", "axis": 0},
        {"granularity": "tile", "axis": 0},
        {"headroom": 0.0},
        {"headroom": math.inf},
        {"granularity": "block", "exponent": "ceil"},
        {"granularity": "block", "exponent": "even", "scale_format": "e8m0"},
        {"granularity": "block", "limit": 256.0},
        {"granularity": "block", "limit": 512.0, "scale_format": "fp8_e4m3"},
        {"granularity": "block", "outer": 128},
        {"granularity": "tile", "outer": 128, "scale_format": "fp8_e4m3"},
        {"granularity": "block", "block": 16, "outer": 40, "scale_format": "fp8_e4m3"},
        {"granularity": "block", "block": 0},
    ):
        with pytest.raises(UserError):
            AbsMax(**config)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="axis 2"):
        AbsMax("channel", axis=2).fit(torch.ones(2, 2), get_format("int4"))
    with pytest.raises(UserError, match="at least 1 dimension"):
        AbsMax("row").fit(torch.tensor(1.0), get_format("int4"))
    with pytest.raises(UserError, match="at least 2 dimension"):
        AbsMax("tile").fit(torch.ones(3), get_format("int4"))
    with pytest.raises(UserError, match="'free' is for an operand of a layer"):
        AbsMax("free").fit(torch.ones(3, 3), get_format("int4"))
    with pytest.raises(UserError, match="narrow"):
        AbsMax.nv().fit(torch.ones(16), get_format("fp16"))


def test_short_names() -> None:
    assert [c.short for c in CONFIGS[:7]] == [
        "absmax(tensor)",
        "absmax(channel)",
        "absmax(row)",
        "absmax(block16)",
        "absmax(mx32)",
        "absmax(nv16)",
        "absmax(tensor, power of two)",
    ]
    assert AbsMax.mx(0).short == "absmax(mx32, axis 0)"
