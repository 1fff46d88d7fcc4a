"""Figures of the views: real files of each kind, the same bytes for the same data, one clear line
for a mistake."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nybble.errors import UserError
from nybble.reports.views import (
    check_out,
    check_width,
    draw,
    draw_gradients,
    make_figure,
    panels,
    save_figure,
)
from nybble.reports.views_plain import plain

FACTORS = [1.1, 1.6, 2.0, 3.0]


def grid(name: str, place: str, levels: list[float]) -> dict[str, Any]:
    return {
        "place": place, "quantizer": f"{name}·x", "format": name, "scale": 1.0,
        "levels": [2.0**v for v in levels], "log2_levels": levels, "shares": [0.1] * len(levels),
        "underflow": 0.25, "saturation": 0.0001, "codes_used": 9,
    }  # fmt: skip


def one_set(name: str, least: float | None) -> dict[str, Any]:
    known = least is not None
    curve = [0.4, 0.2, 0.3, 0.9] if known else [None] * 4
    return {
        "name": name, "elements": 10, "relative_error": curve, "error": curve,
        "mean_ratio": curve, "projection": curve,
        "minimum": {"relative_error": least, "error": least},
        "unbiased": {"mean_ratio": None, "projection": 1.6},
        "at_1.6": {"mean_ratio": 0.9, "projection": 1.0} if known else dict.fromkeys(
            ("mean_ratio", "projection")
        ),
    }  # fmt: skip


def conditions(names: tuple[str, ...], value: float) -> dict[str, Any]:
    return {
        c: {name: [value * (i + 1), None, value] for name in names}
        for i, c in enumerate(("float32", "even", "odd", "both"))
    }


RECEIVED = ("beta_mean", "beta_error", "beta_shrinkage", "gamma_mean", "gamma_error",
            "gamma_shrinkage")  # fmt: skip
DATA: dict[str, dict[str, Any]] = {
    "gradients": {
        "view": "gradients", "command": "nybble figures gradients", "layer": "a.conv",
        "elements": 1000, "zero": 0.5, "edges": [-9.0, -8.0, -7.0, -6.0], "shares": [0.1, 0.3, 0.1],
        "grids": [
            grid("fp4_radix4", "grad_input", [-12.0, -10.0, -8.0, -6.0]),
            grid("fp4_radix4_odd", "grad_weight", [-13.0, -11.0, -9.0, -7.0]),
            grid("int4", "beside", [-8.8, -7.8, -7.2, -6.0]),
        ],
    },
    "rounding-factor": {
        "view": "rounding-factor", "command": "nybble figures rounding-factor", "factors": FACTORS,
        "theory": {"minimum": 1.6, "unbiased": 1.848},
        "sets": [one_set("log-uniform", 1.6), one_set("gradients", 1.7), one_set("none", None)],
    },
    "batch-norm": {
        "view": "batch-norm", "command": "nybble figures batch-norm",
        "received": [{"layer": f"bn{i}", "conditions": conditions(RECEIVED, 0.1 * i)}
                     for i in range(3)],
        "passed_on": [{"layer": "bn1", "conditions": conditions(("beta", "gamma"), 0.01)}],
    },
    "gradscale": {
        "view": "gradscale", "command": "nybble figures gradscale", "log2_top": 6.0,
        "log2_loss_scale": 10.0,
        "layers": [
            {"layer": f"conv{i}", "log2_scale": [None, 3.0, 4.0], "log2_max": [None, 2.5, 2.0],
             "log2_scaled": [None, 5.5, 6.5], "moves": {"up": 1, "down": 0}} for i in range(3)
        ],
    },
}  # fmt: skip
VIEWS = list(DATA)
FIVE = copy.deepcopy(DATA["gradients"])
FIVE["grids"] += [grid("fp4_radix2", "beside", [-9.0, -8.0]), grid("fp8_e4m3", "beside", [-9.0])]


@pytest.mark.parametrize("view", VIEWS)
def test_files_of_each_kind(view: str, tmp_path: Path) -> None:
    save_figure(DATA[view], tmp_path / "a.svg", 4.0)
    root = ElementTree.fromstring((tmp_path / "a.svg").read_text())
    assert root.attrib["width"] == "288pt"  # 4 inches
    assert "<image" not in (tmp_path / "a.svg").read_text()  # lines and letters, no pixels
    save_figure(DATA[view], tmp_path / "a.pdf")
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/MediaBox [ 0 0 468 " in pdf
    assert b"Type3" not in pdf and b"FontFile2" in pdf
    save_figure(DATA[view], tmp_path / "a.PNG", 3.0)
    with Image.open(tmp_path / "a.PNG") as image:
        assert (image.format, image.width) == ("PNG", 900)
        colours = image.convert("RGB").getcolors(1 << 20)
    assert colours is not None and len(colours) > 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.PNG", "a.pdf", "a.svg"]


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_same_data_give_the_same_bytes(ending: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_figure(DATA["gradscale"], tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.parametrize("data", [*DATA.values(), FIVE], ids=[*VIEWS, "five grids"])
@pytest.mark.parametrize("width", [3.3, 6.5])
def test_no_letter_leaves_the_page_or_lies_on_another(data: dict[str, Any], width: float) -> None:
    figure = make_figure(data, width)
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    renderer = figure.canvas.get_renderer()
    boxes = []
    for axes in figure.axes:
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        shown = [t for t in axes.get_xticklabels() if left <= t.get_position()[0] <= right]
        beside = [t for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
        boxes += [(t.get_text(), t.get_window_extent(renderer)) for t in beside if t.get_text()]
        shown += beside
        words = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for text in [t for t in shown + words if t.get_text() and t.get_visible()]:
            box = text.get_window_extent(renderer)
            assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1, text.get_text()
            assert box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1, text.get_text()
        boxes += [(t.get_text(), t.get_window_extent(renderer)) for t in words if t.get_text()]
    for i, (text, box) in enumerate(boxes):
        for other, its in boxes[i + 1 :]:
            assert not box.overlaps(its), (text, other)


@pytest.mark.parametrize("view", VIEWS)
def test_axes_of_your_own(view: str) -> None:
    axes = Figure().subplots(panels(DATA[view]), 1)
    given = copy.deepcopy(DATA[view])
    draw(given, list(axes))
    assert given == DATA[view]
    for one in axes:
        assert one.lines or one.patches or one.collections
    with pytest.raises(UserError, match=f"the view {view} is drawn on {len(axes)} axes, not 1"):
        draw(DATA[view], list(axes)[:1])


def test_lines_are_where_the_levels_are() -> None:
    top, strip = Figure().subplots(2, 1)
    draw_gradients(DATA["gradients"], (top, strip))
    drawn = sorted(line.get_xdata()[0] for line in top.lines)
    assert drawn == [float(v) for v in range(-13, -5)]  # both phases, and not INT4's
    assert strip.texts[0].get_text() == "to zero 25.0 %, beyond <0.1 %"
    assert strip.get_xlabel() == "log2 |g|"


def test_a_grid_of_many_levels_does_not_hide_the_histogram() -> None:
    data = copy.deepcopy(DATA["gradients"])
    data["grids"] = [grid("int8", "both backward Gemms", [-i / 8 for i in range(64, 0, -1)])]
    top, strip = Figure().subplots(2, 1)
    draw_gradients(data, (top, strip))
    assert not top.lines and strip.collections
    assert [t.get_text() for t in strip.get_yticklabels()] == ["int8"]


def test_the_dots_are_the_minima() -> None:
    axes = Figure().subplots(1, 2)
    draw(DATA["rounding-factor"], list(axes))
    dots = [line.get_xdata()[0] for line in axes[0].lines if line.get_marker() == "o"]
    assert dots == [1.6, 1.7]


def test_none_is_a_gap_and_not_a_zero() -> None:
    axes = Figure().subplots(3, 1)
    draw(DATA["gradscale"], list(axes))
    assert math.isnan(axes[1].lines[0].get_ydata()[0])


def test_many_layers_are_named_in_part() -> None:
    data = copy.deepcopy(DATA["gradscale"])
    data["layers"] = [{**data["layers"][0], "layer": f"conv{i}"} for i in range(53)]
    figure = make_figure(data)
    assert 5 <= len(figure.legends[0].get_texts()) <= 12
    norms = copy.deepcopy(DATA["batch-norm"])
    norms["received"] = [{**norms["received"][1], "layer": f"bn{i}"} for i in range(53)]
    assert 5 <= len(make_figure(norms).axes[0].get_xticklabels()) <= 12


@pytest.mark.parametrize("view", VIEWS)
def test_words_for_a_terminal(view: str) -> None:
    lines = plain(DATA[view]).splitlines()
    assert len(lines) >= 4 and all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.jpg", "the file must end in .svg, .pdf or .png"),
        ("a.pgn", "Did you mean 'png'"),
        ("a", "the file must end in"),
        ("nowhere/a.pdf", "there is no folder nowhere; make it first"),
        ("folder.svg", "is a folder; give the name of a file"),
    ],
)
def test_what_cannot_be_written(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.svg").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        check_out(out)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0.0, 2.4, 31.0, float("nan")])
def test_a_width_without_sense(width: float) -> None:
    with pytest.raises(UserError, match="--width"):
        check_width(width)


def test_a_dict_that_is_no_view() -> None:
    with pytest.raises(UserError, match="not the data of a view: view is 'x'"):
        make_figure({"view": "x"})
