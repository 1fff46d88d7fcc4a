"""Chip files: shipped ones load and say where figures are from; broken ones name the field."""

from __future__ import annotations

import copy
import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.hardware.chip import CONFIDENCES, OPERANDS
from nybble.hardware.chip_file import chip_names, get_chip, parse_chip

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hardware-chips.md"
RAPIDS = ("rapid", "rapid-training", "rapid-fp16", "rapid-fp4")
SHIPPED = (*RAPIDS, "gpu-blackwell", "npu-phone")
LEFT_OUT = object()  # instead of a value: the field is deleted


def raw(name: str) -> dict[str, Any]:
    text = resources.files("nybble.hardware").joinpath("chips", f"{name}.toml")
    return tomllib.loads(text.read_text(encoding="utf-8"))


def dump(data: dict[str, Any]) -> str:
    """TOML of a chip's data: every table but the outmost is written in one line."""

    def one(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {one(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(one, value)) + "]"
        if isinstance(value, float):
            return repr(value)  # nan and inf are spelt as in Python
        return json.dumps(value)

    return "\n".join(f"{json.dumps(key)} = {one(value)}" for key, value in data.items())


def changed(data: dict[str, Any], path: tuple[str | int, ...], value: Any) -> str:
    data = copy.deepcopy(data)
    table: Any = data
    for step in path[:-1]:
        table = table[step]
    if value is LEFT_OUT:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    return dump(data)


def field(data: dict[str, Any], path: tuple[str | int, ...]) -> str:
    """How a message names it: `engine[fp8].k`."""
    named, table = "", data
    for step in path:
        table = table[step] if not isinstance(table, dict) else table.get(step)
        named += f"[{table['name']}]" if isinstance(step, int) else f".{step}" if named else step
    return named


def figures(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a file, with its place: a table that has a `value`, or a bare number."""
    if isinstance(value, dict) and isinstance(value.get("value"), dict):  # a measured row
        yield from figures(value["value"], f"{where}.value")
    elif isinstance(value, dict) and "value" not in value:
        for key, inner in value.items():
            yield from figures(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from figures(inner, f"{where}[{place}]")
    elif isinstance(value, dict) or (isinstance(value, int | float) and value not in (True, False)):
        yield where, value


# ---- shipped files -------------------------------------------------------------------------------


def test_the_shipped_chips_are_there() -> None:
    assert set(SHIPPED) <= set(chip_names())


@pytest.mark.parametrize("name", chip_names())
def test_every_figure_has_a_source_and_a_confidence(name: str) -> None:
    chip = get_chip(name)
    assert chip.name == name and chip.title
    found = dict(figures(raw(name)))
    assert len(found) > 10
    for where, figure in found.items():
        assert isinstance(figure, dict), f"{name}{where} is a bare number"
        assert figure.get("source", "").strip(), f"{name}{where} has no source"
        assert figure.get("confidence") in CONFIDENCES, f"{name}{where} has no confidence"
    # And what was read says the same; what the file leaves out is the schema's default.
    read = [figure for figure in chip.figures() if figure.source]
    assert len(read) == len(found) - ("vector_bits" in raw(name))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_figure_without_a_seen_source_is_not_called_published(name: str) -> None:
    for where, figure in figures(raw(name)):
        text = figure["source"]
        if "chosen" in text:
            assert figure["confidence"] == "assumed", where
        if "remembered" in text:
            assert figure["confidence"] in ("remembered", "assumed"), where


def test_peaks_come_out_exactly() -> None:
    rapid, system = get_chip("rapid"), get_chip("rapid-training")
    assert rapid.peak("fp16", "fp16") == 13.1072e12
    assert rapid.peak("fp8", "fp8") == 26.2144e12
    assert rapid.peak("int4", "int4") == 104.8576e12
    assert system.peak("fp8", "fp8") == 768e12
    assert get_chip("rapid-fp4").peak("fp4", "int4") == 8 * 384e12
    assert get_chip("rapid-fp16").peak("fp4", "int4") == 384e12
    gpu = get_chip("gpu-blackwell")
    for pair, peak in (("fp4_e2m1", 9e15), ("fp8", 4.5e15), ("int8", 4.5e15), ("fp16", 2.25e15)):
        assert gpu.peak(pair, pair) == pytest.approx(peak, rel=1e-5)
    phone = get_chip("npu-phone")
    assert phone.peak("int8", "int8") == 16.384e12
    assert phone.peak("int4", "int4") == 32.768e12


@pytest.mark.parametrize(
    ("kind", "published"), [("int4", 16.5), ("fp8", 3.5), ("fp16", 1.8)], ids=str
)
@pytest.mark.parametrize("name", ["rapid", "rapid-training", "rapid-fp4"])
def test_at_full_use_the_published_efficiency_comes_out(
    name: str, kind: str, published: float
) -> None:
    chip = get_chip(name)
    own = {engine.name: engine for engine in chip.engines}
    engine = own["fp4-int4" if kind == "int4" and name == "rapid-fp4" else kind]
    cores = chip.cores.value * chip.chips.value
    macs = engine.macs_per_cycle * cores * chip.clock_ghz.value * 1e9
    watts = chip.static_w.value * chip.chips.value + macs * engine.energy_pj.value * 1e-12
    assert 2 * macs / watts / 1e12 == pytest.approx(published, rel=1e-5)


def test_fp4_and_fp16_machines_differ_in_their_engines_only() -> None:
    four, sixteen, built = (get_chip(f"rapid-{n}") for n in ("fp4", "fp16", "training"))
    for name in ("clock_ghz", "cores", "chips", "static_w", "vector_bits", "per_operation_us"):
        assert getattr(four, name) == getattr(sixteen, name) == getattr(built, name)
    assert four.memories == sixteen.memories == built.memories
    assert four.vector == sixteen.vector == built.vector
    assert four.link == sixteen.link == built.link
    # Over all pairs of kinds: only FP4 x integers are faster than on the system as published.
    for pair in itertools.combinations_with_replacement(OPERANDS, 2):
        shifted = "fp4" in pair and ("int4" in pair or "int2" in pair)
        assert four.peak(*pair) == (4 if shifted else 1) * built.peak(*pair)
        assert sixteen.peak(*pair) == 384e12


@pytest.mark.parametrize("name", SHIPPED)
def test_every_pair_of_kinds_finds_an_engine(name: str) -> None:
    chip = get_chip(name)
    for left, right in itertools.product(OPERANDS, repeat=2):
        engine = chip.engine_for(left, right)
        assert engine is not None and engine is chip.engine_for(right, left)


@pytest.mark.parametrize(
    ("chip", "pair", "engine"),
    [
        ("rapid", ("fp4", "int4"), "fp8"),
        ("rapid-fp4", ("fp4", "int4"), "fp4-int4"),
        ("rapid-fp4", ("fp4", "fp4"), "fp8"),
        ("rapid", ("fp8", "table4"), "fp16"),
        ("rapid", ("fp32", "fp32"), "fp16"),
        ("gpu-blackwell", ("fp4", "int4"), "fp8"),
        ("gpu-blackwell", ("int4", "int4"), "int8"),
        ("gpu-blackwell", ("table4", "fp8"), "fp16"),
        ("gpu-blackwell", ("fp32", "int4"), "tf32"),
        ("npu-phone", ("fp4", "int4"), "fp16"),
    ],
)
def test_which_engine_takes_a_pair(chip: str, pair: tuple[str, str], engine: str) -> None:
    found = get_chip(chip).engine_for(*pair)
    assert found is not None and found.name == engine


def test_operands_that_are_decoded_into_fp8_are_exact_in_it() -> None:
    """What the comments say of INT4, powers and tables, by the formats themselves."""
    from nybble.formats import get_format

    e4m3, e5m2 = (set(get_format(name).values()) for name in ("fp8_e4m3", "fp8_e5m2"))
    for name in ("int4", "uint4", "fp4_e2m1"):
        assert set(get_format(name).values()) <= e4m3
    for name in ("fp4_radix4", "fp4_radix4_odd", "fp4_radix4_odd_up", "fp4_radix2", "log4_base8"):
        assert set(get_format(name).values()) <= e5m2
    assert 13 in e4m3 and not set(get_format("g31").values()) <= e4m3


# ---- the documentation ---------------------------------------------------------------------------


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "mine.toml"
    path.write_text(blocks[0], encoding="utf-8")
    chip = get_chip(str(path))
    assert chip.file == str(path)
    assert chip.peak("fp4", "int4") == 2 * 8 * 1024e9
    assert chip.cores.confidence == "published" and chip.clock_ghz.confidence == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_the_documentation_lists_the_shipped_figures(name: str) -> None:
    chip = get_chip(name)
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| `{name}`")]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(rows) == 1 and len(cells) == 7
    assert cells[2] in (
        f"{chip.cores.value:g} x {chip.chips.value:g}, {clock}"
        for clock in (f"{chip.clock_ghz.value:.4g}", f"{chip.clock_ghz.value:.1f}")
    )
    said = {float(number) for number in re.findall(r" (\d+(?:\.\d+)?)(?=,|$)", cells[3])}
    peaks = {chip.peak(*engine.operands[0]) for engine in chip.engines[:1]}
    peaks |= {chip.peak(kind, kind) for kind in ("fp16",)}
    for peak in peaks:
        assert any(peak / 1e12 == pytest.approx(number, rel=5e-3) for number in said), peak
    assert f"{chip.memories[-1].gb_per_s.value:g}" == cells[5].split()[0]
    assert chip.static_w.value == pytest.approx(float(cells[6].split()[0]), rel=5e-3)


# ---- broken files --------------------------------------------------------------------------------

GOOD = raw("rapid-fp4")


def test_the_good_file_of_these_tests_is_good() -> None:
    assert parse_chip(dump(GOOD), "good.toml").engines == get_chip("rapid-fp4").engines


NEEDED = [
    *((key,) for key in ("kind", "name", "title", "clock_ghz", "cores", "static_w")),
    *((key,) for key in ("engine", "memory", "vector")),
    *(("engine", i, key) for i in range(3) for key in ("name", "operands", "n", "k", "energy_pj")),
    *(("memory", i, key) for i in range(2) for key in ("name", "bytes", "gb_per_s", "pj_per_byte")),
    *(("vector", key) for key in ("per_cycle", "energy_pj")),
    *(("link", key) for key in ("gb_per_s", "latency_us", "pj_per_byte")),
    *((key, "value") for key in ("clock_ghz", "static_w", "per_operation_us")),
    ("engine", 1, "k", "value"),
]
OPTIONAL = [
    *((key,) for key in ("about", "chips", "vector_bits", "per_operation_us", "link")),
    *(("engine", 0, key) for key in ("m", "dataflows", "flattens")),
    *(("memory", 0, key) for key in ("multicast",)),
    ("clock_ghz", "source"),
    ("clock_ghz", "confidence"),
]
NUMBERS = [
    path
    for path in [*NEEDED, ("chips",), ("vector_bits",), ("per_operation_us",), ("engine", 0, "m")]
    if path[-1] not in ("value", "name", "title", "kind", "operands", "engine", "memory", "vector")
]
MAY_BE_ZERO = ("static_w", "per_operation_us", "energy_pj", "pj_per_byte", "latency_us")


def refuse(path: tuple[str | int, ...], value: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse_chip(changed(GOOD, path, value), "bad.toml")
    message = str(caught.value)
    assert message.startswith("bad.toml: ") and "\n" not in message
    return message


@given(st.sampled_from(NEEDED))
def test_a_missing_field_is_named(path: tuple[str | int, ...]) -> None:
    where = field(GOOD, path)
    if len(path) > 1 and path[-1] == "name":  # then its place stands for it
        where = f"{path[0]}[{path[1]}].name"
    assert f"the field {where} is missing" in refuse(path, LEFT_OUT)


@given(st.sampled_from(OPTIONAL))
def test_a_field_that_may_be_left_out(path: tuple[str | int, ...]) -> None:
    assert parse_chip(changed(GOOD, path, LEFT_OUT), "good.toml").name == "rapid-fp4"


@given(
    st.sampled_from(NUMBERS),
    st.sampled_from([-1, -0.5, "4", True, False, [], {}, [1], float("nan"), float("inf")])
    | st.floats(max_value=-1e-300, allow_nan=False)
    | st.sampled_from([10**400, 5e-324, 1e-16, 1.1e18]),
    st.booleans(),
)
def test_an_impossible_number_is_named(
    path: tuple[str | int, ...], value: Any, with_source: bool
) -> None:
    if with_source:
        value = {"value": value, "source": "here", "confidence": "assumed"}
    where = field(GOOD, path)
    message = refuse(path, value)
    assert f"the field {where} must be" in message or f"{where}.value is missing" in message


@given(st.sampled_from(NUMBERS), st.sampled_from([0, 0.0, -0.0]))
def test_zero_where_it_means_something(path: tuple[str | int, ...], zero: float) -> None:
    if path[-1] in MAY_BE_ZERO:
        parse_chip(changed(GOOD, path, zero), "good.toml")
    else:
        assert f"the field {field(GOOD, path)} must be more than zero" in refuse(path, zero)


@pytest.mark.parametrize(
    "path", [("cores",), ("chips",), ("vector_bits",), *(("engine", 0, x) for x in "mnk")], ids=str
)
def test_a_part_of_a_core_is_refused(path: tuple[str | int, ...]) -> None:
    assert f"{field(GOOD, path)} must be a whole number, not 1.5" in refuse(path, 1.5)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        (("clock_ghs",), "clock_ghz"),
        (("engine", 0, "energy"), "energy_pj"),
        (("memory", 1, "multi_cast"), "multicast"),
        (("vector", "percycle"), "per_cycle"),
        (("link", "latency"), "latency_us"),
        (("cores", "sauce"), "source"),
    ],
    ids=str,
)
def test_an_unknown_field_is_named_with_the_nearest(
    path: tuple[str | int, ...], nearest: str
) -> None:
    message = refuse(path, 1)
    parent = field(GOOD, path[:-1])
    assert f"the field {parent + '.' if parent else ''}{path[-1]} is unknown" in message
    assert f"Did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("engine", 0, "operands"), [["int4", "fp5"]], "'fp5'; choose of int2, int4, fp4"),
        (("engine", 0, "operands"), [["int4", "fp4_e2m"]], "Did you mean 'fp4_e2m1'?"),
        (("engine", 0, "operands"), [["int4", 4]], "has no kind 4"),
        (("engine", 0, "operands"), [["int4", ["int4"]]], "has no kind ['int4']"),
        (("engine", 0, "operands"), [["int4"]], "must be a list of pairs"),
        (("engine", 0, "operands"), [], "must be a list of pairs"),
        (("engine", 0, "operands"), "int4", "must be a list of pairs"),
        (("engine", 0, "dataflows"), ["weights"], "Did you mean 'weight'?"),
        (("engine", 0, "dataflows"), [], "must not be empty"),
        (("engine", 0, "dataflows"), "weight", "must be a list of texts"),
        (("engine", 0, "flattens"), 1, "must be true or false, not 1"),
        (("memory", 0, "shared"), "yes", "must be true or false, not 'yes'"),
        (("clock_ghz", "confidence"), "publshed", "Did you mean 'published'?"),
        (("clock_ghz", "confidence"), 1, "must be a text"),
        (("clock_ghz", "source"), 1, "must be a text"),
        (("kind",), "gpu", "must be one of accelerator, cpu, not 'gpu'"),
        (("name",), "  ", "must be a text"),
        (("title",), 3, "must be a text, not 3"),
        (("vector",), 3, "must be a table, not 3"),
        (("vector", "rates"), {"relu": 1}, "is unknown"),
        (("measured",), [{"side": "torch"}], 'is for kind = "cpu"'),
        (("link",), [], "must be a table"),
        (("engine",), [], "must be [[engine]] tables"),
        (("engine",), {"name": "one"}, "must be [[engine]] tables"),
        (("memory",), 4, "must be [[memory]] tables"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(path: tuple[str | int, ...], value: Any, says: str) -> None:
    message = refuse(path, value)
    assert f"the field {field(GOOD, path)} " in message and says in message


def test_one_memory_is_too_few() -> None:
    assert "at least two [[memory]] tables" in refuse(("memory",), GOOD["memory"][:1])


@pytest.mark.parametrize(
    "text",
    ["name = ", "[[engine]", "a = 1\na = 2", "\x00", "x = " + "9" * 5000, "x = " + "[" * 5000],
    ids=["half", "bracket", "twice", "zero-byte", "digits", "deep"],
)
def test_what_is_no_toml_is_said(text: str) -> None:
    with pytest.raises(UserError, match=r"^bad\.toml is no TOML file: "):
        parse_chip(text, "bad.toml")


def test_an_empty_file_names_the_first_missing_field() -> None:
    with pytest.raises(UserError, match=r"^bad\.toml: the field kind is missing\.$"):
        parse_chip("", "bad.toml")


# ---- asking for a chip ---------------------------------------------------------------------------


def test_an_unknown_chip_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'rapid-fp16'"):
        get_chip("rapid-fp61")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    for name in ("none.toml", "bytes.toml", "folder.toml"):
        with pytest.raises(UserError, match=f"{re.escape(name)} cannot be read"):
            get_chip(str(tmp_path / name))


def test_a_pair_without_engine_has_no_peak() -> None:
    text = changed(GOOD, ("engine",), GOOD["engine"][:1])
    chip = parse_chip(text, "few.toml")
    assert chip.engine_for("fp16", "fp16") is None
    with pytest.raises(UserError, match="no engine for fp16 x fp16; it multiplies int2 x fp4"):
        chip.peak("fp16", "fp16")


CPU = {**GOOD, "kind": "cpu"}
ROW = {"side": "native", "name": "matmul", "gemm": "output", "left": "fp4", "value": 3.5}


def test_measured_rates_of_a_cpu() -> None:
    rows = [
        {**ROW, "size": 64},
        {**ROW, "size": 256, "value": 14},
        {"side": "torch", "name": "call"},
    ]
    rows[2]["value"] = {"value": 2, "source": "a command", "confidence": "measured"}
    chip = parse_chip(dump({**CPU, "measured": rows}), "cpu.toml")
    asked = ("output", "fp4", "int4")
    assert chip.rate("native", "matmul", 128, *asked) == pytest.approx(7)  # the geometric mean
    assert chip.rate("native", "matmul", 1, *asked) == 3.5
    assert chip.rate("native", "matmul", 1e6, *asked) == 14
    assert chip.rate("native", "matmul", 64, "output", "int4", "int4") is None
    assert chip.rate("torch", "call", 5) == 2
    assert [f.confidence for f in chip.figures() if f.confidence == "measured"] == ["measured"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"side": "numpy"}, ".side must be one of torch, native"),
        ({"gemm": "outptu"}, "Did you mean 'output'?"),
        ({"right": "int5"}, ".right must be one of"),
        ({"value": 0}, ".value must be more than zero"),
        ({"size": -3}, ".size must be more than zero"),
        ({"sise": 3}, "Did you mean 'size'?"),
        ({"name": ""}, ".name must be a text"),
    ],
    ids=str,
)
def test_a_wrong_measured_rate_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        parse_chip(dump({**CPU, "measured": [{**ROW, **change}]}), "cpu.toml")
    assert str(caught.value).startswith("cpu.toml: the field measured[")
