"""Recipes in words: the list with the bits of every Gemm, and one recipe in full."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from nybble.nn.inputs import SIGNED, SKEWED, UNSIGNED, input_forms
from nybble.ops.geometry import Geometry
from nybble.ops.native.plan import why_not
from nybble.ops.spec import SAME, SLOTS, LayerSpec, Slot
from nybble.recipes import RECIPES, Recipe
from nybble.recipes.recipe import Rule
from nybble.reports.cells import column_widths

GEMMS = ("output", "grad_input", "grad_weight")
LIST_HEADER = ("recipe", *(f"{gemm} bits" for gemm in GEMMS), "backend", "source")
WIDTH = 98


def bits(spec: LayerSpec) -> dict[str, str]:
    """The bits of the two operands of every Gemm; 32 is float32.

    >>> from nybble.recipes import get_recipe
    >>> bits(get_recipe("sun2020").spec)
    {'output': '4 x 4', 'grad_input': '4 x 4', 'grad_weight': '4 x 4'}
    """
    found: dict[str, str] = {}
    for gemm in GEMMS:
        slots = [spec.slot(name) for name in SLOTS if name.rpartition("_")[0] == gemm]
        found[gemm] = " x ".join("32" if s is None else str(s.format.bits) for s in slots)
    return found


def backend(spec: LayerSpec) -> str:
    """Which of a linear layer's Gemms the native kernels take where they are built; the others run
    on the reference backend.

    >>> from nybble.recipes import get_recipe
    >>> backend(get_recipe("sun2020").spec), backend(get_recipe("fp16").spec)
    ('native', 'reference')
    """
    if not spec.quantizes:
        return "torch"
    taken = [gemm for gemm in GEMMS if why_not(spec, Geometry("linear"), gemm) is None]
    if len(taken) in (0, len(GEMMS)):
        return "native" if taken else "reference"
    return f"native: {', '.join(taken)}"


def extras(recipe: Recipe) -> list[str]:
    """What a recipe does beside its slots: how gradients are paired and sampled, phases, kernels.

    >>> from nybble.recipes import get_recipe
    >>> extras(get_recipe("luq:samples=2"))[0]
    'gradients: rounded once for both backward Gemms; grad_weight averages 2 samples'
    """
    spec, lines = recipe.spec, []
    pair = {
        "each": "",
        "shared": "both backward Gemms round with the same random bits",
        "one": "rounded once for both backward Gemms",
        "mean": "each backward Gemm runs with both operands and takes the mean",
        "random": "each backward Gemm takes one of the two operands, drawn a layer and call",
    }[spec.gradient_pair]
    samples = f"grad_weight averages {spec.samples} samples" if spec.samples > 1 else ""
    if pair or samples:
        lines.append(f"gradients: {'; '.join(filter(None, (pair, samples)))}")
    lines += _around(spec)
    if recipe.tail is not None:
        lines.append(f"tail: {recipe.tail}")
    return [*lines, f"backend: {backend(spec)}"]


def _around(spec: LayerSpec) -> list[str]:
    """What is done to a Gemm as a whole, and to the weight beside quantising it."""
    lines = []
    if spec.fold:
        lines.append(
            "fold: a scale of the weight or input that runs along a backward sum goes into the"
            " gradient before that is quantised"
        )
    if spec.control_variate:
        lines.append(
            "grad_weight: plus (sum of dy - sum of its codes) x (mean of the input), a control"
            " variate"
        )
    if spec.double:
        lines.append("backward: weights and inputs are quantised from their forward codes")
    if spec.outliers is not None:
        lines.append(
            f"outliers: inputs beyond the quantiles {1 - spec.outliers:.4g} and {spec.outliers:g}"
            " are multiplied apart, in float32"
        )
    if spec.weight_gradient is not None:
        lines.append(
            "weight gradient: times the slope of a smooth staircase (DGE,"
            f" k = {spec.weight_gradient.k:g}, at most {spec.weight_gradient.clip:g})"
        )
    if spec.hook is not None:
        lines.append(f"weights: {spec.hook.short}; nybble.hook_steps follows the optimizer's steps")
    return lines


def listing(recipes: list[Recipe]) -> str:
    """One line a recipe: its name, the bits of its three Gemms, the backend, the source."""
    table = [
        list(LIST_HEADER),
        *(
            [r.name, *bits(r.spec).values(), backend(r.spec), f"{r.title} ({r.source})"]
            for r in recipes
        ),
    ]
    widths = column_widths(table)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([*lines, "", "`nybble recipes show NAME` prints one in full."])


def describe(recipe: Recipe, name: str | None = None) -> str:
    """A recipe in full: slots, accumulator, rules, loss scale, switches with their reasons.
    name: what it is called by, where that is not its own name.

    >>> from nybble.recipes import get_recipe
    >>> print(describe(get_recipe("fp32")))
    fp32: float32 baseline
    source: IEEE 754
    <BLANKLINE>
    Every layer stays in float32: nothing is converted.
    """
    lines = [f"{recipe.name}: {recipe.title}", f"source: {recipe.source}", ""]
    if not recipe.spec.quantizes and not recipe.rules:
        lines += ["Every layer stays in float32: nothing is converted."]
        return "\n".join([*lines, *_switches(recipe, name or recipe.name)])
    lines += ["A layer, operand by operand:", *_slots(recipe.spec, None)]
    if recipe.rules:
        lines += ["", "Exceptions, the first that matches a layer decides:"]
        for rule in recipe.rules:
            lines += _rule(rule, recipe.spec)
    lines += ["", *(line for text in extras(recipe) for line in _indented(text, 0))]
    lines += [f"loss scale: {recipe.loss_scale:g}"]
    if missing := not_done(recipe.name):
        lines += ["", *_indented(f"Not done here: {missing}", 0)]
    return "\n".join([*lines, *_switches(recipe, name or recipe.name)])


def _switches(recipe: Recipe, name: str) -> list[str]:
    if not recipe.switches:
        return []
    values = dict(recipe.settings)
    lines = ["", f"Switches, written {name}:NAME=VALUE+NAME=VALUE:"]
    for switch in recipe.switches:
        value = values.get(switch.name, switch.default)
        chosen = f"default {_short(switch.default)}" if switch.default else "no default"
        if value != switch.default:
            chosen = f"set to {_short(value)}, {chosen}"
        choices = " | ".join(switch.choices) or "any text"
        lines.append(f"  {switch.name} = {choices}   ({chosen})")
        lines += _indented(switch.why, 6)
    return lines


def _short(text: str) -> str:
    return text if len(text) <= WIDTH // 2 else text[: WIDTH // 2 - 3] + "..."


def not_done(name: str) -> str:
    """What the recipe's module says that it does not do, from its docstring; empty if nothing.

    >>> not_done("hfp8")
    '16-bit weight update with stochastic rounding.'
    """
    make = RECIPES.get(name)
    text = getattr(sys.modules.get(make.__module__), "__doc__", None) if make is not None else None
    _, found, rest = (text or "").partition("Not done here: ")
    return " ".join(rest.partition("\n\n")[0].split()) if found else ""


def _slots(spec: LayerSpec, usual: LayerSpec | None) -> list[str]:
    """The slots of a spec; with `usual` given, only those in which it differs."""
    slots = {spec.slot(name) for name in SLOTS}
    if len(slots) == 1 and (only := next(iter(slots))) is not None:
        return [f"  every operand       {only.format.bits:>3} bits  {only.short}"]
    lines = []
    for name in SLOTS:
        if usual is not None and _means(spec, name) == _means(usual, name):
            continue
        gemm, _, operand = name.rpartition("_")
        slot = spec.slot(name)
        text = "fp32" if slot is None else slot.short
        note = " (the forward codes)" if getattr(spec, name) == SAME and slot is not None else ""
        width = "32" if slot is None else str(slot.format.bits)
        _, signed, skewed = _means(spec, name)
        if signed is not None and signed != slot and not note:
            text += f"; where negative {signed.short}"
        lines.append(f"  {gemm:<12}{operand:<8}{width:>3} bits  {text}{note}")
        if skewed is not None and skewed != signed and not note:
            lines.append(f"{'':<32}where mostly above zero, as behind GELU, {skewed.short}")
    if usual is None or spec.accumulator != usual.accumulator:
        full = spec.accumulator.format is None
        lines.append(f"  {'sum':<12}{'in full precision' if full else spec.accumulator}")
    return lines


def _means(spec: LayerSpec, name: str) -> tuple[Slot, Slot, Slot]:
    """What a slot does to inputs without negative values, with some, and mostly above zero."""
    forms = input_forms(spec)
    return forms[UNSIGNED].slot(name), forms[SIGNED].slot(name), forms[SKEWED].slot(name)


def _rule(rule: Rule, usual: LayerSpec) -> list[str]:
    reason = f"   ({rule.why})" if rule.why else ""
    if rule.spec is None or not rule.spec.quantizes:
        return [f"- {rule.describe()}: float32{reason}"]
    slots = _slots(rule.spec, usual)
    if rule.spec.outliers != usual.outliers:
        share = rule.spec.outliers
        slots.append(f"  {'outliers':<12}{'none' if share is None else f'{share:g}'}")
    return [f"- {rule.describe()}:{reason}", *slots]


def _indented(text: str, by: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * by, subsequent_indent=" " * by)


def as_json(recipe: Recipe) -> dict[str, Any]:
    """Everything `describe` says, as JSON values."""
    return {
        **recipe.to_dict(),
        "bits": bits(recipe.spec),
        "backend": backend(recipe.spec),
        "switches": [
            {"name": s.name, "choices": list(s.choices), "default": s.default, "why": s.why}
            for s in recipe.switches
        ],
    }
