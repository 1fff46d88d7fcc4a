"""The pages of docs/ that are made from data: results from records, recipes from the registry.

    python -m nybble.reports.docs            writes docs/results.md, docs/studies.md, docs/speed.md,
                                             docs/recipes.md, docs/hardware.md, and the README's
                                             table
    python -m nybble.reports.docs --check    changes nothing; status 1 if a page is not current

Every number on the results page comes from a file of results/, which it names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nybble.reports import (
    bench,
    claims,
    depth,
    hardware_docs,
    personal,
    speed,
    speed_page,
    study,
    table,
    watching,
)
from nybble.reports.results import kind, load_all

MADE = "<!-- Made by `python -m nybble.reports.docs`; do not edit. -->"


def results_page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/results.md: one section a record, comparisons first.

    >>> from nybble.studies import sample
    >>> "results/made-up.json" in results_page({"made-up": sample.record()})
    True
    """
    lines = [
        MADE,
        "",
        "# Results",
        "",
        "Every table is made from one recorded study in `results/`; the record holds the "
        "configuration, every run with its curve, versions, machine and commit. "
        "Differences are paired by seed and carry a 95 % interval.",
    ]
    if any(speed_page.is_speed(record) for record in records.values()):
        lines += ["", "Speed and memory have [a page of their own](speed.md)."]
    if any(kind(record) == hardware_docs.KIND for record in records.values()):
        lines += ["", "What 4-bit hardware would give has [one too](hardware.md)."]
    if any(kind(record) == "study" for record in records.values()):
        lines += ["", "So have [studies of many recipes and tasks](studies.md)."]
    own = [
        name
        for name, record in records.items()
        if not speed_page.is_speed(record) and kind(record) not in ("study", hardware_docs.KIND)
    ]
    if not own:
        lines += ["", "No study has been recorded yet."]
    order = sorted(own, key=lambda name: (kind(records[name]) != "comparison", name))
    for name in order:
        lines += ["", *_section(name, records[name])]
    return "\n".join(lines) + "\n"


def _section(name: str, record: Mapping[str, Any]) -> list[str]:
    source = f"Record: `results/{name}.json`"
    if kind(record) == "mutation":
        return ["## Mutation test", "", source, "", *_mutation(record)]
    writers: dict[str, tuple[Callable[[Mapping[str, Any]], str], str]] = {
        "comparison": (table.markdown, str(record.get("title"))),
        "bench": (bench.markdown, f"{record.get('bench')}: cost of a training step"),
        "study": (study.markdown, str(record.get("title"))),
        "depth": (depth.markdown, str(record.get("title"))),
    }
    if kind(record) not in writers:
        return [f"## {name}", "", source, "", f"A record of another kind: `{kind(record)}`."]
    write, title = writers[kind(record)]
    if record.get("bench") == personal.KIND:
        write, title = personal.markdown, personal.title(record)
    if record.get("bench") == watching.KIND:
        write, title = watching.markdown, watching.title(record)
    if speed_page.is_speed(record):
        write, title = speed.markdown, speed_page.title(record)
    return [f"## {title}", "", source, "", write(record), "", origin(record)]


def studies_page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/studies.md: one section a study.

    >>> from nybble.studies.study import sample
    >>> "results/made-up.json" in studies_page({"made-up": sample.record()})
    True
    """
    lines = [
        MADE,
        "",
        "# Studies",
        "",
        "Every table is made from one recorded study in `results/`: recipes side by side on one "
        "task, paired by seed. [How to run one, and what the columns say](studies-guide.md).",
    ]
    own = {name: record for name, record in sorted(records.items()) if kind(record) == "study"}
    if not own:
        lines += ["", "No study has been recorded yet."]
    ablation = next((name for name in claims.RECORDS if name in own), None)
    if ablation is not None:
        lines += ["", "## What holds of the paper", "", f"Record: `results/{ablation}.json`", ""]
        lines += [claims.markdown(own[ablation])]
    for name, record in own.items():
        lines += ["", *_section(name, record)]
    return "\n".join(lines) + "\n"


def _cores(machine: Mapping[str, Any]) -> str:
    """ "2 cores, AVX2": what torch's own operators use decides how fast float32 is.

    >>> _cores({"cores": 2, "instructions": "AVX2"}), _cores({"cores": 4})
    ('2 cores, AVX2', '4 cores')
    """
    return ", ".join(filter(None, [f"{machine['cores']} cores", machine.get("instructions")]))


def origin(record: Mapping[str, Any]) -> str:
    """When and where a record was made, and the command that repeats it."""
    environment = record["environment"]
    machine, versions = environment["machine"], environment["versions"]
    lines = [
        f"Made {record['created'][:10]} at commit {_commit(environment.get('commit'))} on "
        f"{machine['cpu']} ({_cores(machine)}), Python {versions['python']}, "
        f"torch {versions['torch']}{_of_runs(record)}:",
        "",
        f"    {record['command']}",
    ]
    return "\n".join(lines)


def _commit(name: object) -> str:
    """The start of a commit's name, and whether the files differed from it.

    >>> _commit("0123456789abcdef-dirty")
    '`0123456789ab` with local changes'
    """
    plain = str(name)
    clean = plain.removesuffix("-dirty")
    return f"`{clean[:12]}`" + (" with local changes" if clean != plain else "")


def _of_runs(record: Mapping[str, Any]) -> str:
    """The commits of the runs, where they are not that of the process that wrote the record."""
    listed = record.get("runs")
    runs = listed if isinstance(listed, list) else []
    commits = dict.fromkeys(
        run["origin"]["commit"] for run in runs if (run.get("origin") or {}).get("commit")
    )
    if not commits or set(commits) == {record["environment"].get("commit")}:
        return ""
    return f", its runs at {', '.join(_commit(name) for name in commits)}"


def _mutation(record: Mapping[str, Any]) -> list[str]:
    """How many small wrong changes of the code the tests notice, file by file."""
    lines = [
        f"{record['killed'] + record['timeout']} of {record['run']} small wrong changes of the "
        f"code were noticed by the tests ({100 * record['score']:.1f} %), at commit "
        f"{_commit(record['commit'])}.",
        "",
        "| file | noticed | survived |",
        "|---|---|---|",
    ]
    for file, counts in record["by_file"].items():
        noticed = counts.get("killed", 0) + counts.get("timeout", 0)
        lines.append(f"| {file} | {noticed} | {counts.get('survived', 0)} |")
    return lines


def recipes_page() -> str:
    """docs/recipes.md: the table of recipes and each of them in full."""
    from nybble.recipes import RECIPES, get_recipe
    from nybble.reports.recipes import bits, describe

    recipes = [get_recipe(name) for name in RECIPES]
    lines = [
        MADE,
        "",
        "# Recipes",
        "",
        "Bits are those of the two operands of each of a layer's three matrix products; "
        "exceptions (first and last layer, for example) are in the full text below.",
        "",
        "| recipe | output | grad_input | grad_weight | what | source |",
        "|---|---|---|---|---|---|",
    ]
    for recipe in recipes:
        cells = [f"`{recipe.name}`", *bits(recipe.spec).values(), recipe.title, recipe.source]
        lines.append("| " + " | ".join(cells) + " |")
    for recipe in recipes:
        lines += ["", f"## {recipe.name}", "", "```text", describe(recipe), "```"]
    return "\n".join(lines) + "\n"


_ACCURACY = re.compile(r"(<!-- accuracy -->\n).*?(<!-- end of accuracy -->)", re.DOTALL)
_SPEED = re.compile(r"(<!-- speed -->\n).*?(<!-- end of speed -->)", re.DOTALL)
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def with_results(text: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """`text` with every block between `<!-- results: NAME -->` and `<!-- end of results -->` made
    anew from that record, and what lies between `<!-- speed -->` and `<!-- end of speed -->`, or
    the same with `accuracy`, from all records of the kind; a record that does not exist yet leaves
    a line that says so.

    >>> print(with_results("<!-- results: x -->\\n<!-- end of results -->", {}))
    <!-- results: x -->
    (not recorded yet)
    <!-- end of results -->
    """

    def block(match: re.Match[str]) -> str:
        name = match[2]
        body = "(not recorded yet)"
        if name in records:
            lines = _section(name, records[name])
            body = "\n".join(["", f"**{lines[0].removeprefix('## ')}**", *lines[1:], ""])
        return f"{match[1]}{body}\n{match[3]}"

    compared = {name: r for name, r in records.items() if kind(r) == "comparison"}
    text = _ACCURACY.sub(lambda match: f"{match[1]}{table.summary(compared)}\n{match[2]}", text)
    text = _SPEED.sub(lambda match: f"{match[1]}{speed_page.summary(records)}\n{match[2]}", text)
    return _BLOCK.sub(block, text)


def pages(root: Path) -> dict[Path, str]:
    """Every generated page of the project at `root`: its path and its text.

    Raises:
        UserError: a file in results/ is not a record.
    """
    records = load_all(root / "results")
    made = {
        root / "docs" / "results.md": results_page(records),
        root / "docs" / "studies.md": studies_page(records),
        root / "docs" / "recipes.md": recipes_page(),
        root / "docs" / "hardware.md": hardware_docs.page(records, MADE, origin),
        root / "docs" / "speed.md": speed_page.page(records, MADE, origin),
    }
    readme = root / "README.md"
    if readme.is_file():
        made[readme] = with_results(readme.read_text(encoding="utf-8"), records)
    return made


def stale(root: Path) -> list[Path]:
    """The generated pages that are missing or differ from what would be written now."""
    return [
        path
        for path, text in pages(root).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the pages in the current folder's docs/, or check them; returns the exit status."""
    root = Path.cwd()
    old = stale(root)
    if "--check" in arguments:
        for path in old:
            print(f"{path} is not current: run python -m nybble.reports.docs", file=sys.stderr)
        return 1 if old else 0
    for path, text in pages(root).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path}{' (changed)' if path in old else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
