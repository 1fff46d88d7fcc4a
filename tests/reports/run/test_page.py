"""The page as text: escaped, alone, a sentence at the head of every section, of bounded size."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.reports.run import folders

from nybble.errors import UserError
from nybble.reports.run import make_report, write_report

MOST_BYTES = 5_000_000


class Tags(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def evil_run(folder: Path, **changes: Any) -> Path:
    names = (folders.EVIL, "b")
    lines = folders.watch_lines(names)
    lines.append(json.dumps(folders.alarm(30, folders.EVIL)))
    return folders.make(
        folder,
        watch=lines,
        layers=[folders.layer(name) for name in names],
        status="failed",
        error=folders.EVIL,
        warnings=[folders.EVIL],
        alarms=[folders.alarm(30, folders.EVIL)],
        data={"name": folders.EVIL, "train": 1, "test": 1, "sha256": folders.EVIL},
        machine={"cpu": folders.EVIL, "threads": 1},
        settings={"model": folders.EVIL},
        **changes,
    )


def test_text_of_a_run_is_escaped_everywhere(tmp_path: Path) -> None:
    page = make_report([evil_run(tmp_path / "a")]).to_html()
    tags = parsed(page)
    assert not [tag for tag, _ in tags.found if tag == "img"]
    assert len(tags.scripts) == 2
    escaped = r"(&lt;|u003c)img src=x onerror=alert"
    assert re.search(escaped, page) and "onerror=alert" not in re.sub(escaped, "", page)
    data = json.loads(tags.scripts[0])
    assert data["runs"][0]["looks"]["layers"][0] == folders.EVIL
    assert "<" not in tags.scripts[0] and "\u2028" not in tags.scripts[0]


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    page = make_report([folders.make(tmp_path / "a")]).to_html()
    for tag, attributes in parsed(page).found:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "action", "data"):
            assert not attributes.get(name) or str(attributes[name]).startswith("#"), attributes
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", page)


def test_every_section_begins_with_a_sentence(tmp_path: Path) -> None:
    page = make_report([folders.make(tmp_path / "a")]).to_html()
    sections = re.findall(r'<section id="(\w+)"><h2>[^<]+</h2>\n<p class="lead">(.+?)</p>', page)
    assert [name for name, _ in sections] == [
        "result", "alarms", "curves", "layers", "layer", "bits", "memory", "time", "reproduce",
    ]  # fmt: skip
    assert all(len(sentence) > 60 and sentence.endswith(".") for _, sentence in sections)
    for name, _ in sections:
        assert f'<a href="#{name}">' in page


def test_bits_come_from_the_record_or_from_the_looks(tmp_path: Path) -> None:
    layers = [folders.layer("stem", wide=True), folders.layer("a"), folders.layer("b")]
    folder = folders.make(tmp_path / "a", layers=layers)
    page = make_report([folder]).to_html()
    assert "2 of 3 layers run all their multiplications in 4 bits" in page
    assert '<th scope="row">a, b</th>' in page and "native avx2" in page
    folder = folders.make(tmp_path / "b", layers=None)
    page = make_report([folder]).to_html()
    assert "4 of 4 layers" in page and "native avx2" not in page


def test_a_layer_that_is_slower_than_it_could_be_is_told(tmp_path: Path) -> None:
    slow = {**folders.layer("a"), "fallback": "groups are not there yet"}
    page = make_report([folders.make(tmp_path / "a", layers=[slow])]).to_html()
    assert "groups are not there yet" in page


def test_alarms_are_listed_and_lead_to_their_place(tmp_path: Path) -> None:
    found = [folders.alarm(30, "fc"), folders.alarm(31, "gone")]
    page = make_report([folders.make(tmp_path / "a", alarms=found)]).to_html()
    assert found[0]["text"].replace("'", "&#x27;") in page
    assert page.count('class="js go"') == 1  # of the layer that is drawn
    assert "No alarm was raised" not in page
    calm = make_report([folders.make(tmp_path / "b")]).to_html()
    assert "No alarm was raised" in calm
    blind = make_report([folders.make(tmp_path / "c", watch=[])]).to_html()
    assert "no alarm could be raised" in blind and "No alarm was raised" not in blind


def test_memory_stands_beside_the_baseline(tmp_path: Path) -> None:
    plain = folders.make(tmp_path / "p", recipe="fp32", watch=[], saved_bytes=9_000_000, layers=[])
    four = folders.make(tmp_path / "f", saved_bytes=1_500_000)
    page = make_report([four], baseline=plain).to_html()
    assert "1.5 MB (6.0x less)" in page.split('<section id="memory">')[1].split("</section>")[0]
    assert "(6.0x less)" not in make_report([four]).to_html()


@pytest.mark.slow
def test_a_large_report_is_small(large: Path, tmp_path: Path) -> None:
    assert (large / "watch.jsonl").stat().st_size > 50_000_000
    report = make_report([large])
    looks = report.content.runs[0].looks
    assert looks is not None and looks.looks == 240_000
    assert len(looks.shown) == 200 and len(looks.steps) > 80
    size = write_report(report, tmp_path / "r.html").stat().st_size
    assert 1_000_000 < size < MOST_BYTES


def test_many_watched_runs_share_the_room(tmp_path: Path) -> None:
    names = tuple(f"layer{i}" for i in range(60))
    lines = folders.watch_lines(names, steps=200, every=4)
    layers = [folders.layer(name) for name in names]
    runs = [folders.make(tmp_path / f"r{i}", seed=i, watch=lines, layers=layers) for i in range(8)]
    size = len(make_report(runs).to_html().encode())
    assert 1_000_000 < size < MOST_BYTES


def test_a_report_is_made_anew_but_nothing_else_is_overwritten(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a")
    path = write_report(make_report([folder]))
    assert path == folder / "report.html"
    first = path.read_bytes()
    assert write_report(make_report([folder])) == path and path.read_bytes() == first
    before = (folder / "result.json").read_bytes()
    with pytest.raises(UserError, match="no report of a run"):
        write_report(make_report([folder]), folder / "result.json")
    assert (folder / "result.json").read_bytes() == before
    with pytest.raises(UserError, match="a folder that exists"):
        write_report(make_report([folder]), tmp_path / "no" / "r.html")
