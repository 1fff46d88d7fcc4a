"""Kernels are compared before they are timed, and every group has the aim that speaks of it."""

from __future__ import annotations

import json

import pytest
import torch

from nybble.errors import NybbleError, UserError
from nybble.ops.native import available
from nybble.reports.speed import markdown, plain
from nybble.studies.speed import kernel_cases, kernels
from nybble.studies.speed.kernel_cases import Case, cases, random_codes
from nybble.studies.speed.kernels import KernelsConfig, check, measure_kernels
from nybble.studies.speed.targets import KERNELS

needs_native = pytest.mark.skipif(not available(), reason="no compiled module")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cases, "GEMMS", ((24, 8, 40),))
    monkeypatch.setattr(kernel_cases, "SMALL", (8, 8, 8))
    monkeypatch.setattr(kernel_cases, "CONVS", ((2, 64, 64, 4, 3, 1), (2, 16, 16, 4, 3, 1)))
    monkeypatch.setattr(kernel_cases, "OTHER_CONVS", ((2, 8, 16, 5, 3, 2), (2, 8, 16, 5, 1, 2)))
    monkeypatch.setattr(kernel_cases, "ELEMENTS", (128, 256))
    monkeypatch.setattr(kernels, "SAMPLE_SECONDS", 1e-6)


@needs_native
def test_the_record_of_kernels(tiny: None) -> None:
    found = measure_kernels(KernelsConfig(rounds=1, threads=(1,)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = found["measurements"]
    assert found["speedup"]["1"] == {m["name"]: m["speedup"] for m in rows}
    assert len(found["speedup"]["1"]) == len(rows)  # no two rows of one name
    seen = {group["group"] for group in found["groups"]}
    assert set(KERNELS) <= seen and {"conv output, narrow", "overhead"} <= seen
    for m in rows:
        assert m["baseline"] in m["float32_us"] and m["ours_us"] > 0 and m["decides"] == "cpu"
        assert (m["gmacs"] is None) == (not m["group"].startswith(("gemm", "conv")))
    for text in (plain(found), markdown(found)):
        assert "gemm radix4" in text and "memcpy" in text and "channels-last" in text


@needs_native
def test_every_product_agrees_with_float32(tiny: None) -> None:
    for build in cases(("gemm", "conv")):
        check(build())


def test_a_wrong_kernel_is_not_timed() -> None:
    x = torch.ones(3, 3)
    with pytest.raises(NybbleError, match="row: the result differs"):
        check(Case("gemm output", "row", lambda: x * 1.01, {"mm": lambda: x}))
    with pytest.raises(NybbleError, match="row: shapes"):
        check(Case("gemm output", "row", lambda: x[:2], {"mm": lambda: x}))


@pytest.mark.parametrize("name", ["uint4", "int4_sym", "fp4_radix4", "fp4_radix2"])
def test_random_codes_are_those_of_the_values(name: str) -> None:
    from nybble.quantizers.packing import unpack_codes

    codes, values = random_codes((9, 15), name, 0)
    unpacked = unpack_codes(codes.packed, 135, codes.bits).long()
    assert torch.equal(codes.table[unpacked].float().view(9, 15), values)
    assert codes.low <= values.min() and values.max() <= codes.high


def test_bad_options() -> None:
    with pytest.raises(UserError, match="choose from gemm"):
        KernelsConfig(only=("gem",))
    with pytest.raises(UserError, match="rounds"):
        KernelsConfig(rounds=0)


def test_without_kernels_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    from nybble.ops.native import Availability

    monkeypatch.setattr(kernels, "available", lambda: Availability(False, "no compiler"))
    with pytest.raises(UserError, match="no compiler"):
        measure_kernels(KernelsConfig())
