"""The page is complete, escaped, well-formed, and asks nothing of any other place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.reports import figures
from nybble.reports.cells import cells, notes
from nybble.reports.html import page, write_page
from nybble.studies import sample
from nybble.studies.outcome import Outcome

RECORD = sample.record()
PAGE = page(RECORD)
VOID = {"meta", "br", "link", "img", "input", "hr"}
LOADS = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}


class Reader(HTMLParser):
    """Collects texts, ids and everything that could load something; checks nesting."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in LOADS:
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def reader() -> Reader:
    found = Reader()
    found.feed(PAGE)
    found.close()
    return found


def test_page_is_well_formed(reader: Reader) -> None:
    assert reader.open == []
    assert reader.tags.count("svg") == 4


def test_page_loads_nothing(reader: Reader) -> None:
    assert all(value.startswith("#") for value in reader.loads)
    assert not {"script", "link", "iframe", "img", "object"} & set(reader.tags)
    assert not re.search(r"https?://|//\w+\.|@import|url\((?!#)", PAGE)


def test_references_inside_the_page_exist(reader: Reader) -> None:
    wanted = {value[1:] for value in reader.loads} | set(re.findall(r"url\(#([^)]+)\)", PAGE))
    assert wanted and wanted <= set(reader.ids)


def test_identifiers_of_figures_do_not_collide(reader: Reader) -> None:
    assert len(reader.ids) == len(set(reader.ids))


def test_page_says_everything_the_table_says(reader: Reader) -> None:
    texts = set(reader.texts)
    for row in RECORD["rows"]:
        for cell in cells(RECORD, row):
            assert cell in texts
    for note in notes(RECORD):
        assert note in texts


def test_page_says_how_to_repeat_it_and_where_it_ran(reader: Reader) -> None:
    for wanted in (RECORD["command"], "Some <CPU> & more", "2.13.0", "abc1234", "fashion-mnist"):
        assert wanted in reader.texts


def test_failed_runs_are_on_the_page(reader: Reader) -> None:
    assert "failed: loss is NaN <at> step 7" in reader.texts
    assert "<at>" not in PAGE


def test_the_choice_on_other_seeds_is_on_the_page(reader: Reader) -> None:
    assert f"{sample.BEST} (chosen)" in reader.texts
    assert "84.50, 85.50" in reader.texts
    assert "How the marked row was chosen" not in page(sample.record(selection=None))


def test_page_is_the_same_every_time() -> None:
    assert page(RECORD) == PAGE


def test_curves_show_every_recipe_and_every_seed(reader: Reader) -> None:
    svg = figures.metric_curves(RECORD)
    for recipe in RECORD["recipes"]:
        assert recipe in svg
    black = re.findall(r"stroke: #000000; stroke-opacity: 0.35", svg)
    assert len(black) == 3


def test_mean_curve_leaves_out_the_runs_that_stopped_early() -> None:
    whole, short = ([1.0, 2.0], [10.0, 20.0]), ([1.0], [0.0])
    assert figures._mean_curve([whole, short]) == whole
    assert figures._mean_curve([whole, ([3.0, 4.0], [30.0, 40.0])]) == ([2.0, 3.0], [20.0, 30.0])
    assert figures._mean_curve([]) == ([], [])


def test_a_comparison_in_which_everything_failed_still_has_a_page() -> None:
    runs = [Outcome(recipe, 0, "failed", "x", reason="boom") for recipe in ("fp32", "sun2020")]
    text = page(
        sample.record(
            outcomes=runs, recipes=["fp32", "sun2020"], seeds=[0], selection=None, timing=None
        )
    )
    assert "failed: boom" in text and "no result" in text


def test_one_seed_one_epoch() -> None:
    runs = [
        Outcome(recipe, 0, "complete", "x", 50.0, curve=sample.curve(50.0, 1))
        for recipe in ("fp32", "sun2020")
    ]
    record = sample.record(outcomes=runs, recipes=["fp32", "sun2020"], seeds=[0], selection=None)
    assert "n/a: one pair has no interval" in page(record)


def test_page_is_written_whole_or_not(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", RECORD)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == PAGE
    with pytest.raises(UserError, match="could not be written"):
        write_page(tmp_path / "none" / "report.html", RECORD)
