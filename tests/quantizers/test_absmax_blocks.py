"""The later variants of AbsMax's block scales: tiles, headroom, the ceiling rule, outer scales."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.formats import Nearest, Stochastic, get_format
from nybble.numeric import matmul
from nybble.quantizers import (
    AbsMax,
    QTensor,
    Quantizer,
    RandomKey,
    get_quantizer,
    oracle,
    quantize,
)

E2M1, E4M3 = get_format("fp4_e2m1"), get_format("fp8_e4m3")

BLOCKS = [
    AbsMax("block", block=16, headroom=1.25),
    AbsMax.mx(exponent="ceil"),
    AbsMax.mx(headroom=4 / 3),
    AbsMax.mx(exponent="ceil", headroom=1.5),
    AbsMax.nv(headroom=17 / 16),
    AbsMax.nv(limit=256.0),
    AbsMax.nv(outer=32),
    AbsMax.nv(outer=32, headroom=17 / 16, limit=256.0),
]
TILES = [
    AbsMax("tile", block=4),
    AbsMax("tile", block=4, scale_format="e8m0", headroom=4 / 3),
    AbsMax("tile", block=16, scale_format="fp8_e4m3"),
]


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp(2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1)))


def oracle_fits(blocks: list[list[float]], config: AbsMax) -> list[oracle.OracleFit]:
    """Of all blocks that share a global scale, if there is one."""
    if config.scale_format == "fp8_e4m3":
        return oracle.nv_blocks(blocks, 6.0, E4M3, config.limit, config.headroom)
    if config.scale_format == "e8m0":
        return [oracle.mx_block(b, 6.0, config.exponent, config.headroom) for b in blocks]
    return [oracle.absmax(b, oracle.f32(6.0 / config.headroom)) for b in blocks]


def check_blocks(x: torch.Tensor, config: AbsMax) -> None:
    """`x` is a matrix, its blocks lie along the rows."""
    q = quantize(x, Quantizer(E2M1, config))
    step = config.outer or x.shape[1] * (1 if config.scale_format != "fp8_e4m3" else 10**6)
    groups = [part.split(config.block) for row in x for part in row.split(step)]
    if config.scale_format == "fp8_e4m3" and config.outer is None:
        groups = [[block for row in x for block in row.split(config.block)]]  # type: ignore[list-item]
    fits = [fit for group in groups for fit in oracle_fits([b.tolist() for b in group], config)]
    flat = [block for group in groups for block in group]
    values = [b for row in q.dequantize() for b in row.split(config.block)]
    assert q.scale.numel() == len(fits)
    for fit, scale, inv, block, value in zip(
        fits, q.scale.view(-1), q.fit.inv.view(-1), flat, values, strict=True
    ):
        assert same(float(scale), fit.scale)
        assert same(float(inv), fit.inv)
        expected = oracle.quantize(block.tolist(), E2M1, fit)[1]
        assert all(same(a, b) for a, b in zip(value.tolist(), expected, strict=True))


@pytest.mark.parametrize("config", BLOCKS, ids=lambda c: c.short)
@pytest.mark.parametrize("shape", [(2, 64), (3, 90), (1, 5)])
def test_blocks_equal_oracle(config: AbsMax, shape: tuple[int, int]) -> None:
    x = data(*shape)
    x[0, 2] = 0.0
    check_blocks(x, config)
    check_blocks(torch.zeros(shape), config)
    turned = quantize(x.T, Quantizer(E2M1, config.along(0, 1)))
    expected = quantize(x, Quantizer(E2M1, config)).dequantize()
    assert torch.equal(turned.dequantize(), expected.T)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.sampled_from(BLOCKS),
)
@settings(max_examples=100)
def test_any_numbers_equal_oracle(values: list[float], config: AbsMax) -> None:
    check_blocks(torch.tensor([values], dtype=torch.float32), config)


@pytest.mark.parametrize("config", TILES, ids=lambda c: c.short)
@pytest.mark.parametrize("shape", [(32, 16), (9, 21), (5, 6, 2, 3), (1, 1)])
def test_tiles_equal_oracle_and_their_transpose(config: AbsMax, shape: tuple[int, ...]) -> None:
    x = data(*shape)
    q = quantize(x, Quantizer(E2M1, config))
    side = config.block
    count = [-(-size // side) for size in shape[:2]]
    assert q.scale.shape == (*count, *shape[2:])
    flat = x.reshape(*shape[:2], -1)
    places = [
        (i, j, k) for i in range(count[0]) for j in range(count[1]) for k in range(flat.shape[2])
    ]

    def tile(t: torch.Tensor, i: int, j: int, k: int) -> list[float]:
        rows = slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side)
        found: list[float] = t.reshape(*shape[:2], -1)[(*rows, k)].reshape(-1).tolist()
        return found

    tiles = [tile(x, *place) for place in places]
    y, scales = q.dequantize(), q.scale.reshape(-1)
    for n, (fit, place) in enumerate(zip(oracle_fits(tiles, config), places, strict=True)):
        assert same(float(scales[n]), fit.scale)
        assert tile(y, *place) == oracle.quantize(tiles[n], E2M1, fit)[1]
    turned = quantize(x.transpose(0, 1), Quantizer(E2M1, config)).dequantize()
    assert torch.equal(turned.transpose(0, 1), y)


@pytest.mark.parametrize("config", [*BLOCKS, *TILES], ids=lambda c: c.short)
def test_saved_and_loaded(config: AbsMax, tmp_path: Path) -> None:
    for shape in ((6, 70), (0, 4), (3, 0)):
        q = quantize(data(*shape), Quantizer(E2M1, config))
        q.save(tmp_path / "q.safetensors")
        back = QTensor.load(tmp_path / "q.safetensors")
        assert torch.equal(back.dequantize(), q.dequantize())
        assert (back.fit.granularity, back.fit.outer) == (q.fit.granularity, q.fit.outer)
        assert back.nbytes == q.nbytes


@pytest.mark.parametrize("config", [*BLOCKS, *TILES], ids=lambda c: c.short)
def test_json_and_names(config: AbsMax) -> None:
    quantizer = Quantizer(E2M1, config)
    assert Quantizer.from_dict(json.loads(json.dumps(quantizer.to_dict()))) == quantizer
    assert BLOCKS[-1].short == "absmax(nv16, limit 256, outer 32, headroom 1.0625)"
    assert TILES[1].short == "absmax(mx4x4, headroom 1.33333)"
    assert TILES[0].short == "absmax(tile4x4)"


def test_published_variants_have_names() -> None:
    for name, config in {
        "absmax(mx32, ceil)": AbsMax.mx(exponent="ceil"),
        "absmax(mx32, headroom 1.33333)": AbsMax.mx(headroom=4 / 3),
        "absmax(nv16, headroom 1.0625)": AbsMax.nv(headroom=17 / 16),
        "absmax(nv16, limit 256)": AbsMax.nv(limit=256.0),
        "absmax(nv16, outer 128)": AbsMax.nv(outer=128),
        "absmax(nv16, outer 128, headroom 1.0625)": AbsMax.nv(outer=128, headroom=17 / 16),
        "absmax(nv16x16)": AbsMax("tile", block=16, scale_format="fp8_e4m3"),
        "absmax(block16)": AbsMax("block", block=16),
    }.items():
        assert get_quantizer(f"fp4_e2m1:{name}").scale == config


def test_a_product_of_tiled_weights_is_that_of_its_values() -> None:
    for x_scale in (AbsMax("row"), AbsMax("tile", block=16, scale_format="fp8_e4m3")):
        a = quantize(data(20, 16), Quantizer(get_format("int4_sym"), x_scale))
        b = quantize(data(16, 40, seed=5), Quantizer(E2M1, AbsMax("tile", block=16)))
        expected = a.dequantize().double() @ b.dequantize().double()
        assert torch.allclose(matmul(a, b).double(), expected, rtol=1e-5, atol=1e-4)


def test_what_a_gemm_leaves_free() -> None:
    assert AbsMax("free").along(1, 0) == AbsMax("channel", axis=0)
    assert AbsMax("free").along(-1, None) == AbsMax("row", axis=-1)
    assert AbsMax.nv().along(0, 1) == AbsMax.nv(0)
    tile = AbsMax("tile", block=16)
    assert tile.along(0, 1) == tile
    x = data(3, 4, 5)
    q = quantize(x, Quantizer(get_format("int4"), AbsMax("row", axis=1)))
    assert q.scale.shape == (3, 1, 5)
    expected = quantize(x.transpose(1, 2), Quantizer(get_format("int4"), AbsMax("row")))
    assert torch.equal(q.dequantize(), expected.dequantize().transpose(1, 2))


# ---- what the papers say of them ----------------------------------------------------------------


def tops_after_scaling(config: AbsMax) -> torch.Tensor:
    """The largest scaled magnitude of every block, over blocks of all sizes."""
    x = torch.rand(4096, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    x = x * torch.exp(3 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(3)))
    return config.fit(x, E2M1).scaled(x).abs().amax(1)


def test_the_ceiling_clips_nothing_and_wastes_no_octave() -> None:
    """TetraJet's 2^ceil(log2(absmax / 6)): "truncation-free"; OCP's floor rule truncates."""
    tops = tops_after_scaling(AbsMax.mx(exponent="ceil"))
    assert float(tops.max()) <= 6.0
    assert float(tops.min()) > 3.0
    assert 0.2 < float((tops_after_scaling(AbsMax.mx()) > 6.0).float().mean()) < 0.6
    x = torch.zeros(32)
    for top, scale in ((6.0, 1.0), (np.nextafter(np.float32(6), np.float32(9)), 2.0), (3.0, 0.5)):
        x[0] = float(top)
        assert float(AbsMax.mx(exponent="ceil").fit(x, E2M1).scale) == scale


@pytest.mark.parametrize(
    ("plain", "wide"),
    [(AbsMax.mx(), AbsMax.mx(headroom=4 / 3)), (AbsMax.nv(), AbsMax.nv(headroom=17 / 16))],
    ids=["mx", "nv"],
)
def test_headroom_makes_stochastic_rounding_unbiased(plain: AbsMax, wide: AbsMax) -> None:
    """Tseng et al.'s 3/4 and the 17/16 of NVFP4: nothing saturates, so the mean is x."""
    assert float(tops_after_scaling(plain).max()) > 6.0
    # One rounding of each product: 6 may become the float32 above it.
    assert float(tops_after_scaling(wide).max()) <= 6.0 * (1 + 2**-23)
    block = 7.9 * torch.ones(1, 32) if plain.scale_format == "e8m0" else torch.ones(1, 32)
    block[0, 16:] = 0.7 if plain.scale_format == "e8m0" else 0.7 * 1.06  # E4M3 rounds it down
    x = block.expand(4096, 32).contiguous()

    def bias(config: AbsMax) -> float:
        y = quantize(x, Quantizer(E2M1, config, Stochastic()), key=RandomKey(seed=1)).dequantize()
        return float(((y - x).mean(0) / x[0]).abs().max())

    assert bias(wide) < 0.02
    assert bias(plain) > (0.2 if plain.scale_format == "e8m0" else 0.02)


def test_an_outer_block_keeps_an_outlier_to_itself() -> None:
    """TetraJet-v2's reason for 1x128: with one scale a tensor, an outlier takes all others' E4M3
    scales towards its smallest numbers."""
    x = torch.randn(8, 512, generator=torch.Generator().manual_seed(4))
    x[0, 0] = 1e7

    def error(config: AbsMax) -> float:
        y = quantize(x, Quantizer(E2M1, config)).dequantize()
        return float((y - x)[:, 128:].square().mean())

    assert error(AbsMax.nv(outer=128)) < 0.02
    assert error(AbsMax.nv()) > 0.5
    nan = x.clone()
    nan[3, 200] = math.nan
    y = quantize(nan, Quantizer(E2M1, AbsMax.nv(outer=128))).dequantize()
    assert bool(y[3, 128:256].isnan().all())
    assert int(y.isnan().sum()) == 128


def test_a_uniform_grid_shrinks_less_than_e2m1() -> None:
    """UFP4's "shrinkage bias" of E2M1, on Gaussian blocks of 16 with float32 scales."""
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(6))

    def gain(name: str) -> float:
        quantizer = Quantizer(get_format(name), AbsMax("block", block=16), Nearest())
        y = quantize(x, quantizer).dequantize()
        return float((x * y).sum() / (x * x).sum())

    assert gain("fp4_e2m1") < 0.9965
    assert abs(gain("int4_sym") - 1.0) < abs(gain("fp4_e2m1") - 1.0) / 2
