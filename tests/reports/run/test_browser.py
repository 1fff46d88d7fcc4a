"""The report in a real browser: no error, every figure drawn, controls change what they name."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.reports import browser
from tests.reports.run import folders

from nybble.reports.run import make_report, write_report

pytestmark = pytest.mark.skipif(browser.PATH is None, reason=browser.WHY_NOT)

SHOTS = Path("build", "screenshots")
FIGURES = "[...document.querySelectorAll('figure')].map(f => f.dataset.drawn)"
LOOK = """(() => {
  const of = (name) => document.querySelector(`figure[data-figure="${name}"]`).innerHTML;
  const set = (id, value, event) => {
    const node = document.getElementById(id);
    node.value = value;
    node.dispatchEvent(new Event(event));
  };
  const all = () => ["heat", "bars-weight", "bars-grad_weight", "over-time"].map(of);
  const before = all(), numbers = document.getElementById("numbers").innerHTML;
  %s
  const after = all();
  return {changed: after.map((html, i) => html !== before[i]),
    numbers: document.getElementById("numbers").innerHTML !== numbers,
    table: document.getElementById("numbers").innerText,
    says: document.getElementById("step-says").textContent};
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = folders.watch_lines()
    for step, name in folders.turns(folders.LAYERS, 60, 6):
        if name == "fc":  # looks unlike the others
            lines.append(
                folders.look(step, name, "weight", underflow=0.5, histogram=[900, *[3] * 15],
                             snr_db=3.5).to_json()
            )  # fmt: skip
    lines.append(json.dumps(folders.alarm(25, "block.conv3")))
    folder = folders.make(tmp_path_factory.mktemp("page") / "a", watch=lines)
    return write_report(make_report([folder]))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("several")
    made = []
    for seed, (plain, four) in enumerate([(0.95, 0.94), (0.96, 0.95), (0.955, 0.951)]):
        made.append(folders.make(place / f"p{seed}", plain, seed=seed, recipe="fp32", watch=[],
                                 layers=[], saved_bytes=9_000_000))  # fmt: skip
        made.append(folders.make(place / f"f{seed}", four, seed=seed))
    return write_report(make_report(made), place / "report.html")


def clean(result: browser.Result, figures: int) -> None:
    assert result.console == () and result.requests == ()
    assert result.overflow == 0, f"{result.overflow} pixels wider than the window"
    assert result.value == ["true"] * figures
    assert result.screenshot is None or result.screenshot.stat().st_size > 40_000


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_run_is_drawn(page: Path, width: int, dark: bool) -> None:
    shot = SHOTS / f"report-{width}{'-dark' if dark else ''}.png"
    clean(browser.run(page, width, FIGURES, screenshot=shot, dark=dark), 11)


@pytest.mark.parametrize("width", [390, 1280])
def test_several_runs_are_drawn(several: Path, width: int) -> None:
    shot = SHOTS / f"report-several-{width}.png"
    clean(browser.run(several, width, FIGURES, screenshot=shot), 11)


def test_in_print(page: Path) -> None:
    pdf = SHOTS / "report.pdf"
    shot = SHOTS / "report-print.png"
    result = browser.run(page, 718, FIGURES, screenshot=shot, pdf=pdf, media="print", dark=True)
    clean(result, 11)
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 20_000
    hidden = "[...document.querySelectorAll('nav, .controls, details')].every(n => !n.offsetHeight)"
    assert browser.run(page, 718, hidden, media="print").value is True
    assert browser.run(page, 718, hidden).value is False


def test_the_layer_chooser_changes_the_layer(page: Path) -> None:
    found = browser.run(page, 1280, LOOK % 'set("choose-layer", 3, "change");').value
    assert found["changed"] == [True, True, True, True] and found["numbers"]
    assert "3.5 dB" in found["table"]  # of fc's weight: the packed number comes back


def test_the_slider_changes_the_step(page: Path) -> None:
    found = browser.run(page, 1280, LOOK % 'set("choose-step", 0, "input");').value
    assert found["changed"][0] and found["numbers"] and found["says"] == "steps 1 to 6"
    assert "1.67 %" in found["table"]  # underflow of step 1 of 60


def test_measure_and_operand_change_the_heat_map(page: Path) -> None:
    for change in ('set("choose-measure", "snr_db", "change");',
                   'set("choose-operand", "weight", "change");'):  # fmt: skip
        found = browser.run(page, 1280, LOOK % change).value
        assert found["changed"][0], change


def test_an_alarm_leads_to_its_layer(page: Path) -> None:
    found = browser.run(page, 1280, LOOK % 'document.querySelector("button.go").click();').value
    assert found["says"] == "steps 25 to 30" and found["changed"][0]
    chosen = "document.querySelector('button.go').click(), document.getElementById('choose-layer')"
    assert browser.run(page, 1280, f"({chosen}.value)").value == "2"


def test_the_run_chooser_changes_the_run(several: Path) -> None:
    change = 'set("choose-run", document.getElementById("choose-run").options[2].value, "change");'
    found = browser.run(several, 1280, LOOK % change).value
    assert found["changed"][0]


def test_the_keyboard_moves_through_the_heat_map(page: Path) -> None:
    focus = "document.querySelector('figure[data-figure=heat] svg').focus()"
    before = browser.run(page, 1280, focus).dom
    after = browser.run(page, 1280, focus, keys=("ArrowLeft", "ArrowLeft")).dom
    assert "steps 55 to 60</output>" in before and "steps 43 to 48</output>" in after


def test_hovering_tells_the_value(page: Path) -> None:
    script = """(() => {
      const frame = document.querySelector('figure[data-figure=heat] svg');
      frame.scrollIntoView();
      const box = frame.querySelector('image').getBoundingClientRect();
      frame.dispatchEvent(new PointerEvent('pointermove', {bubbles: true,
        clientX: box.left + 2, clientY: box.top + 2}));
      return document.querySelector('.tip').textContent;
    })()"""
    told = browser.run(page, 1280, script).value
    assert told.startswith("conv1\nsteps 1 to 6\n") and told.endswith(": 1.67 %")


def test_bars_stand_at_the_values_of_the_format(page: Path) -> None:
    script = """(() => {
      const node = document.getElementById("choose-layer");
      node.value = 3;
      node.dispatchEvent(new Event("change"));
      const rects = (name) => `figure[data-figure="bars-${name}"] rect`;
      const bars = (name) => [...document.querySelectorAll(rects(name))]
        .filter((r) => r.getAttribute("fill") === "transparent").map((r) => {
          r.dispatchEvent(new PointerEvent("pointermove"));
          return [Number(r.getAttribute("x")), document.querySelector(".tip").textContent];
        });
      return [bars("weight"), bars("grad_weight")];
    })()"""
    weight, gradient = browser.run(page, 1280, script).value
    assert [float(told.split()[1]) for _, told in weight] == list(range(-8, 8))
    zero = next(told for _, told in weight if told.startswith("value 0 "))
    # 900 of 945 numbers, within what a byte can say.
    assert zero.startswith("value 0 × scale 0.5 = 0\ncode 0: 95.") and "of the numbers" in zero
    # Powers of four at equal distances, +0 and -0 in one bar.
    assert len(gradient) == 15 and "codes 0 and 8: " in gradient[7][1]
    assert gradient[-1][1].startswith("value 32 × scale 0.5 = 16\n")
    gaps = [b[0] - a[0] for a, b in pairwise(gradient)]
    assert max(gaps) - min(gaps) < 0.01


def test_names_of_layers_are_text(tmp_path: Path) -> None:
    names = (folders.EVIL, "b")
    lines = folders.watch_lines(names)
    lines.append(json.dumps(folders.alarm(30, folders.EVIL)))
    folder = folders.make(tmp_path / "a", watch=lines, status="failed", error=folders.EVIL,
                          layers=[folders.layer(name) for name in names])  # fmt: skip
    path = write_report(make_report([folder]))
    script = """[document.images.length, document.scripts.length,
      document.getElementById("choose-layer").options[0].textContent]"""
    result = browser.run(path, 390, script)
    assert result.console == () and result.overflow == 0
    assert result.value[:2] == [0, 2]
    assert result.value[2].startswith("</script><img src=x onerror=alert(1)>")


def test_a_run_that_crashed_is_drawn(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a", status="running", epochs=0, saved_bytes=None, watch=[])
    path = write_report(make_report([folder]))
    clean(browser.run(path, 390, FIGURES, screenshot=SHOTS / "report-crashed.png"), 1)


@pytest.mark.slow
def test_a_large_report_opens_quickly(large: Path) -> None:
    path = write_report(make_report([large]))
    opened = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    # The script runs to its end before the page's load event: everything has been drawn.
    waited = f"new Promise(r => setTimeout(() => r([{opened}, {FIGURES}]), 50))"
    result = browser.run(path, 1280, waited, screenshot=SHOTS / "report-large.png")
    milliseconds, drawn = result.value
    assert result.console == () and set(drawn) == {"true"}
    # Two seconds on a machine that has nothing else to do.
    assert 0 < milliseconds < 2000 * _patience()


def _patience() -> float:
    """How much longer things take here and now: processes that want a core, of each core."""
    cores: Any = os.cpu_count() or 1
    return max(1.0, os.getloadavg()[0] / cores) * 2
