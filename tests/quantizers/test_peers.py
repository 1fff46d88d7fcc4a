"""Block scales beside torchao (MX, NV) and gfloat (MX), where they are installed: every bit.

A negative zero is the one difference that is meant: nybble decodes none.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nybble.formats import get_format
from nybble.quantizers import AbsMax, Quantizer, quantize

pytestmark = pytest.mark.peers

MX_FORMATS = ["fp4_e2m1", "fp8_e4m3", "fp8_e5m2"]


def samples(block: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 4 * block, generator=generator)
    wide = normal * torch.exp(4 * torch.randn(64, 4 * block, generator=generator))
    zeros = wide.clone()
    zeros[::3] = 0.0
    zeros[1, :block] = 0.0
    ties = (torch.arange(64 * 4 * block).view(64, -1) % 57 - 28).float() / 4
    return {
        "normal": normal,
        "wide": wide,
        "zeros": zeros,
        "ties": ties,
        "tiny": normal * 2.0**-100,
        "smallest": normal * 2.0**-140,
        "huge": normal * 2.0**120,
        "outlier": torch.where(torch.rand(64, 4 * block, generator=generator) < 0.01, 1e4, normal),
    }


def positive_zero(x: torch.Tensor) -> torch.Tensor:
    return x + 0.0


def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.equal(ours.view(torch.int32), positive_zero(theirs).view(torch.int32))


@pytest.mark.parametrize("kind", list(samples(32)))
@pytest.mark.parametrize("name", MX_FORMATS)
def test_mx_equals_torchao(name: str, kind: str) -> None:
    mx: Any = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    dtype = {
        "fp4_e2m1": torch.float4_e2m1fn_x2,
        "fp8_e4m3": torch.float8_e4m3fn,
        "fp8_e5m2": torch.float8_e5m2,
    }[name]
    x = samples(32)[kind]
    if kind == "smallest" and name != "fp4_e2m1":
        # torchao 0.18 divides by 2^-126 there, stores the code of 2^-127 and multiplies by that.
        pytest.skip("torchao's smallest scale is 2^-126 when quantising and 2^-127 when reading")
    theirs = mx.MXTensor.to_mx(x, dtype, 32).dequantize(torch.float32)
    check(quantize(x, Quantizer(get_format(name), AbsMax.mx())).dequantize(), theirs)


@pytest.mark.parametrize("kind", [k for k in samples(16) if k not in ("smallest", "tiny")])
def test_nv_equals_torchao(kind: str) -> None:
    nv: Any = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    x = samples(16)[kind]
    scale = nv.per_tensor_amax_to_scale(x.abs().max())
    tensor = nv.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale)
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), AbsMax.nv()))
    assert q.fit.global_scale is not None
    assert float(q.fit.global_scale) == float(scale)
    check(q.dequantize(), tensor.dequantize(torch.float32))


@pytest.mark.parametrize("kind", [k for k in samples(32) if k not in ("smallest", "zeros")])
@pytest.mark.parametrize("name", MX_FORMATS)
def test_mx_equals_gfloat(name: str, kind: str) -> None:
    gfloat: Any = pytest.importorskip("gfloat")
    formats: Any = pytest.importorskip("gfloat.formats")
    elements = {
        "fp4_e2m1": formats.format_info_ocp_e2m1,
        "fp8_e4m3": formats.format_info_ocp_e4m3,
        "fp8_e5m2": formats.format_info_ocp_e5m2,
    }[name]
    x = samples(32)[kind][:6]
    q = quantize(x, Quantizer(get_format(name), AbsMax.mx()))
    ours = q.dequantize().view(-1, 32)
    for i, block in enumerate(x.view(-1, 32)):
        top = float(block.abs().max())
        # OCP MX 1.0, section 6.3, in gfloat's arithmetic.
        exponent = math.floor(math.log2(top)) - math.floor(math.log2(elements.max))
        scale = 2.0 ** max(exponent, -126)
        for j, value in enumerate(block.tolist()):
            rounded = gfloat.round_float(elements, value / scale, sat=True)
            assert float(ours[i, j]) == rounded * scale


def test_scale_bytes_equal_torchao() -> None:
    mx: Any = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    nv: Any = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    x = samples(32)["wide"]
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), AbsMax.mx()))
    theirs = mx.MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32).scale.view(torch.uint8)
    assert q.fit.scale_codes is not None
    assert torch.equal(q.fit.scale_codes, theirs.view_as(q.fit.scale_codes))
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), AbsMax.nv()))
    scale = nv.per_tensor_amax_to_scale(x.abs().max())
    codes = nv.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).scale.view(torch.uint8)
    assert q.fit.scale_codes is not None
    assert torch.equal(q.fit.scale_codes, codes.view_as(q.fit.scale_codes))


@pytest.mark.parametrize("kind", [k for k in samples(32) if k not in ("smallest", "tiny")])
def test_the_ceiling_rule_equals_torchao_s_rceil(kind: str) -> None:
    mx: Any = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    config: Any = pytest.importorskip("torchao.prototype.mx_formats.config")
    x = samples(32)[kind]
    theirs = mx.MXTensor.to_mx(
        x, torch.float4_e2m1fn_x2, 32, scaling_mode=config.ScaleCalculationMode.RCEIL
    )
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), AbsMax.mx(exponent="ceil")))
    check(q.dequantize(), theirs.dequantize(torch.float32))
    assert q.fit.scale_codes is not None
    # An all-zero block has any scale.
    used = x.view(-1, 32).abs().amax(1) > 0
    codes = theirs.scale.view(torch.uint8).view(-1)
    assert torch.equal(q.fit.scale_codes.view(-1)[used], codes[used])


@pytest.mark.parametrize(
    "scale", [AbsMax("tile", block=16, scale_format="fp8_e4m3"), AbsMax.nv(limit=256.0)], ids=str
)
@pytest.mark.parametrize("kind", ["normal", "ties", "outlier"])
def test_nv_variants_equal_gfloat(scale: AbsMax, kind: str) -> None:
    """Element by element: the formula of blocks.py with gfloat's E4M3 and E2M1."""
    gfloat: Any = pytest.importorskip("gfloat")
    formats: Any = pytest.importorskip("gfloat.formats")
    x = samples(16)[kind][:32, :32]
    q = quantize(x, Quantizer(get_format("fp4_e2m1"), scale))
    ours = q.dequantize()
    tall = 16 if scale.granularity == "tile" else 1
    whole = (x.abs().max() / torch.tensor(scale.limit * 6.0)).float()
    for row in range(0, 32, tall):
        for column in (0, 16):
            block = slice(row, row + tall), slice(column, column + 16)
            wanted = float(x[block].abs().max() / 6.0 / whole)
            b = gfloat.round_float(formats.format_info_ocp_e4m3, max(wanted, 2.0**-6), sat=True)
            inv = torch.reciprocal(whole) / b
            for value, found in zip(x[block].flatten(), ours[block].flatten(), strict=True):
                rounded = gfloat.round_float(
                    formats.format_info_ocp_e2m1, float(value * inv), sat=True
                )
                assert float(found) == float(torch.tensor(rounded + 0.0) * (whole * b))
