"""The tables of energies per operation, and the arithmetic of a multiply-add that follows."""

from __future__ import annotations

import itertools

import pytest

from nybble.errors import UserError
from nybble.hardware.chip import CONFIDENCES
from nybble.hardware.chip_file import get_chip
from nybble.hardware.energy import fp16_over_fp4, get_node, mac, node_names

INTEGERS = ("int2", "int4", "table4", "int8")
PAIRS = [
    *itertools.product(INTEGERS, repeat=2),
    *(("fp4", kind) for kind in INTEGERS),
    ("fp16", "fp16"),
    ("fp32", "fp32"),
]


@pytest.mark.parametrize("node", node_names())
def test_every_entry_has_a_source_and_is_no_more_than_its_upper_end(node: str) -> None:
    table = get_node(node)
    assert len(table.operations) >= 12
    for name, entry in table.operations.items():
        assert 0 < entry.pj <= entry.middle_pj <= entry.most_pj, name
        assert entry.source and entry.confidence in CONFIDENCES, name


def test_the_tables() -> None:
    old, new = (get_node(n).operations for n in ("45nm", "7nm"))
    widths = ("int8", "int32", "fp16", "fp32")
    both = [f"{width}_{operation}" for operation in ("add", "mul") for width in widths]
    assert [old[n].pj for n in both] == [0.03, 0.1, 0.4, 0.9, 0.2, 3.1, 1.1, 3.7]
    assert [new[n].pj for n in both] == [0.007, 0.03, 0.16, 0.38, 0.07, 1.48, 0.34, 1.31]
    assert [old[n].pj for n in ("sram_8kb", "sram_32kb", "sram_1mb")] == [10, 20, 100]
    assert [new[n].pj for n in ("sram_8kb", "sram_32kb", "sram_1mb")] == [7.5, 8.5, 14]
    assert (old["ddr"].pj, old["ddr"].most_pj) == (1300, 2600)
    assert (new["hbm2"].pj, new["hbm2"].most_pj) == (250, 450)
    assert (new["gddr6"].pj, new["gddr6"].most_pj) == (350, 480)
    for name in both:  # nothing became dearer
        assert new[name].pj < old[name].pj


@pytest.mark.parametrize(
    ("left", "right", "old", "new"),
    [
        ("int8", "int8", 0.3, 0.1),
        ("int4", "int4", 0.15, 0.0475),
        ("int4", "int8", 0.2, 0.065),
        ("table4", "int4", 0.2, 0.065),
        ("int2", "int2", 0.1125, 0.034375),
        ("fp4", "int4", 0.2, 0.06),
        ("fp16", "fp16", 2.0, 0.72),
        ("fp32", "fp32", 4.6, 1.69),
    ],
)
def test_a_multiply_add(left: str, right: str, old: float, new: float) -> None:
    assert mac(left, right, "45nm").pj == pytest.approx(old)
    assert mac(left, right, "7nm").pj == pytest.approx(new)


@pytest.mark.parametrize("node", node_names())
def test_order_does_not_matter_and_wider_is_dearer(node: str) -> None:
    for left, right in PAIRS:
        one = mac(left, right, node)
        assert one.parts == mac(right, left, node).parts
        assert one.pj == sum(one.parts.values()) > 0
    costs = [mac(kind, kind, node).pj for kind in ("int2", "int4", "int8", "fp16", "fp32")]
    assert costs == sorted(costs)


def test_no_multiplier_in_fp4() -> None:
    assert set(mac("fp4", "int4", "7nm").parts) == {"shift", "add"}
    assert fp16_over_fp4("45nm") == pytest.approx(10.0)
    assert fp16_over_fp4("7nm") == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (("fp4", "fp4"), "fp4 x fp4"),
        (("fp16", "int4"), "fp16 x int4"),
        (("fp4", "fp16"), "fp4 x fp16"),
        (("fp16", "fp32"), "fp16 x fp32"),
        (("fp8", "fp8"), "'fp8'"),
        (("int44", "int4"), r"'int44'.*Did you mean 'int4'\?"),
        (("int4", ""), "''"),
    ],
)
def test_a_pair_without_energy(pair: tuple[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        mac(*pair, "7nm")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'7mn'.*Did you mean '7nm'\?"):
        get_node("7mn")
    with pytest.raises(UserError, match="No energy table for '5 nanometres'"):
        mac("int4", "int4", "5 nanometres")
    with pytest.raises(UserError, match=r"7nm .*'int8_mull'.*Did you mean 'int8_mul'\?"):
        get_node("7nm").energy("int8_mull")
    with pytest.raises(UserError, match="45nm table has no operation 'bf16_add'"):
        get_node("45nm").energy("bf16_add")
    with pytest.raises(UserError, match=r"no memory 'hbm'.*Did you mean 'hbm2'\?"):
        get_node("7nm").pj_per_byte("hbm")
    with pytest.raises(UserError, match="no memory 'int8_mul'"):
        get_node("7nm").pj_per_byte("int8_mul")


def test_what_the_chip_files_take_from_the_tables() -> None:
    """Their comments quote these; a changed table would leave them behind."""
    new = get_node("7nm")
    phone, rapid, gpu = (get_chip(name) for name in ("npu-phone", "rapid", "gpu-blackwell"))
    for engine, kind in zip(phone.engines, ("int4", "int8", "fp16"), strict=True):
        assert engine.energy_pj.value == pytest.approx(2 * mac(kind, kind, "7nm").pj)
    assert phone.memories[0].pj_per_byte.value == new.pj_per_byte("sram_1mb")
    for chip in (rapid, gpu):
        assert chip.memories[-1].pj_per_byte.value == new.pj_per_byte("hbm2")
    arithmetic = (new.energy("fp16_add").pj + new.energy("fp16_mul").pj) / 2
    assert phone.vector.energy_pj.value == pytest.approx(2 * arithmetic)
    assert rapid.vector.energy_pj.value == pytest.approx(
        2 * arithmetic + new.pj_per_byte("sram_1mb")
    )
    # All that a chip takes is more than its arithmetic.
    for engine in rapid.engines:
        kind = {"fp8": "int8"}.get(engine.name, engine.name)
        assert engine.energy_pj.value > mac(kind, kind, "7nm").pj
