"""The mutation tool's changes: each operator does what it says, and words are left alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import mutate
from mutants import apply, mutants


def changed(source: str) -> set[str]:
    """Every mutant of a piece of source, as source."""
    found = [ast.unparse(apply(source, mutant)) for mutant in mutants(source)]
    assert ast.unparse(ast.parse(source)) not in found, "a mutant that changes nothing"
    assert len(found) == len(set(found)), "a mutant twice"
    return set(found)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("a + b", {"a - b"}),
        ("a << b", {"a >> b"}),
        ("a % b", {"a * b"}),
        ("a < b", {"a <= b", "a >= b"}),
        ("a == b", {"a != b"}),
        ("a is not b", {"a is b"}),
        ("a in b", {"a not in b"}),
        ("a and b", {"a or b"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("a = 3", {"a = 4"}),
        ("a = True", {"a = False"}),
        ("a = 0.5", {"a = 1.0"}),
        ("a = 0.0", {"a = 1.0"}),
        ("a = 'text'", set()),
        ("a == 'text'", {"a != 'text'", "a == 'text?'"}),
        ("a = b.floor()", {"a = b.ceil()"}),
        ("a = min(b)", {"a = max(b)"}),
        ("a = f(b, c)", {"a = f(c, b)"}),
        ("a = f(b, b)", set()),
        ("a = f(*b, c)", set()),
        ("f(a)", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("a = b if c else d", {"a = b if not c else d"}),
        ("if a:\n    pass", {"if not a:\n    pass"}),
        ("def f():\n    return a", {"def f():\n    return None"}),
        ("def f():\n    return None", set()),
        ("raise E('n + 1', 2)", {"pass"}),
        ("'''docstring'''", set()),
        ("a: Literal[1] = b", set()),
        ("def f(a: Literal[1]) -> Literal[2]:\n    pass", set()),
        ("@cache(maxsize=1)\ndef f():\n    pass", set()),
        ("a = f'{b + 1}'", set()),
        ("__all__ = ['a', 1]", set()),
        ("if TYPE_CHECKING:\n    a = 1", set()),
    ],
)
def test_mutants_of(source: str, expected: set[str]) -> None:
    assert changed(source) == expected


def test_a_mutant_shows_its_line() -> None:
    source = "a = 1\nif a:\n    b = a + c\n"
    shown = [(m.line, m.before, m.after) for m in mutants(source) if m.operator == "arithmetic"]
    assert shown == [(3, "b = a + c", "b = a - c")]


def test_order_is_fixed() -> None:
    source = Path(sys.modules["mutants"].__file__).read_text(encoding="utf-8")
    first = mutants(source)
    assert first == mutants(source)
    assert len(first) > 50


def names(path: str) -> list[list[str]]:
    """The test files and folders that judge a source file, without the file's own doctests."""
    runs = mutate.tests_of(mutate.SOURCE / "nybble" / path)
    return [
        [str(Path(p).relative_to(mutate.ROOT / "tests")) for p in run if "src" not in p]
        for run in runs
    ]


def test_the_nearest_tests_judge_first_and_ops_are_judged_by_layers_too() -> None:
    assert names("quantizers/packing.py") == [["quantizers/test_packing.py"], ["quantizers"]]
    assert names("quantizers/scales/blocks.py")[0] == [
        "quantizers/test_absmax.py",
        "quantizers/test_absmax_blocks.py",
        "quantizers/test_qtensor.py",
    ]
    assert names("formats/integer.py") == [[], ["formats"]]
    assert names("ops/reference/operand.py") == [
        ["ops/test_layer_oracle.py", "ops/test_layer_slots_oracle.py", "ops/test_library.py"],
        ["ops", "nn", "recipes"],
    ]
    assert names("ops/native/__init__.py")[0] == ["ops/test_native_probe.py"]


def test_every_source_has_tests_that_exist() -> None:
    for subject in mutate.SUBJECTS:
        for path in (mutate.SOURCE / "nybble" / subject).rglob("*.py"):
            runs = mutate.tests_of(path)
            assert len(runs[-1]) > 0 and all(Path(p).exists() for run in runs for p in run)


def test_the_sample_is_repeatable() -> None:
    options = mutate.parse([])
    assert options.sample == mutate.SAMPLE and options.seed == 0 and not options.all
