"""What holds of the paper: each of its choices against the other one, from a recorded ablation.

    difference = (recipe with the paper's choice) - (recipe with the other), paired by seed

of a perplexity the ratio in per cent, as in every study (`statistics.paired_change`). The interval
is the 95 % t interval of the mean, p that of the t test that there is no difference, corrected by
Holm over all lines of the table. A choice is called better where that p is at most 5 %: of fifty
intervals two or three have no zero in them by chance.

The choices are those of `CLAIMS`; the runs are those of study `ablation-sun2020`, the full one
where it has been recorded, else the short one. Not done: claims that need other recipes or tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nybble.reports.cells import difference
from nybble.reports.study import configured
from nybble.studies.equivalence import ALPHA, Verdict, judge
from nybble.studies.statistics import PairedDifference, paired_change, paired_difference

__all__ = ["CLAIMS", "RECORDS", "Claim", "markdown"]

RECIPE = "sun2020"
RECORDS = ("ablation-sun2020", "ablation-sun2020-quick")
"""Names of the records, the first that is there is taken."""
NEITHER = "neither"


@dataclass(frozen=True)
class Claim:
    """What is asked, and the switches (none: the recipe as it is) of the paper's choice and the
    other one."""

    question: str
    other: str
    paper: str = ""


CLAIMS = (
    Claim("two grids for the two Gemms, against even for both", "phases=even-even"),
    Claim("even for grad_input, odd for grad_weight, against the reverse", "phases=odd-even"),
    Claim("one rounding a Gemm, against the mean of both grids", "phases=average"),
    Claim("two-phase rounding, against random rounding", "factor=stochastic"),
    Claim("threshold 1.6, against 1.848", "factor=1.848"),
    Claim("base 4, against base 2", "gradients=radix2"),
    Claim(
        "base 4, against base 2, both rounded at random",
        "gradients=radix2+factor=stochastic",
        "factor=stochastic",
    ),
    Claim("base 4, against base 3", "gradients=base3"),
    Claim("base 4, against base 8", "gradients=base8"),
    Claim("base 4, against base 10", "gradients=base10"),
    Claim("four bits, against three", "gradient_bits=3"),
    Claim("four bits, against five", "gradient_bits=5"),
    Claim("a scale for each layer, against one for all", "scope=global"),
    Claim("GradScale's delayed rule, against the same at once", "gradscale=immediate"),
    Claim("GradScale's delayed rule, against the exact fit", "gradscale=fit"),
    Claim("first and last layer in FP16, against INT4", "first_last=int4"),
    Claim("first and last layer in FP16, against float32", "first_last=fp32"),
    Claim("exact sums, against FP16 in chunks", "accumulator=chunked"),
)


def markdown(record: Mapping[str, Any]) -> str:
    """A table a task, and what its columns say.

    >>> from nybble.studies.study import sample
    >>> "None of the choices" in markdown(sample.record())
    True
    """
    lines: list[str] = []
    shown: list[str] = []
    for table in record["tables"]:
        found = _rows(record, table)
        if not found:
            continue
        ratio = table["metric"]["comparison"] == "ratio"
        kind = "change (%)" if ratio else "difference"
        better = "higher" if table["metric"]["higher_is_better"] else "lower"
        lines += [
            f"### {table['task']}: {table['metric']['name']}, {better} is better",
            "",
            configured(record, table),
            "",
            f"| the paper's choice, against the other | {kind} [95 %] | p (Holm) "
            "| shown to be better |",
            "|---|---|---|---|",
        ]
        verdicts = judge([one for _, one in found], None)
        for (claim, one), verdict in zip(found, verdicts, strict=True):
            p = "-" if verdict.p_holm is None else f"{verdict.p_holm:.3f}"
            told = difference(one.to_dict(), int(table["metric"].get("digits", 2)))
            shown.append(_better(one, verdict, table))
            lines.append(f"| {claim.question} | {told} | {p} | {shown[-1]} |")
        lines.append("")
    if not lines:
        return "None of the choices is in this record."
    return "\n".join([_summary(record, shown), "", *lines, _NOTE])


def _summary(record: Mapping[str, Any], shown: Sequence[str]) -> str:
    """What the tables amount to, so that nobody takes what was not shown for a "no"."""
    seeds = sorted({len(table["seeds"]) for table in record["tables"]})
    decided = len(shown) - shown.count(NEITHER)
    return (
        f"Runs of {' or '.join(map(str, seeds))} seeds: of {len(shown)} comparisons "
        f"{decided} show one of the two choices to be better. The others show nothing, neither a "
        "difference nor that there is none; their intervals say how large it may be."
    )


_NOTE = (
    "Each line is the recipe with the paper's choice minus the recipe with the other one, all else "
    "as the recipe has it, paired by seed. p is corrected over the lines of a table, so few seeds "
    "leave it large; only where it is at most 0.05 is one of the two called better. An interval "
    "without a zero in it is no such proof: of fifty, two or three have none by chance."
)


def _rows(
    record: Mapping[str, Any], table: Mapping[str, Any]
) -> list[tuple[Claim, PairedDifference]]:
    compare = paired_change if table["metric"]["comparison"] == "ratio" else paired_difference
    values = {row["recipe"]: row["metric"]["values"] for row in table["rows"]}
    found = []
    for claim in CLAIMS:
        paper, other = (values.get(_recipe(s)) for s in (claim.paper, claim.other))
        if paper is not None and other is not None:
            found.append((claim, compare(paper, other)))
    return found


def _recipe(switches: str) -> str:
    return f"{RECIPE}:{switches}" if switches else RECIPE


def _better(found: PairedDifference, verdict: Verdict, table: Mapping[str, Any]) -> str:
    if found.mean is None or verdict.p_holm is None or verdict.p_holm > ALPHA:
        return NEITHER
    up = found.mean > 0
    return "the paper's" if up == table["metric"]["higher_is_better"] else "the other"
