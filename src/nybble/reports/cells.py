"""The words and numbers of a comparison's table, once, for the terminal, HTML and Markdown.

A difference is printed with its interval; where there is none, the reason stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nybble.reports.missing import not_run
from nybble.studies.statistics import pairs_for_half_width

PRECISION = 0.5
"""Half the width, in points, of an interval that is narrow enough not to ask for more seeds."""

NONE = "-"
"""An empty cell: the quantity does not exist for this row."""


def header(record: Mapping[str, Any]) -> list[str]:
    """Column titles.

    >>> from nybble.studies import sample
    >>> header(sample.record())[:3]
    ['recipe', 'accuracy (%)', 'difference to fp32 [95 %]']
    """
    metric = record["metric"]
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    baseline = record["baseline"] or "baseline"
    return [
        "recipe",
        f"{metric['name']}{unit}",
        change_title(record),
        "step time",
        f"time to {baseline}'s {metric['name']}",
        "saved for backward",
        "runs",
    ]


def change_title(record: Mapping[str, Any]) -> str:
    """What the column of differences holds: differences, or per cent of the baseline.

    >>> from nybble.studies import sample
    >>> change_title(sample.record(metric={"name": "perplexity", "comparison": "ratio"}))
    'change to fp32 (%) [95 %]'
    """
    baseline = record["baseline"] or "baseline"
    return (
        f"change to {baseline} (%) [95 %]"
        if by_ratio(record)
        else (f"difference to {baseline} [95 %]")
    )


def by_ratio(record: Mapping[str, Any]) -> bool:
    """Whether recipes are compared by the ratio of their metrics, in per cent of the baseline."""
    return bool(record["metric"].get("comparison") == "ratio")


def cells(record: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """The cells of one row, in the order of `header`.

    >>> from nybble.studies import sample
    >>> record = sample.record()
    >>> cells(record, record["rows"][2])[:3]
    ['sun2020:factor=1.848 (1)', '91.27 ± 0.59', '-0.23 [-0.75, +0.28]']
    """
    digits = int(record["metric"].get("digits", 2))
    return [
        label(row),
        mean_sd(row["metric"], digits),
        NONE if row["baseline"] else difference(row["difference"], digits),
        step_time(row.get("step_time"), bool(row["baseline"])),
        reached(row["time_to_baseline"]),
        saved(row, record),
        runs(row),
    ]


def label(row: Mapping[str, Any]) -> str:
    """The recipe, with a mark when it was chosen on other seeds."""
    return f"{row['recipe']} (1)" if row.get("selected") else str(row["recipe"])


def mean_sd(metric: Mapping[str, Any], digits: int) -> str:
    """Mean ± sd, and how many runs it is the mean of when that is not all of them.

    >>> mean_sd({"n": 3, "mean": 91.5, "sd": 0.5, "given": 3}, 2)
    '91.50 ± 0.50'
    >>> mean_sd({"n": 1, "mean": 91.5, "sd": None, "given": 3}, 2)
    '91.50 (1 of 3 runs)'
    """
    if metric["mean"] is None:
        return "no result"
    text = fixed(metric["mean"], digits)
    if metric["sd"] is not None:
        text += f" ± {fixed(metric['sd'], digits)}"
    if metric["n"] < metric["given"]:
        text += f" ({metric['n']} of {metric['given']} runs)"
    elif metric["n"] == 1:
        text += " (1 run)"
    return text


_ENDS = ("low", "high")


def fixed(value: float, digits: int, sign: str = "") -> str:
    """A number with so many digits; one that no table could hold, in short. sign: "+" for both.

    >>> fixed(1.0, 2), fixed(-3e20, 2), fixed(1.0, 1, "+")
    ('1.00', '-3e+20', '+1.0')
    """
    return f"{value:{sign}.{digits}f}" if abs(value) < 1e9 else f"{value:{sign}.0e}"


def difference(found: Mapping[str, Any] | None, digits: int) -> str:
    """The paired difference with its t interval; without an interval no difference is shown.

    >>> difference({"n": 1, "mean": -1.0, "t_interval": None}, 2)
    'n/a: one pair has no interval'
    """
    if found is None or found["mean"] is None:
        return "n/a: no pair of finished runs"
    interval = found["t_interval"]
    if interval is None:
        return "n/a: one pair has no interval"
    mean, low, high = (fixed(v, digits, "+") for v in (found["mean"], *map(interval.get, _ENDS)))
    text = f"{mean} [{low}, {high}]"
    return text + (f" ({found['n']} pairs)" if found.get("dropped") else "")


def step_time(found: Mapping[str, Any] | None, baseline: bool = False) -> str:
    """The ratio of wall times to the baseline's; for the baseline itself, its milliseconds.

    >>> step_time(None)
    'not measured'
    """
    wall = found["wall"] if found else None
    if not found or not wall or wall["median"] is None:
        return "not measured"
    return f"1 ({found['wall_ms']:.1f} ms)" if baseline else ratio(wall)


def ratio(found: Mapping[str, Any]) -> str:
    """A median ratio with its interval, or with its extremes below six pairs.

    >>> ratio({"median": 1.5, "interval": {"low": 1.45, "high": 1.56}})
    '1.50x [1.45, 1.56]'
    >>> ratio({"n": 3, "median": 1.5, "min": 1.4, "max": 1.7, "interval": None})
    '1.50x (1.40 to 1.70)'
    """
    interval = found["interval"]
    if interval:
        return f"{found['median']:.2f}x [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"{found['median']:.2f}x ({found['min']:.2f} to {found['max']:.2f})"


def reached(found: Mapping[str, Any] | None) -> str:
    """When the baseline's final metric was reached, and by how many of the seeds.

    >>> reached({"reached": 2, "of": 3, "median_seconds": 75.0})
    '1 min 15 s (2 of 3)'
    >>> reached({"reached": 0, "of": 3, "median_seconds": None})
    'not reached (0 of 3)'
    """
    if found is None or found["of"] == 0:
        return "n/a"
    count = f"({found['reached']} of {found['of']})"
    if found["median_seconds"] is None:
        return f"not reached {count}"
    return f"{duration(found['median_seconds'])} {count}"


def saved(row: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Bytes saved for backward, and how they compare with the baseline's.

    >>> saved({"saved_bytes": 2_000_000, "baseline": False}, {"rows": []})
    '2.0 MB'
    """
    count = row["saved_bytes"]
    if count is None:
        return "not measured"
    text = size(count)
    reference = next((r["saved_bytes"] for r in record["rows"] if r["baseline"]), None)
    if reference and count and not row["baseline"]:
        text += f" ({share(count, reference)})"
    return text


def share(count: int, reference: int) -> str:
    """How `count` compares with `reference`, in words.

    >>> share(2, 12), share(109, 100), share(100, 100)
    ('6.0x less', '9 % more', 'as much')
    """
    if reference >= 1.5 * count:
        return f"{reference / count:.1f}x less"
    percent = round(100 * (count / reference - 1))
    return "as much" if not percent else f"{abs(percent)} % {'more' if percent > 0 else 'less'}"


def runs(row: Mapping[str, Any]) -> str:
    """How many runs finished, and what is wrong with the others and with any layer.

    >>> runs({"finished": 2, "runs": 3, "problems": ["seed 1 failed"], "missing": [],
    ...     "dead_layers": ["conv1"]})
    '2 of 3, 1 dead layer'
    """
    text = str(row["finished"])
    if row["finished"] != row["runs"]:
        text += f" of {row['runs']}"
    if row["dead_layers"]:
        dead = len(row["dead_layers"])
        text += f", {dead} dead layer{'s' if dead > 1 else ''}"
    return text


def notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the table: how it was measured, what failed, what is dead.

    >>> from nybble.studies import sample
    >>> print("\\n".join(notes(sample.record())[-2:]))
    sun2020: seed 2 failed: loss is NaN <at> step 7.
    sun2020: layers without any gradient: layer2.conv1.
    """
    metric, seeds = record["metric"], record["seeds"]
    found = [
        f"{metric['name'].capitalize()} at the end of training, mean ± standard deviation over "
        f"{_count(len(seeds), 'seed')} ({', '.join(map(str, seeds))})."
    ]
    if not metric.get("higher_is_better", True):
        found.append(f"Lower {metric['name']} is better.")
    if record["baseline"] and by_ratio(record):
        found.append(
            f"Change to {record['baseline']}: the ratio of the two, paired by seed, as per cent "
            f"more (+) or less (-) than {record['baseline']}; geometric mean"
            + (
                " with its 95 % t interval (of the logarithms)."
                if len(seeds) > 1
                else "; one seed gives no interval."
            )
        )
    elif record["baseline"]:
        found.append(
            f"Difference to {record['baseline']}: paired by seed, with the 95 % t interval of the "
            "mean" + ("." if len(seeds) > 1 else "; one seed gives no interval.")
        )
    else:
        found.append("fp32 is not among the recipes, so there are no differences.")
    found += _precision_notes(record)
    found += _timing_notes(record)
    if record.get("selection"):
        found.append(_selection_note(record["selection"]))
    found += _extra_notes(record)
    found += origin_notes(record["runs"])
    for row in record["rows"]:
        found += [f"{row['recipe']}: {problem}." for problem in row["problems"]]
        if row["dead_layers"]:
            found.append(
                f"{row['recipe']}: layers without any gradient: {', '.join(row['dead_layers'])}."
            )
    return [*found, *(f"{line}." for line in not_run(record["rows"]))]


def _precision_notes(record: Mapping[str, Any]) -> list[str]:
    """How many seeds would narrow a wide interval; only for percent, and from three pairs on."""
    ratio = by_ratio(record)
    if record["metric"].get("unit") != "%" and not ratio:
        return []
    found = []
    for row in record["rows"]:
        pairs = row["difference"]
        if not pairs or pairs["n"] < 3 or pairs["sd"] is None:
            continue
        needed = pairs_for_half_width(pairs["sd"], PRECISION)
        if needed > pairs["n"]:
            found.append(
                f"{row['recipe']}: with this spread between seeds, about {needed} seeds would "
                f"narrow the interval to ±{PRECISION} {'%' if ratio else 'points'}."
            )
    return found


def _extra_notes(record: Mapping[str, Any]) -> list[str]:
    """The task's other numbers about the test set, a line each."""
    names = dict.fromkeys(name for row in record["rows"] for name in row.get("extras", ()))
    found = []
    for name in names:
        values = [
            f"{row['recipe']} {mean_sd(row['extras'][name], 3)}"
            for row in record["rows"]
            if name in row["extras"]
        ]
        found.append(f"{name}: {'; '.join(values)}.")
    return found


def _timing_notes(record: Mapping[str, Any]) -> list[str]:
    found = []
    if record["baseline"]:
        text = (
            f"Time to {record['baseline']}'s {record['metric']['name']}: wall time of the training "
            "steps until the first epoch that ended at least as well as the same seed's "
            f"{record['baseline']} run; the median of the seeds that got there"
        )
        jobs = record.get("jobs", 1)
        found.append(text + (f"; {jobs} runs went on at a time." if jobs > 1 else "."))
    timing = record.get("timing")
    if timing:
        how = ", ".join(dict.fromkeys(timing["backend"].values()))
        found.append(
            f"Step time: median over {timing['pairs']} pairs of steps measured in turn in one "
            f"process (batch {timing['batch_size']}, {_count(timing['threads'], 'thread')}, "
            f"backend {how}); the bracket is its 95 % interval by order statistics, or else the "
            "smallest and largest."
        )
    return found


def _selection_note(selection: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, selection["seeds"]))
    if selection["winner"] is None:
        return f"No switch setting was chosen: none finished on the seeds {seeds}."
    return (
        f"(1) Chosen among {_count(len(selection['candidates']), 'setting')} by the best mean "
        f"after {_count(selection['epochs'], 'epoch')} on other seeds ({seeds}; the test items "
        "are the same); the rows without this mark were not chosen."
    )


def origin_notes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning for every property in which the runs' origins differ."""
    found = []
    for name in ("commit", "cpu", INSTRUCTIONS, "threads", "torch"):
        told = [run["origin"].get(name) for run in runs if run.get("origin")]
        values = {"not recorded" if value is None else str(value)[:60] for value in told}
        if len(values) > 1:
            found.append(f"The runs differ in {ORIGINS[name]}: {', '.join(sorted(values))}.")
    return found


INSTRUCTIONS = "instructions"
ORIGINS = {
    "commit": "commit",
    "cpu": "cpu",
    INSTRUCTIONS: "torch's vector instructions",
    "threads": "threads",
    "torch": "torch",
}
"""What a run's origin says, in words. The instructions count: torch's float32 operators (batch
norm, the loss, float32's own products) sum in an order that follows them, so that the same seed
ends elsewhere."""


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Seconds as a person would say them.

    >>> duration(9.34), duration(75), duration(7260)
    ('9.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """A number of bytes in decimal units.

    >>> size(812), size(1_540_000), size(2_345)
    ('812 B', '1.5 MB', '2.3 kB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.95 or unit == "GB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit always returns")


def column_widths(table: Sequence[Sequence[str]]) -> list[int]:
    """The widest cell of every column.

    >>> column_widths([["a", "bcd"], ["ef", "g"]])
    [2, 3]
    """
    return [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
