"""Every Python block of the README and the docs runs, top to bottom, as a reader would paste it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str]]:
    """Each ```python block of a page with the number of its first line."""
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a block saves is thrown away
    namespace: dict[str, object] = {"__name__": "__main__"}  # blocks of one page build on another
    for line, source in blocks(page.read_text(encoding="utf-8")):
        # Blank lines in front make a traceback show the page's own line numbers.
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), namespace)


def test_blocks_are_found() -> None:
    page = "a\n```python\nx = 1\n```\n```\nnot python\n```\n```python\nx = 2\ny = 3\n```\n"
    assert blocks(page) == [(3, "x = 1\n"), (9, "x = 2\ny = 3\n")]


def test_every_page_is_in_the_navigation_and_linked_from_the_readme() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)) == pages
    readme, index = (p.read_text(encoding="utf-8") for p in (PAGES[0], ROOT / "docs" / "index.md"))
    for page in pages - {"index.md"}:
        assert f"](docs/{page})" in readme, f"README.md does not link docs/{page}"
        assert f"]({page})" in index, f"docs/index.md does not link {page}"
