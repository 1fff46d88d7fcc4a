"""Estimates of a machine as text and Markdown: `nybble hardware`'s tables, and sections of docs.

The records are those of `nybble.hardware`: kinds `estimate`, `claim`, `published`, `scaling`. Each
table says on which machine; ratios are of time or energy, the other machine's over this one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nybble.hardware.chip import Chip

Record = Mapping[str, Any]


def time_of(seconds: float) -> str:
    """Seconds in a unit that suits them.

    >>> time_of(0.0123), time_of(2.5e-5), time_of(31.0)
    ('12.3 ms', '25.0 us', '31.0 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds >= 100 * size else (
                f"{seconds / size:.1f} {unit}"
            )  # fmt: skip
    return f"{seconds * 1e9:.1f} ns"


def energy_of(joules: float) -> str:
    """Joules in a unit that suits them.

    >>> energy_of(0.0123)
    '12.3 mJ'
    """
    for unit, size in (("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6)):
        if joules >= size:
            return f"{joules / size:.1f} {unit}"
    return f"{joules * 1e9:.1f} nJ"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with columns of equal width.

    >>> aligned(("a", "b"), [("long", "x")])
    ['a     b', '----  -', 'long  x']
    """
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def marked(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The same as a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return lines


# ---- one network on machines --------------------------------------------------------------------


def estimate_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every recipe on the machine, and the other machine's line first."""
    head = ["chip", "recipe", "step", "speed", "Gemms", "at peak", "energy", "less energy"]
    head += ["utilisation", "TOPS", "TOPS/W"]
    rows = []
    for row in record["estimates"]:
        ratio = row.get("against") or {}
        rows.append(
            [
                row["chip"],
                row["recipe"],
                time_of(row["seconds"]),
                _times(ratio.get("speedup")),
                _times(ratio.get("gemm_speedup")),
                _times(ratio.get("ideal_speedup")),
                energy_of(row["joules"]),
                _times(ratio.get("energy_ratio")),
                f"{100 * row['utilisation']:.0f} %",
                f"{row['tops']:.3g}",
                f"{row['tops_per_watt']:.2f}",
            ]
        )
    return head, rows


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def cause_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: share of time and energy by cause, a column for each estimate."""
    estimates = record["estimates"]
    head = ["cause", *(f"{e['chip']} {e['recipe']}" for e in estimates)]
    causes = list(dict.fromkeys(cause for e in estimates for cause in e["causes"]))
    rows = []
    for cause in causes:
        cells = [cause]
        for entry in estimates:
            found = entry["causes"].get(cause)
            if found is None:
                cells.append("-")
                continue
            time = 100 * found["seconds"] / entry["seconds"]
            energy = 100 * found["joules"] / entry["joules"]
            cells.append(f"{time:.1f} % / {energy:.1f} %")
        rows.append(cells)
    return head, rows


def amount(count: float) -> str:
    """A count in words.

    >>> amount(25_557_032), amount(4810)
    ('25.6 million', '4,810')
    """
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.1f} {word}"
    return f"{count:,.0f}"


def plain_estimate(record: Record) -> str:
    """The tables of `nybble hardware estimate`."""
    first = record["estimates"][0]
    lines = [
        f"{record['network']}, batch {record['batch']}: {amount(first['parameters'])} weights, "
        f"{amount(first['machine_macs'])} multiply-adds a step in Gemms",
        "",
        *aligned(*estimate_rows(record)),
    ]
    if len(record["estimates"]) > 1 and record.get("against"):
        lines += [
            "",
            f"speed, less energy: against {record['against']} with {record['baseline']}; Gemms: of "
            "the Gemms alone; at peak: of the Gemms at the peaks of their engines.",
        ]
    lines += ["", "share of the step, time / energy:", *aligned(*cause_rows(record))]
    for entry in record["estimates"]:
        lines += ["", f"{entry['chip']}, {entry['recipe']}:", *(f"  {n}" for n in remarks(entry))]
    return "\n".join(lines)


def remarks(entry: Record) -> list[str]:
    """What decided the time, which engines ran, and what is not in the figures."""
    bounds = sorted(entry["bounds"].items(), key=lambda item: -item[1]["seconds"])
    shares = [(name, 100 * bound["seconds"] / entry["seconds"]) for name, bound in bounds]
    parts = [f"{share:.0f} % {name}" for name, share in shares if share >= 0.5]
    lines = [f"time is decided by: {', '.join(parts)}"]
    engines = sorted(entry["engines"].items(), key=lambda item: -item[1])
    lines.append(
        "multiply-adds by engine: " + ", ".join(f"{name} {100 * s:.1f} %" for name, s in engines)
    )
    if entry["float_layers"]:
        names = [f"{name or 'the model'} ({kind})" for name, kind in entry["float_layers"]]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"products that the recipe leaves in float32: {', '.join(names[:4])}{more}")
    if entry["uncovered"]:
        names = [f"{op} in {layer or 'the model'}" for op, layer, _ in entry["uncovered"]]
        lines.append(
            f"uncovered, counted as one operation an element: {', '.join(names[:6])}"
            f"{f' and {len(names) - 6} more' if len(names) > 6 else ''}: "
            f"{100 * entry['uncovered_share']:.1f} % of the time"
        )
    return [*lines, *entry["notes"]]


# ---- the claim ----------------------------------------------------------------------------------

_STEPS = (
    ("density", "density"),
    ("peak", "at peak"),
    ("gemms", "Gemms"),
    ("quantised", "with codes"),
    ("step", "whole step"),
)


def claim_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the ratio after every step, energy, and the whole step by bandwidth."""
    factors = [f"{factor:g}" for factor in record["bandwidths"]]
    head = ["network", "form", *(title for _, title in _STEPS), "energy: Gemms", "energy: step"]
    head += [f"step at {factor}x bandwidth" for factor in factors if factor != "1"]
    rows = []
    for row in record["rows"]:
        cells = [row["network"], row["form"], *(f"{row[key]:.2f}" for key, _ in _STEPS)]
        cells += [f"{row['gemm_energy']:.2f}", f"{row['energy']:.2f}"]
        cells += [f"{row['speedup_at'][factor]:.2f}" for factor in factors if factor != "1"]
        rows.append(cells)
    return head, rows


def plain_claim(record: Record) -> str:
    """The tables of `nybble hardware claim`."""
    lines = [
        f"{record['chip']} with 4 bits against {record['against']} with FP16, times as fast:",
        "",
        *aligned(*claim_rows(record)),
        "",
        *(f"- {note}" for note in claim_notes(record)),
    ]
    return "\n".join(lines)


def claim_notes(record: Record) -> list[str]:
    """What the columns are, and which machine's figures do not fit it."""
    alike = (record["chip"], record["against"]) == ("rapid-fp4", "rapid-fp16")
    area = ", of equal area" if alike else ""
    lines = [
        f"density: multiply-adds a cycle of the engines{area}; at peak: every Gemm at the "
        "peak of the engine that it runs on; Gemms: with shapes and memories; with codes: with "
        "the passes that quantise; whole step: with everything, gradients over the link included",
        "form: 4-bit has no exceptions, ends keeps the first and the last layer at 16 bits, recipe "
        "also has HFP8 for 1x1 convolutions of bottlenecks and FP8 gradients in depthwise networks",
    ]
    seen = {
        f"{row['network']}: {note}"
        for row in record["rows"]
        for note in row["notes"]
        if note.startswith("needs")
    }
    return lines + sorted(seen)


def claim_markdown(record: Record) -> str:
    """The claim as a section of the docs."""
    return "\n".join([*marked(*claim_rows(record)), "", *(f"- {n}" for n in claim_notes(record))])


# ---- published figures --------------------------------------------------------------------------


def published_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every published figure, ours, and whether it is within its bound."""
    head = ["what", "published", "model", "bound", "within"]
    rows = []
    for peak in record["peaks"]:
        rows.append(
            [
                f"peak {peak['operands']}, TOPS",
                f"{peak['published']:.1f}",
                f"{peak['model']:.1f}",
                "exact",
                _yes(record["passed"]["peaks"]),
            ]
        )
    training = record["training"]
    low, high = training["bounds"]
    for factor, mean in training["means"].items():
        values = training["tops"][factor].values()
        rows.append(
            [
                f"training HFP8, batch 512, mean TFLOPS, bandwidth x {factor}",
                f"{training['published']['average']:.0f}"
                f" ({training['published']['least']:.0f} to {training['published']['most']:.0f})",
                f"{mean:.0f} ({min(values):.0f} to {max(values):.0f})",
                f"{low:.0f} to {high:.0f}",
                _yes(training["within"][factor]),
            ]
        )
    inference = record["inference"]
    values = inference["tops_per_watt"].values()
    target = inference["published"]
    rows.append(
        [
            "inference INT4, batch 1, mean TOPS/W",
            f"{target['average']:g} ({target['least']:g} to {target['most']:g})",
            f"{inference['mean']:.2f} ({min(values):.2f} to {max(values):.2f})",
            f"{0.8 * target['average']:.1f} to {1.2 * target['average']:.1f}",
            _yes(inference["within"]),
        ]
    )
    return head, rows


def _yes(good: bool) -> str:
    return "yes" if good else "NO"


def network_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the networks of the list one by one."""
    factors = list(record["training"]["tops"])
    head = ["network", *(f"TFLOPS, bandwidth x {factor}" for factor in factors), "TOPS/W"]
    rows = [
        [
            name,
            *(f"{record['training']['tops'][factor][name]:.0f}" for factor in factors),
            f"{record['inference']['tops_per_watt'][name]:.2f}",
        ]
        for name in record["networks"]
    ]
    return head, rows


def plain_published(record: Record) -> str:
    """The tables of `nybble hardware published`."""
    return "\n".join(
        [*aligned(*published_rows(record)), "", "by network:", *aligned(*network_rows(record))]
    )


def published_markdown(record: Record) -> str:
    """The same as a section of the docs."""
    return "\n".join([*marked(*published_rows(record)), "", *marked(*network_rows(record))])


# ---- scaling, chips -----------------------------------------------------------------------------


def scaling_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one for each point."""
    over = record["over"]
    step = "step without the link" if over == "chips" else "step"
    head = [over, step, "examples/s", "utilisation", "TOPS", "energy", "TOPS/W of the chips"]
    chips = over == "chips"
    if chips:
        head += [f"link share, {bits}-bit gradients" for bits in (32, 16, 4)]
    rows = []
    for row in record["rows"]:
        cells = [
            f"{row['point']:g}",
            time_of(row["seconds"]),
            f"{row['examples_per_second']:.4g}",
            f"{100 * row['utilisation']:.0f} %",
            f"{row['tops']:.3g}",
            energy_of(row["joules"]),
            f"{row['chip_tops_per_watt']:.2f}",
        ]
        if chips:
            cells += [f"{100 * row['communication_share'][str(b)]:.1f} %" for b in (32, 16, 4)]
        rows.append(cells)
    return head, rows


def plain_scaling(record: Record) -> str:
    """The table of `nybble hardware scale`."""
    title = f"{record['network']}, {record['recipe']} on {record['chip']}, batch {record['batch']}"
    return "\n".join([f"{title}, over {record['over']}:", "", *aligned(*scaling_rows(record))])


def plain_chip(chip: Chip) -> str:
    """Every figure of a chip file with its source, and its peaks."""
    lines = [f"{chip.name}: {chip.title}", chip.about, ""]
    rows = [
        [
            engine.name,
            ", ".join(dict.fromkeys(f"{a} x {b}" for a, b in engine.operands[:3])),
            f"{chip.peak_of(engine) / 1e12:.1f}",
        ]
        for engine in chip.engines
    ]
    lines += aligned(("engine", "operands, the first of them", "peak, TOPS of the machine"), rows)
    figures = [
        [figure.where, f"{figure.value:g}", figure.confidence, figure.source]
        for figure in chip.figures()
        if figure.where
    ]
    lines += ["", *aligned(("field", "value", "confidence", "source"), figures)]
    return "\n".join(line for line in lines if line is not None)


MARKDOWN: dict[str, Callable[[Record], str]] = {
    "claim": claim_markdown,
    "published": published_markdown,
}
"""How a recorded kind is shown in the docs."""
