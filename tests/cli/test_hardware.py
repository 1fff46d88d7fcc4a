"""nybble hardware as a user calls it: status, stdout, stderr, the page."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from nybble.cli.app import main

SHORT = "hardware estimate alexnet --batch 16"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def error_line(capsys: pytest.CaptureFixture[str], command: str) -> str:
    assert main(shlex.split(command)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nybble: error: ")
    return err


def test_estimate_prints_ratios_causes_and_writes_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(shlex.split(f"{SHORT} --recipes sun2020,hfp8")) == 0
    out, _ = capsys.readouterr()
    lines = out.splitlines()
    assert any(re.match(r"rapid-fp4 +sun2020 .*\d\.\d\dx", line) for line in lines)
    for word in (
        "utilisation",
        "normalisation",
        "grad_weight",
        "time is decided by",
        "less energy",
    ):
        assert word in out
    assert lines[-1] == "page: hardware-alexnet.html"
    page = Path("hardware-alexnet.html").read_text()
    assert page.count("<svg") == 9 and "<script" not in page and "http" not in page
    assert "A model, not a measurement" in page and "confidence" in page


def test_json_is_one_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"{SHORT} --json - --no-page")) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [e["chip"] for e in found["estimates"]] == ["rapid-fp16", "rapid-fp4"]
    assert found["estimates"][1]["against"]["speedup"] > 1
    assert not Path("hardware-alexnet.html").exists() and err == ""


def test_a_model_and_a_chip_of_the_users_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))\n"
        "    return model, torch.zeros(16, 8)\n"
    )
    from nybble.hardware.chip_file import get_chip  # the shipped file's text as a start

    assert get_chip("rapid").name == "rapid"
    from importlib import resources

    text = resources.files("nybble.hardware").joinpath("chips/rapid.toml").read_text()
    Path("own.toml").write_text(text.replace('name = "rapid"', 'name = "own"'))
    command = "hardware estimate mine:net --chip own.toml --against none --batch 16"
    assert main(shlex.split(command)) == 0
    out, _ = capsys.readouterr()
    assert "own" in out and "page: hardware-mine-net.html" in out


@pytest.mark.parametrize(
    "command, words",
    [
        ("hardware estimate resnet5", "Unknown network 'resnet5'"),
        (f"{SHORT} --chip rapd", "Unknown chip 'rapd'.*Did you mean 'rapid'"),
        (f"{SHORT} --against rapidfp16", "Did you mean 'rapid-fp16'"),
        (f"{SHORT} --recipes sun202", "sun202.*Did you mean 'sun2020'"),
        (f"{SHORT} --batch 0", "--batch must be at least 1"),
        ("hardware estimate alexnet --batch 6", "cannot be divided evenly"),
        (f"{SHORT} --bandwidth -1", "--bandwidth"),
        (f"{SHORT} --cores 0", "at least one core"),
        (f"{SHORT} --link-bits 7", "--link-bits 7"),
        (f"{SHORT} --page nowhere/x.html", "--page nowhere/x.html"),
        (f"{SHORT} --recipes ,", "--recipes"),
        ("hardware scale alexnet --over core", "Did you mean 'cores'"),
        ("hardware chips nothing", "Unknown chip"),
        ("hardware chips gone.toml", "gone.toml cannot be read"),
        ("hardware claim --networks resnet", "Unknown network"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    assert re.search(words, error_line(capsys, command))


def test_own_models_that_fail_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Raises(nn.Linear):\n"
        "    def forward(self, x):\n        return {}['gone']\n"
        "def raises(batch=4):\n    return Raises(4, 4), torch.zeros(batch, 4)\n"
        "def fixed():\n    return nn.Linear(4, 4), torch.zeros(4, 4)\n"
        "class Scale(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n        self.w = nn.Parameter(torch.ones(4))\n"
        "    def forward(self, x):\n        return x * self.w\n"
        "def plain(batch=4):\n    return Scale(), torch.zeros(batch, 4)\n"
    )
    assert "KeyError" in error_line(capsys, "hardware estimate bad:raises --batch 16")
    assert "brings an example of 4" in error_line(capsys, "hardware estimate bad:fixed --batch 64")
    assert "multiplies no matrices" in error_line(capsys, "hardware estimate bad:plain --batch 16")
    assert "measured rates" in error_line(
        capsys, "hardware scale alexnet --chip cpu-avx2 --over cores --batch 4"
    )


def test_equal_machines_and_recipes_are_equally_fast(capsys: pytest.CaptureFixture[str]) -> None:
    command = "hardware estimate alexnet --batch 16 --recipes fp16 --against rapid-fp4 --json -"
    assert main(shlex.split(f"{command} --no-page")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimates"][1]["against"]["speedup"] == 1.0


def test_every_engine_shows_its_own_peak(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("hardware chips rapid")) == 0
    out = capsys.readouterr().out
    for name, peak in (("int4", "104.9"), ("fp8", "26.2"), ("fp16", "13.1")):
        assert re.search(rf"^{name} +.* {peak}$", out, re.MULTILINE)


def test_pages_go_into_pipes_and_through_links(capsys: pytest.CaptureFixture[str]) -> None:
    Path("real.html").write_text("old")
    Path("link.html").symlink_to("real.html")
    assert main(shlex.split(f"{SHORT} --page link.html")) == 0
    assert Path("link.html").is_symlink() and "<svg" in Path("real.html").read_text()
    assert main(shlex.split(f"{SHORT} --page /dev/null")) == 0
    assert Path("/dev/null").is_char_device()
    capsys.readouterr()


def test_a_bad_chip_file_names_the_field_and_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import resources

    text = resources.files("nybble.hardware").joinpath("chips/rapid.toml").read_text()
    for old, new, words in (
        ("static_w = { value = 1.8,", "static_w = { value = -1.8,", "static_w"),
        ("static_w = { value = 1.8,", "static_w = { value = 'x',", "static_w"),
    ):
        assert old in text
        Path("bad.toml").write_text(text.replace(old, new))
        line = error_line(capsys, f"{SHORT} --chip bad.toml")
        assert "bad.toml" in line and words in line


def test_layer_names_are_escaped_in_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    Path("odd.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential()\n"
        "    model.add_module('<b>$x$', nn.Linear(8, 8))\n"
        "    return model, torch.zeros(16, 8)\n"
    )
    assert main(shlex.split("hardware estimate odd:net --batch 64")) == 0
    capsys.readouterr()
    assert "<b>" not in Path("hardware-odd-net.html").read_text()


def test_scale_claim_published_and_chips(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("hardware scale alexnet --over chips --batch 16")) == 0
    assert "link share, 4-bit gradients" in capsys.readouterr().out
    assert main(shlex.split("hardware claim --networks alexnet --batch 16 --record here")) == 0
    out, err = capsys.readouterr()
    assert "whole step" in out and "recorded in results/here.json" in err
    record = json.loads(Path("results/here.json").read_text())
    assert record["schema"] == "nybble.hardware/1"
    assert record["command"] == "nybble hardware claim --networks alexnet --batch 16"
    assert main(shlex.split("hardware chips")) == 0
    assert "gpu-blackwell" in capsys.readouterr().out
    assert main(shlex.split("hardware chips rapid")) == 0
    out = capsys.readouterr().out
    assert "104.9" in out and "published" in out and "static_w" in out


def test_a_batch_that_only_the_other_machine_cannot_divide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = error_line(capsys, "hardware estimate alexnet --chip rapid --batch 2")
    assert "4 chips of rapid-fp16" in line and "or --against none" in line
    assert main(shlex.split("hardware estimate alexnet --chip rapid --batch 2 --against none")) == 0
