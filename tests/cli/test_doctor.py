"""`nybble doctor`: its self-tests find what is broken, and its report says what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nybble.cli import app
from nybble.formats import INT4
from nybble.ops import native
from nybble.reports import doctor, selftest


def outcome(name: str) -> selftest.SelfTest:
    return next(test for test in selftest.run_self_tests() if test.name == name)


def test_everything_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text
    assert text.count("  ok ") == len(selftest.CHECKS)
    for word in ("features", "backend", "threads", "disk", "torch 2.", "native"):
        assert word in text


def test_json_is_the_same_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert [test["name"] for test in found["selftests"]] == list(selftest.CHECKS)
    assert found["backend"]["isa"] == native.probe().isa
    assert found["packages"]["mlxtend"] is not None
    assert found["disk"]["free"] > 0


def test_a_failed_self_test_is_status_1(monkeypatch, capsys) -> None:
    def fails() -> str:
        raise selftest.SelfTestError("two and two are five")

    monkeypatch.setitem(selftest.CHECKS, "sums", fails)
    assert app.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "FAIL sums" in text
    assert "two and two are five" in text
    assert "1 self-tests failed" in text
    assert app.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def half_up(x: torch.Tensor) -> torch.Tensor:
    return torch.floor(x + 0.5)


def wrong_sum(x: torch.Tensor) -> torch.Tensor:
    return x.sum() + torch.get_num_threads()


def always_up(x, rounding=None, random=None):
    return INT4.decode(INT4.encode(x.ceil()))


def identity(codes, *_args):
    return codes


BREAKS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "arithmetic": (selftest.np, "sqrt", lambda x: x * x),
    "formats": (type(INT4), "encode", lambda self, x, *_: torch.zeros_like(x, dtype=torch.uint8)),
    "radix-4 rounding": (type(selftest.FP4_RADIX4), "round", lambda self, x, *_: x),
    "packing": (selftest, "pack4", lambda codes: codes[:256] * 0),
    "random bits": (selftest, "random24", lambda shape, key: torch.zeros(shape)),
    "stochastic rounding": (
        selftest,
        "random24",
        lambda shape, key: torch.full(shape, key.seed % 5, dtype=torch.int32),
    ),
    "sums": (selftest, "tree_sum", wrong_sum),
    "gemm": (selftest.gemm, "output", lambda a, b, *_, **__: a @ b.t() + 1),
}


def test_every_self_test_is_broken_below() -> None:
    assert set(BREAKS) == set(selftest.CHECKS)


@pytest.mark.parametrize("name", BREAKS)
def test_a_self_test_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, broken = BREAKS[name]
    monkeypatch.setattr(owner, attribute, broken)
    found = outcome(name)
    assert not found.ok
    assert found.detail.startswith("SelfTestError"), found


def test_a_biased_seed_zero_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = selftest.random24

    def weak(shape, key):
        return real(shape, key) * (key.seed != 0)  # a zero seed that defeats stochastic rounding

    monkeypatch.setattr(selftest, "random24", weak)
    assert "INT4, seed 0" in outcome("stochastic rounding").detail.replace("int4", "INT4")


def test_compiled_kernels_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        @staticmethod
        def isas() -> tuple[str, ...]:
            return ("avx2",)

        @staticmethod
        def unpack4(packed: bytes, isa: str) -> bytes:
            return bytes(2 * len(packed))

    monkeypatch.setattr(native, "core", lambda: (Core, ""))
    assert "compiled unpack4 (avx2)" in outcome("packing").detail


def test_without_the_compiled_module(monkeypatch, capsys) -> None:
    monkeypatch.setattr(native, "core", lambda: (None, "no C++ compiler was found"))
    assert app.main(["doctor"]) == 0
    assert "native: no: no C++ compiler was found" in capsys.readouterr().out


def test_a_missing_package_says_how_to_get_it(monkeypatch, capsys) -> None:
    monkeypatch.setitem(doctor.OPTIONAL, "no-such-package", ("tasks", "nothing"))
    assert app.main(["doctor"]) == 0
    hint = "not installed: pip install -e '.[tasks]' in nybble's folder (nothing)"
    assert hint in capsys.readouterr().out
    assert doctor.facts(Path("."))["packages"]["no-such-package"] is None
