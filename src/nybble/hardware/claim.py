"""The claim of more than seven times the speed, taken apart step by step.

    density     multiply-adds a cycle of the 4-bit engine over the FP16 engine's, of equal area
    peak        every Gemm at the peak of the engine that its operands run on: what is left when
                some layers keep 8 or 16 bits
    Gemms       with arrays that do not divide the shapes, and with the memories
    quantised   with the passes that turn tensors into codes
    step        with everything else: normalisation, activation functions, softmax, additions,
                loss, optimizer, gradients over the link (16 bits on both)

each as a ratio of the FP16 machine's time with FP16 operands; energy likewise. Three forms of a
recipe: `4-bit` has no exceptions, `ends` keeps the first and the last layer at 16 bits, `recipe`
also has the paper's remedies for 1x1 and depthwise convolutions.

Source of the claim: Sun et al., NeurIPS 2020, abstract; of its derivation, docs/hardware.md. Not
done here: a layout of either chip; the area of engines that a chip needs for the exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from nybble.hardware.chip import Chip
from nybble.hardware.chip_file import get_chip
from nybble.hardware.comparison import Comparison, Traced, scaled
from nybble.hardware.kinds import GEMMS, QUANTISE
from nybble.hardware.networks import get_network

__all__ = ["BANDWIDTHS", "CLAIM_NETWORKS", "FORMS", "take_apart"]

CLAIM_NETWORKS: Final = (
    *("resnet18", "resnet50", "mobilenetv2", "lstm", "transformer", "bert", "decoder7b"),
)
FORMS: Final = {
    "4-bit": "sun2020:first_last=int4+one_by_one=int4+depthwise=fp4+attention=yes",
    "ends": "sun2020:one_by_one=int4+depthwise=fp4",
    "recipe": "sun2020",
}
BANDWIDTHS: Final = (0.5, 1.0, 2.0, 4.0, 16.0)
LINK_BITS: Final = 16

Progress = Callable[[str, int, int], None]


def batch_for(name: str, chip: Chip, batch: int) -> int:
    """512 for all but what is far larger than a network for images: 8 examples a chip."""
    chips = int(chip.chips.value)
    return min(batch, 8 * chips) if name == "decoder7b" else max(batch, chips)


def take_apart(
    networks: Sequence[str] = CLAIM_NETWORKS,
    chip: str = "rapid-fp4",
    against: str = "rapid-fp16",
    batch: int = 512,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Rows of network x form, JSON-able; `speedup_at` maps a factor on the bandwidth of both
    machines' main memories and links to the ratio of whole steps.

    Raises:
        UserError: an unknown network or chip.

    >>> row = take_apart(("alexnet",), batch=64)["rows"][0]
    >>> row["form"], row["density"], row["density"] >= row["peak"] > row["step"] > 1
    ('4-bit', 8.0, True)
    """
    one, other = get_chip(chip), get_chip(against)
    rows = []
    for done, name in enumerate(networks):
        progress(name, done, len(networks))
        traced = Traced(get_network(name))
        size = batch_for(name, one, batch)
        for form, recipe in FORMS.items():
            found = _compared(traced, one, other, recipe, size)
            row = _row(found, one, other)
            row["speedup_at"] = {}
            row["energy_at"] = {}
            for factor in BANDWIDTHS:
                fast = (scaled(one, bandwidth=factor), scaled(other, bandwidth=factor))
                at = found if factor == 1.0 else _compared(traced, *fast, recipe, size)
                row["speedup_at"][f"{factor:g}"] = at.speedup
                row["energy_at"][f"{factor:g}"] = at.energy_ratio
            rows.append({"network": name, "batch": size, "form": form, "recipe": recipe, **row})
    return {
        "hardware": "claim",
        "chip": chip,
        "against": against,
        "bandwidths": list(BANDWIDTHS),
        "rows": rows,
    }


def _compared(traced: Traced, one: Chip, other: Chip, recipe: str, batch: int) -> Comparison:
    return Comparison(
        traced.estimate(one, recipe, batch, LINK_BITS),
        traced.estimate(other, "fp16", batch, LINK_BITS),
    )


def _row(found: Comparison, one: Chip, other: Chip) -> dict[str, Any]:
    densest = max(engine.macs_per_cycle for engine in one.engines)
    base = max(engine.macs_per_cycle for engine in other.engines)
    with_codes = sum(
        cost.seconds for cost in found.one.costs if cost.task.cause in (*GEMMS, QUANTISE)
    )
    # Casting the masters to FP16 is the FP16 machine's own quantisation.
    before = sum(
        cost.seconds for cost in found.other.costs if cost.task.cause in (*GEMMS, QUANTISE)
    )
    return {
        "density": densest * one.cores.value / (base * other.cores.value),
        "peak": found.ideal_speedup,
        "gemms": found.gemm_speedup,
        "quantised": before / with_codes,
        "step": found.speedup,
        "gemm_energy": found.gemm_energy_ratio,
        "energy": found.energy_ratio,
        "seconds": [found.one.seconds, found.other.seconds],
        "joules": [found.one.joules, found.other.joules],
        "utilisation": [found.one.utilisation, found.other.utilisation],
        "main_memory_share": [
            side.by("bound").get(side.chip.memories[-1].name, {}).get("seconds", 0.0) / side.seconds
            for side in (found.one, found.other)
        ],
        "notes": list(dict.fromkeys((*found.one.notes, *found.other.notes))),
    }
