"""docs/hardware.md says only what its records say."""

from __future__ import annotations

from typing import Any

from nybble.hardware.claim import take_apart
from nybble.reports import hardware, hardware_docs

ENVIRONMENT = {
    "versions": {"python": "3.11", "torch": "2.13.0"},
    "machine": {"cpu": "c", "cores": 2},
    "commit": "abc1234def5678",
}


def recorded(found: dict[str, Any]) -> dict[str, Any]:
    return {
        **found,
        "created": "2026-11-26T12:00:00+00:00",
        "command": "nybble hardware claim",
        "environment": ENVIRONMENT,
    }


def origin(record: Any) -> str:
    return f"Made by {record['command']}"


def test_the_claims_numbers_are_the_records() -> None:
    record = recorded(take_apart(("alexnet",), batch=16))
    page = hardware_docs.page({"hardware-claim": record}, "<!-- made -->", origin)
    whole = next(row for row in record["rows"] if row["form"] == "recipe")
    assert f"**The whole step: {whole['step']:.2f} times as fast" in page
    assert f"does {whole['density']:.1f} times the multiply-adds" in page
    assert page.count("(not recorded yet)") == 2
    whole["step"] = 12.34
    again = hardware_docs.page({"hardware-claim": record}, "<!-- made -->", origin)
    assert "**The whole step: 12.34 times as fast" in again


def test_tables_of_claims_have_a_row_for_every_form() -> None:
    record = take_apart(("alexnet",), batch=16)
    head, rows = hardware.claim_rows(record)
    assert [row[1] for row in rows] == ["4-bit", "ends", "recipe"]
    assert all(len(row) == len(head) for row in rows)
    assert hardware.claim_markdown(record).startswith("| network | form |")
