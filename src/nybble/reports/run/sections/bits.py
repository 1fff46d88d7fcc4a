"""What ran in how many bits: layers that were treated alike in one row, all of them below."""

from __future__ import annotations

from html import escape

from nybble.reports.run import bits as found_in
from nybble.reports.run.data import Run
from nybble.reports.run.markup import Raw, bullets, details, section, table
from nybble.reports.run.sections.content import Content

__all__ = ["bits"]

SENTENCE = (
    "A layer multiplies three times in a training step: once on the way forward (output) and twice "
    "on the way back (grad_input, grad_weight), each time two tensors. Here is in how many bits "
    "each went in: 4 is what saves time and memory; 16 or 32 means that the recipe keeps this "
    "layer precise, as most do with the first and the last."
)
_NAMES = 6
_MOST = 600
HEAD = ("layers", "type", "output", "grad_input", "grad_weight", "computed by", "why")


def bits(content: Content) -> str:
    """The section; of several runs, one part for each group, from its first run with layers."""
    parts: list[str] = []
    seen: set[str] = set()
    for run, name in zip(content.runs, content.groups.names, strict=True):
        if name in seen:
            continue
        layers, recorded = found_in.layers(run)
        if not layers:
            continue
        seen.add(name)
        if not content.one:
            parts.append(f"<h3>{escape(name)}</h3>")
        parts += _part(run, layers, recorded)
    if not parts:
        text = "No file of this run says which layers it had: it ended before the first record."
        if any(run.recipe == "fp32" for run in content.runs):
            text = "Everything ran in float32 (32 bits): the baseline converts no layer."
        parts.append(f"<p>{text}</p>")
    return section("bits", "What ran in how many bits", SENTENCE, *parts)


def _part(run: Run, layers: list[found_in.Layer], recorded: bool) -> list[str]:
    rows = [[_names(group.layers), *_cells(group.first)] for group in found_in.groups(layers)]
    notes = []
    if not recorded:
        notes.append(
            "From the looks at the layers, which see four of the six operands (-: not seen); "
            "records of this version hold all six."
        )
    falls = dict.fromkeys(layer.fallback for layer in layers if layer.fallback)
    notes += [f"Slower than it could be, on the reference backend: {why}" for why in falls]
    raised = (run.result or {}).get("raised") or {}
    if isinstance(raised, dict):
        notes += [
            f"{name} was given more bits after an alarm: {to}." for name, to in raised.items()
        ]
    notes.append("Shares of the work and bytes by layer: `nybble summary MODEL --recipe RECIPE`.")
    every = [[layer.name or "(the model)", *_cells(layer)] for layer in layers[:_MOST]]
    if len(layers) > _MOST:
        notes.append(f"The table of every layer ends after {_MOST}; result.json holds the others.")
    return [
        f"<p><b>{escape(found_in.verdict(layers))}</b></p>",
        _known(rows),
        bullets(notes),
        details("Every layer", _known(every)) if len(rows) < len(layers) else "",
    ]


def _known(rows: list[list[object]]) -> str:
    """The table without columns in which nothing is known."""
    keep = [i for i in range(len(HEAD)) if i == 0 or any(row[i] != "-" for row in rows)]
    return table([HEAD[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _names(layers: tuple[found_in.Layer, ...]) -> str:
    names = [layer.name or "(the model)" for layer in layers]
    if len(names) <= _NAMES:
        return ", ".join(names)
    return f"{len(names)} layers: {', '.join(names[:3])}, ..., {names[-1]}"


def _cells(layer: found_in.Layer) -> list[object]:
    operands = dict(layer.operands)
    if "look-up" in operands:
        operands["output"] = operands.pop("look-up")
    return [
        layer.kind or "-",
        *(Raw(_pair(operands.get(gemm))) for gemm in found_in.GEMMS),
        layer.backend or "-",
        layer.rule or "-",
    ]


def _pair(pair: tuple[tuple[str, int] | None, tuple[str, int] | None] | None) -> str:
    if pair is None or pair == (None, None):
        return "-"
    return " × ".join(_operand(operand) for operand in pair)


def _operand(operand: tuple[str, int] | None) -> str:
    if operand is None:
        return "-"
    name, count = operand
    kind = "b4" if count <= 4 else "b8" if count <= 8 else "b16"
    return f'<span class="bits {kind}" title="{count} bits">{escape(name)}</span>'
