"""Quantizers: the composition against the oracle, stochastic rounding, shapes, types, JSON."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import FORMATS, Integer, LogFormat, LogNearest, Nearest, Stochastic, get_format
from nybble.quantizers import (
    PACT,
    SAWB,
    AbsMax,
    GradScale,
    MinMax,
    Quantizer,
    RandomKey,
    Unit,
    get_quantizer,
    oracle,
    quantize,
)
from nybble.quantizers.quantizer import format_from_dict, format_to_dict

QUANTIZERS = [
    Quantizer(get_format("int4_sym"), SAWB()),
    Quantizer(get_format("int4_zeroless"), SAWB("ibm16")),
    Quantizer(get_format("int4_sym"), SAWB("luq", per_channel=True)),
    Quantizer(get_format("uint4"), PACT()),
    Quantizer(get_format("int4_sym"), PACT("symmetric")),
    Quantizer(get_format("int4"), PACT("two_sided")),
    Quantizer(get_format("int4"), AbsMax()),
    Quantizer(get_format("int4"), MinMax()),
    Quantizer(get_format("fp4_radix4"), GradScale()),
    Quantizer(get_format("fp4_radix4_odd"), GradScale(), LogNearest("1.848")),
    Quantizer(get_format("fp4_radix2"), AbsMax(), Stochastic()),
    Quantizer(get_format("int4"), AbsMax("row"), Stochastic()),
    Quantizer(get_format("fp4_e2m1"), AbsMax.mx()),
    Quantizer(get_format("fp4_e2m1"), AbsMax.nv(), Stochastic()),
    Quantizer(get_format("fp8_143"), Unit()),
    Quantizer(get_format("fp16"), Unit()),
    Quantizer(get_format("int2"), AbsMax()),
]
IDS = [q.short for q in QUANTIZERS]
KEY = RandomKey(seed=0, layer=1, call=2, operand=3)


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp(torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1)))


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "e8m0"])
@pytest.mark.parametrize("stochastic", [False, True])
def test_every_format_with_its_scale_equals_oracle(name: str, stochastic: bool) -> None:
    format = get_format(name)
    rounding = Stochastic() if stochastic else None
    x = data(200)
    try:
        q = quantize(x, Quantizer(format, AbsMax(), rounding), key=KEY)
    except UserError as error:
        assert stochastic
        assert "Stochastic" in str(error)
        return
    fit = oracle.absmax(x.tolist(), format.max_value)
    codes, values = oracle.quantize(
        x.tolist(), format, fit, rounding, lambda i: oracle.random24(i, KEY)
    )
    assert q.codes().tolist() == codes
    assert all(same(a, b) for a, b in zip(q.dequantize().tolist(), values, strict=True))
    assert len(set(q.dequantize().tolist())) <= 2**format.bits


def test_gradscale_and_two_phases_equal_oracle() -> None:
    x = data(300) * 1e-5
    for name in ("fp4_radix4", "fp4_radix4_odd", "fp4_radix4_odd_up"):
        for rounding in (None, LogNearest("1.6", "half"), LogNearest("1.848")):
            format = get_format(name)
            q = quantize(x, Quantizer(format, GradScale(), rounding))
            s = oracle.warm_start(max(abs(v) for v in x.tolist()), format.max_value)
            codes, values = oracle.quantize(
                x.tolist(), format, oracle.OracleFit(1 / s, s), rounding
            )
            assert q.codes().tolist() == codes
            assert q.dequantize().tolist() == values


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("name", ["int4", "fp4_radix4", "fp4_radix2", "fp4_e2m1"])
def test_stochastic_rounding_is_unbiased(name: str, seed: int) -> None:
    format = get_format(name)
    top = format.max_value
    values = sorted({v for v in format.values() if 0 <= v <= top})
    n = 1 << 15
    # One column for each point: on the grid, and 1/8, 1/2 and 7/8 of the way to the next level.
    points = [
        low + part * (high - low)
        for low, high in itertools.pairwise(values)
        for part in (0.0, 0.125, 0.5, 0.875)
    ]
    points = [*points, *(-p for p in points), top]
    x = torch.tensor(points, dtype=torch.float32).expand(n, -1).contiguous()
    quantizer = Quantizer(format, AbsMax(), Stochastic())
    y = quantize(x, quantizer, key=RandomKey(seed=seed)).dequantize().double()
    error = y.mean(0) - torch.tensor(points, dtype=torch.float64)
    for column, point in enumerate(points):
        spread = float(y[:, column].std())
        on_grid = any(abs(abs(point) - v) < 1e-6 * v or point == v for v in values)
        # AbsMax maps the top on itself, so the scale is 1 and grid points stay where they are.
        assert (spread == 0) == on_grid
        # 5 standard deviations, and the resolution of 24 random bits.
        gap = max(b - a for a, b in itertools.pairwise(values))
        assert abs(float(error[column])) <= 5 * spread / math.sqrt(n) + gap * 2.0**-24


def test_the_mean_of_many_seeds_converges_too() -> None:
    x = torch.linspace(-1, 1, 41)
    quantizer = Quantizer(get_format("int4"), AbsMax(), Stochastic())
    runs = 1024
    total = torch.zeros(41, dtype=torch.float64)
    for seed in range(runs):
        total += quantize(x, quantizer, key=RandomKey(seed=seed)).dequantize()
    step = float(quantize(x, quantizer, key=RandomKey()).scale)
    # A Bernoulli of width `step` has a standard deviation of at most step / 2.
    assert float((total / runs - x).abs().max()) < 5 * step / 2 / math.sqrt(runs)


def test_stochastic_rounding_is_a_function_of_its_key() -> None:
    x = data(1000)
    quantizer = Quantizer(get_format("int4"), AbsMax(), Stochastic())
    first = quantize(x, quantizer, key=KEY).packed
    assert torch.equal(first, quantize(x.clone(), quantizer, key=KEY).packed)
    assert torch.equal(first, quantize(x.view(10, 100), quantizer, key=KEY).packed)
    assert not torch.equal(first, quantize(x, quantizer, key=RandomKey(seed=1)).packed)
    with pytest.raises(UserError, match="key=RandomKey"):
        quantize(x, quantizer)


shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=IDS)
@given(shapes, st.sampled_from(["normal", "zero", "constant"]))
@settings(max_examples=15)
def test_any_shape_works(quantizer: Quantizer, shape: tuple[int, ...], kind: str) -> None:
    x = {"normal": data(*shape), "zero": torch.zeros(shape), "constant": torch.full(shape, 0.3)}[
        kind
    ]
    before = x.clone()
    q = quantize(x, quantizer, key=KEY)
    assert torch.equal(x, before)
    assert q.codes().shape == q.dequantize().shape == shape
    assert q.dequantize().dtype == torch.float32
    assert bool(q.dequantize().isfinite().all())
    assert bool((q.scale > 0).all())
    if kind == "zero" and quantizer.format.name != "int4_zeroless":
        assert not bool(q.dequantize().any())
    values = q.format.decode(q.codes())
    if q.format.unit is not None:
        integers = q.integers() + (0 if q.zero_point is None else q.zero_point)
        assert torch.equal(integers * q.format.unit, values)
    assert bool((q.dequantize().view(torch.int32) != -(2**31)).all())  # no -0


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=IDS)
def test_one_element(quantizer: Quantizer) -> None:
    for value in (0.7, -0.7, 0.0, 1e-30):
        y = quantize(torch.tensor([value]), quantizer, key=KEY).dequantize()
        assert y.shape == (1,)
        assert bool(y.isfinite().all())
    scale = quantizer.scale
    if isinstance(scale, SAWB | MinMax) or (isinstance(scale, AbsMax) and not scale.scale_format):
        y = quantize(torch.tensor([-0.7]), quantizer, key=KEY).dequantize()
        assert y.tolist() == pytest.approx([-0.7])


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=IDS)
def test_nan_never_becomes_a_number(quantizer: Quantizer) -> None:
    x = data(40, 3)
    x[5, 1] = math.nan
    y = quantize(x, quantizer, key=KEY).dequantize()
    assert bool(y[5, 1].isnan())


def test_half_types_and_numpy_give_the_same_codes() -> None:
    x = data(33, 7)
    quantizer = Quantizer(get_format("int4"), AbsMax("row"))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        narrow = x.to(dtype)
        assert torch.equal(
            quantize(narrow, quantizer).packed, quantize(narrow.float(), quantizer).packed
        )
    array = x.numpy()
    q = quantize(array, quantizer)
    assert torch.equal(q.packed, quantize(x, quantizer).packed)
    assert np.array_equal(q.numpy(), quantize(x, quantizer).dequantize().numpy())
    assert q.numpy().dtype == np.float32
    assert torch.equal(quantize(array.T, quantizer).codes(), quantize(x.T, quantizer).codes())
    assert quantize(np.float32([[1.0]])[:, ::-1], quantizer).shape == (1, 1)
    assert torch.equal(
        quantize(array[::-1].astype(">f4"), quantizer).codes(),
        quantize(x.flip(0), quantizer).codes(),
    )
    array.flags.writeable = False
    assert torch.equal(quantize(array, quantizer).packed, q.packed)
    assert quantize(np.zeros((0, 3), np.float64), quantizer).shape == (0, 3)
    assert quantize(np.array(2.0, np.float16), Quantizer(get_format("int4"), AbsMax())).shape == ()


def test_gradients_do_not_flow_and_views_are_read_in_order() -> None:
    x = data(8, 6).requires_grad_(True)
    q = quantize(x, QUANTIZERS[0])
    assert not q.dequantize().requires_grad
    assert torch.equal(
        quantize(x.detach().T, QUANTIZERS[0]).dequantize(),
        quantize(x.detach().T.contiguous(), QUANTIZERS[0]).dequantize(),
    )


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=IDS)
def test_json_round_trip(quantizer: Quantizer) -> None:
    text = json.dumps(quantizer.to_dict())
    assert Quantizer.from_dict(json.loads(text)) == quantizer


def test_every_scale_and_rounding_survives_json() -> None:
    scales = [
        *(SAWB("luq", True, "clip"), PACT("two_sided"), AbsMax("channel", axis=2), AbsMax.nv(0)),
        *(AbsMax(power_of_two=True), GradScale("fit"), MinMax(), Unit()),
    ]
    for scale in scales:
        for rounding in (None, Nearest(), Stochastic(), LogNearest("1.848", "half")):
            q = Quantizer(get_format("int4"), scale, rounding)
            assert Quantizer.from_dict(json.loads(json.dumps(q.to_dict()))) == q


def test_formats_of_your_own_survive_json() -> None:
    for format in (LogFormat(2, 3), Integer(3), LogFormat(4, 4).odd(-1)):
        assert format_from_dict(json.loads(json.dumps(format_to_dict(format)))) == format
    table = nybble_table()
    assert format_from_dict(json.loads(json.dumps(format_to_dict(table)))) == table
    q = quantize(data(20), Quantizer(table, AbsMax()))
    assert len(set(q.codes().tolist())) > 2


def nybble_table() -> object:
    from nybble.formats import Table16

    return Table16(tuple(range(-40, 40, 5)))


def test_short_names() -> None:
    assert QUANTIZERS[0].short == str(QUANTIZERS[0]) == "int4_sym·sawb(ibm15)"
    assert QUANTIZERS[9].short == "fp4_radix4_odd·gradscale(delayed)·log-nearest(1.848)"
    assert QUANTIZERS[11].short == "int4·absmax(row)·stochastic"
    default = get_format("int4").default_rounding
    assert Quantizer(get_format("int4"), Unit(), default).short == "int4·unit"


def test_a_quantizer_by_name_is_the_one_that_is_printed_so() -> None:
    found = 0
    for quantizer in QUANTIZERS:
        try:
            named = get_quantizer(quantizer.short)
        except UserError:
            continue  # a scale with parameters of its own has no name
        assert named.short == quantizer.short
        if quantizer.rounding is None:
            assert named == quantizer
        found += 1
    assert found >= 8
    assert get_quantizer("int4_sym:sawb") == get_quantizer("int4_sym:sawb(ibm15)")
    x = data(100)
    by_name = quantize(x, "int4_sym:sawb(ibm15)")
    expected = quantize(x, Quantizer(get_format("int4_sym"), SAWB()))
    assert torch.equal(by_name.codes(), expected.codes())
    for name, words in (
        ("int4", "FORMAT:SCALE"),
        ("int4:sawb(ibm)", r"Did you mean 'sawb\(ibm1"),
        ("fp4_radix4:gradscale:log-nearest", "unknown rounding 'log-nearest'"),
        ("int44:minmax", "Did you mean 'int4"),
    ):
        with pytest.raises(UserError, match=words):
            quantize(x, name)
    with pytest.raises(UserError, match="expected a Quantizer"):
        quantize(x, get_format("int4"))  # type: ignore[arg-type]


def test_wrong_use_is_a_user_error() -> None:
    int4 = get_format("int4")
    with pytest.raises(UserError, match="get_format"):
        Quantizer("int4", AbsMax())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="scale"):
        Quantizer(int4, "sawb")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rounding"):
        Quantizer(int4, AbsMax(), "nearest")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="transform"):
        Quantizer(int4, AbsMax(), None, "hadamard")  # type: ignore[arg-type]
    quantizer = Quantizer(int4, AbsMax())
    with pytest.raises(UserError, match="floats"):
        quantize(torch.arange(3), quantizer)
    with pytest.raises(UserError, match="floats"):
        quantize(np.arange(3), quantizer)
    with pytest.raises(UserError, match="torch tensor or a numpy array"):
        quantize([1.0], quantizer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="alpha is PACT"):
        quantize(torch.ones(3), quantizer, alpha=torch.ones(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "int44"}, "Did you mean 'int4"),
        ({"format": 7}, "name or a dict"),
        ({"format": {"kind": "Float"}}, "unknown kind of format"),
        ({"format": {"kind": "Format"}}, "unknown kind of format"),
        ({"format": {"kind": "Integer", "width": 4}}, "Integer"),
        ({"scale": {"family": "sawbb"}}, "Did you mean 'sawb'"),
        ({"scale": {"family": "sawb", "coefs": 1}}, "sawb"),
        ({"rounding": {"kind": "Up"}}, "unknown rounding"),
        ({"rounding": {"kind": "Nearest", "ties": 1}}, "Nearest"),
        ({"extra": 1}, "fields format, scale, rounding and transform"),
    ],
)
def test_wrong_json_is_a_user_error(change: dict[str, object], words: str) -> None:
    data = {**Quantizer(get_format("int4"), SAWB()).to_dict(), **change}
    with pytest.raises(UserError, match=words):
        Quantizer.from_dict(data)
    with pytest.raises(UserError, match="fields"):
        Quantizer.from_dict({})
