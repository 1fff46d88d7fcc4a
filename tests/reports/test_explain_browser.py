"""The explain page in a browser: no error, every figure is drawn, every slider moves its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.reports import browser

from nybble.reports import explain
from nybble.reports.explain.picture import drawn_picture

pytestmark = pytest.mark.skipif(browser.PATH is None, reason=browser.WHY_NOT)

SHOTS = Path("build", "screenshots")
FIGURES = ["bits", "picture", "pixel", "rulers", "line", "gradients", "phases", "step", "race"]

# Moves every slider to another place and tells whether state and look of its figure changed.
MOVE = """(() => {
  const found = {};
  for (const name of %s) {
    const figure = document.getElementById("fig-" + name);
    const slider = document.getElementById("s-" + name);
    const look = () => [...figure.querySelectorAll("svg, dd, .stage:not([hidden]), output, .says")]
      .map((n) => n.outerHTML).join("")
      + [...figure.querySelectorAll("canvas")].map((c) => c.toDataURL()).join("");
    const before = [figure.dataset.drawn, figure.dataset.state, look()];
    slider.value = slider.value === slider.max ? slider.min : slider.max;
    slider.dispatchEvent(new Event("input"));
    const after = [figure.dataset.drawn, figure.dataset.state, look()];
    found[name] = before.map((v, i) => v !== after[i]);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = explain.collect(
        drawn_picture(), plan=explain.Plan(walk_steps=11, race_steps=20, races=1)
    )
    path = tmp_path_factory.mktemp("explain") / "explain.html"
    explain.write_page(path, found, "nybble explain")
    return path


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_clean(page: Path, width: int, dark: bool) -> None:
    name = f"explain-{width}{'-dark' if dark else ''}.png"
    result = browser.run(
        page,
        width,
        "[...document.querySelectorAll('figure')].map(f => [f.id, f.dataset.drawn])",
        screenshot=SHOTS / name,
        dark=dark,
    )
    assert result.console == () and result.requests == ()
    assert result.overflow == 0, f"{result.overflow} pixels wider than a window of {width}"
    assert [name for name, _ in result.value] == [f"fig-{name}" for name in FIGURES]
    assert all(int(drawn) >= 1 for _, drawn in result.value)
    assert 'data-ready="yes"' in result.dom
    assert result.screenshot is not None and result.screenshot.stat().st_size > 50_000


def test_every_slider_moves_its_figure(page: Path) -> None:
    result = browser.run(page, 390, MOVE % FIGURES)
    assert result.console == ()
    for name, (drawn, state, look) in result.value.items():
        assert drawn and state and look, name


def test_the_page_shows_what_the_library_computed(page: Path) -> None:
    script = """["pixel-x", "pixel-scaled", "pixel-level", "pixel-bits"]
        .map((id) => document.getElementById(id).textContent)"""
    assert browser.run(page, 390, script).value == ["0.3", "−3.5", "−4", "1100"]


@pytest.mark.parametrize(("key", "state"), [("ArrowRight", "13"), ("Home", "0"), ("End", "15")])
def test_keys_move_a_slider(page: Path, key: str, state: str) -> None:
    result = browser.run(page, 390, "document.getElementById('s-bits').focus()", keys=(key,))
    assert f'id="fig-bits" data-drawn="2" data-state="{state}"' in result.dom


def test_the_race_plays(page: Path) -> None:
    script = """(async () => {
      const figure = document.getElementById("fig-race");
      const button = document.getElementById("race-play");
      const seen = [button.textContent];
      button.click();
      seen.push(button.textContent, figure.dataset.state);
      while (button.textContent === "Stop") await new Promise((r) => setTimeout(r, 50));
      seen.push(button.textContent, figure.dataset.state);
      return seen;
    })()"""
    assert browser.run(page, 390, script).value == ["Play", "Stop", "5", "Play", "20"]


def test_parts_of_the_step_follow_each_other(page: Path) -> None:
    script = """(() => {
      const shown = () => [...document.querySelectorAll(".stage:not([hidden]) h3")]
        .map((h) => h.textContent);
      const first = shown();
      document.getElementById("step-next").click();
      return [first, shown()];
    })()"""
    first, second = browser.run(page, 390, script).value
    assert first == ["1. The inputs"] and second == ["2. The weights"]


def test_a_kept_ruler_is_another_one(page: Path) -> None:
    script = """(() => {
      const slider = document.getElementById("s-rulers");
      slider.value = slider.max;
      slider.dispatchEvent(new Event("input"));
      const before = document.getElementById("rulers-says").textContent;
      document.getElementById("rulers-old").click();
      const after = document.getElementById("rulers-says").textContent;
      document.querySelector("input[value=weights]").click();
      return [before, after, document.getElementById("fig-rulers").dataset.state];
    })()"""
    before, after, state = browser.run(page, 390, script).value
    assert before != after and state.startswith("weights")


def test_a_new_width_is_a_new_drawing(page: Path) -> None:
    widths: list[Any] = [
        browser.run(page, w, "document.querySelector('#fig-line svg').width.baseVal.value").value
        for w in (390, 1280)
    ]
    assert widths[0] < 390 < widths[1]


def test_it_prints(page: Path) -> None:
    path = SHOTS / "explain.pdf"
    result = browser.run(page, 794, media="print", screenshot=SHOTS / "explain-print.png", pdf=path)
    assert result.console == () and path.read_bytes().startswith(b"%PDF")
