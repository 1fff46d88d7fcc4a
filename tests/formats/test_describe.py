"""`nybble formats` and docs/formats.md say what the registry says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nybble.cli import app
from nybble.formats import FORMATS, FP4_RADIX4, INT4_SYM, get_format
from nybble.formats.describe import describe, listing, markdown, page, span
from nybble.formats.exact import number

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def test_page_of_the_documentation_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == markdown(), (
        "docs/formats.md is not what the registry gives; run "
        "`python -m nybble.formats.describe > docs/formats.md`"
    )


def test_command_prints_the_codes_and_the_odd_phase_beside_them(capsys) -> None:
    assert app.main(["formats", "fp4_radix4"]) == 0
    out = capsys.readouterr().out
    assert "15 distinct values from -64 to 64" in out
    assert "fp4_radix4_odd: 15 distinct values from -32 to 32" in out
    rows = [line.split() for line in out.splitlines()]
    table = [row for row in rows if len(row) == 6 and row[0].isdigit()]
    assert [int(row[0]) for row in table] == list(range(16))
    assert [int(row[1], 2) for row in table] == list(range(16))
    assert [float(row[2]) for row in table] == list(FP4_RADIX4.values())
    assert [int(row[3]) for row in table] == list(FP4_RADIX4.integer_values())
    assert [float(row[4]) for row in table] == list(FP4_RADIX4.odd(-1).values())
    assert [float(row[5]) for row in table] == list(FP4_RADIX4.odd(+1).values())


def test_command_lists_every_format(capsys) -> None:
    assert app.main(["formats"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(FORMATS)
    assert out.strip() == listing()


def test_command_gives_json(capsys) -> None:
    assert app.main(["formats", "fp4_radix4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == describe(FP4_RADIX4)
    assert [code["value"] for code in found["codes"]] == list(FP4_RADIX4.values())
    assert list(found["phases"]) == ["fp4_radix4_odd", "fp4_radix4_odd_up"]
    assert app.main(["formats", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    assert [found["name"] for found in everything] == list(FORMATS)


def test_command_answers_an_unknown_name_in_one_line(capsys) -> None:
    assert app.main(["formats", "fp4_radx4"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "unknown format 'fp4_radx4'. Did you mean 'fp4_radix4'?" in err


def test_help_has_a_working_example(capsys) -> None:
    assert app.main(["formats", "--help"]) == 0
    assert "nybble formats fp4_radix4" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_can_be_described(name: str) -> None:
    fmt = get_format(name)
    text = page(fmt)
    assert span(fmt) in text and fmt.source in text and fmt.certainty in text
    assert all(statement in text for statement in vars(fmt.special).values())
    found = json.loads(json.dumps(describe(fmt), allow_nan=False))
    if fmt.bits > 8:
        assert "codes" not in found
        return
    assert len(found["codes"]) == 1 << fmt.bits
    back = [float(code["value"]) for code in found["codes"]]
    pairs = zip(back, fmt.values(), strict=True)
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


def test_codes_that_are_never_given_are_marked() -> None:
    assert span(INT4_SYM) == "15 distinct values from -7 to 7"
    assert "-8 (unused)" in page(INT4_SYM)


def test_numbers_read_back() -> None:
    values = [0.0, 1 / 3, 1e-20, 3.3895314e38, 0.001, -448.0, 65504.0, 1e6, 123456.0]
    for value in values:
        assert math.isclose(float(number(value)), value, rel_tol=2**-24)
    assert [number(v) for v in (2.0**-127, -(2.0**40), math.inf)] == ["2^-127", "-2^40", "inf"]
