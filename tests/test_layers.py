"""A folder of src/nybble imports only from the ones before it: the arrows go one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nybble

PACKAGE = Path(nybble.__file__).parent
# Earlier may not import later; names on one line are one layer.
LAYERS = (
    {"errors", "version", "_core", "products", "own"},
    {"formats"},
    {"quantizers"},
    {"ops", "numeric", "convolutions"},
    {"nn"},
    {"recipes"},
    {"phases", "convert", "summary", "summary_table", "serialize"},
    {"watching"},
    {"training"},
    {"studies"},
    {"hardware"},
    {"reports"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def subject(parts: tuple[str, ...]) -> str:
    """The layer's name of a path inside the package: the folder, or the module at its top."""
    return parts[0].removesuffix(".py")


def imported_modules(tree: ast.Module, package: tuple[str, ...]) -> set[str]:
    """Full names of every module that `tree` imports, at the top or inside a function.

    Imports for type checkers only are counted too: a layer that cannot be described without a
    later one is not below it.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def wrong_way(path: Path, source: str) -> list[str]:
    """The imports in `source`, standing at `path`, that go up the list of layers."""
    parts = path.relative_to(PACKAGE).parts
    if parts == ("__init__.py",) or subject(parts) == "cli":
        return []  # the public face and the program join the layers
    mine = RANK[subject(parts)]
    package = ("nybble", *parts[:-1])
    targets = {
        name.split(".")[1]
        for name in imported_modules(ast.parse(source), package)
        if name.startswith("nybble.")
    }
    # `from nybble import quantize` goes through the public face, which comes after every layer.
    return sorted(t for t in targets if RANK.get(t, len(LAYERS)) > mine)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    bad = wrong_way(path, path.read_text(encoding="utf-8"))
    assert not bad, f"{path.relative_to(PACKAGE)} imports from {bad}, which come after it"


@pytest.mark.parametrize(
    "where, source, bad",
    [
        ("formats/x.py", "from nybble.quantizers import packing", ["quantizers"]),
        ("formats/x.py", "def f():\n    import nybble.cli.app", ["cli"]),
        ("formats/sub/x.py", "from ...training import loop", ["training"]),
        ("formats/x.py", "from .. import nn", ["nn"]),
        ("quantizers/x.py", "from ..formats import base\nfrom . import y", []),
        ("cli/x.py", "import nybble.formats, torch", []),
        ("ops/x.py", "from nybble import convert, quantize", ["convert", "quantize"]),
    ],
)
def test_the_check_sees_every_form_of_import(where: str, source: str, bad: list[str]) -> None:
    assert wrong_way(PACKAGE / where, source) == bad


def test_every_folder_has_its_place() -> None:
    names = {subject(p.relative_to(PACKAGE).parts) for p in SOURCES} - {"__init__"}
    assert names <= set(RANK), f"give {sorted(names - set(RANK))} a place in LAYERS"
