"""Energy counters of the processor: sums, a wrap, and every reason why there is no number."""

from __future__ import annotations

from pathlib import Path

import pytest

from nybble.reports.speed import _energy
from nybble.studies.speed.joules import Joules, joules_of


def zone(root: Path, name: str, value: object, most: int | None = None) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{value}\n")
    if most is not None:
        (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    a, b = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 5)
    part = zone(tmp_path, "intel-rapl:0:0", 1)
    with Joules(tmp_path) as counted:
        for folder, value in ((a, 2_000_100), (b, 1_000_005), (part, 9_000_000)):
            (folder / "energy_uj").write_text(str(value))
    assert counted.joules == pytest.approx(3.0) and counted.why_not is None


def test_a_counter_that_starts_again_is_put_right(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 900_000, most=1_000_000)
    with Joules(tmp_path) as counted:
        (folder / "energy_uj").write_text("400000")
    assert counted.joules == pytest.approx(0.5)


def test_without_a_counter_no_step_is_taken(tmp_path: Path) -> None:
    steps: list[int] = []
    found = joules_of(lambda: steps.append(1), root=tmp_path)
    assert found["joules"] is None and "no energy counters" in found["why_not"]
    assert not steps


def test_joules_are_of_one_step(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 0)

    def step() -> None:
        file = folder / "energy_uj"
        file.write_text(str(int(file.read_text()) + 2_000_000))

    assert joules_of(step, steps=4, root=tmp_path) == {"joules": 2.0, "why_not": None}


@pytest.mark.parametrize("content", ["", "no number", None])
def test_a_counter_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    folder = zone(tmp_path, "intel-rapl:0", content or "")
    if content is None:
        (folder / "energy_uj").unlink()
    with Joules(tmp_path) as counted:
        pass
    assert counted.joules is None
    assert counted.why_not is not None and "intel-rapl:0 cannot be read" in counted.why_not


def test_the_report_says_joules_or_why_there_are_none() -> None:
    def record(first: object, second: object) -> dict[str, object]:
        sides = {"float32": {"energy": first}, "ours": {"energy": second}}
        return {"measurements": [{"threads": 1, **sides}]}

    known = record({"joules": 3.0, "why_not": None}, {"joules": 1.5, "why_not": None})
    assert _energy(known) == [
        "Energy of a step with 1 thread, of the whole processor: float32 3.00 J, 4-bit 1.50 J,"
        " 2.00x less."
    ]
    unknown = {"joules": None, "why_not": "nothing counts it"}
    assert _energy(record(unknown, unknown)) == ["Energy of a step: not known, nothing counts it."]
    assert _energy(record(None, None)) == []
