"""docs/hardware.md, made from the records of `nybble hardware claim`, `published` and `validate`.

Every number in its text is read from a record; a record that is missing leaves a line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nybble.reports import hardware

Record = Mapping[str, Any]
Origin = Callable[[Record], str]
CLAIM, PUBLISHED, VALIDATE = "hardware-claim", "hardware-published", "hardware-validate"
EXAMPLE = "resnet50"
KIND = "hardware"

_MISSING = "(not recorded yet)"


def page(records: Mapping[str, Record], made: str, origin: Origin) -> str:
    """The page as text; `made` is the line that says how it was made.

    >>> "not recorded yet" in page({}, "<!-- made -->", lambda record: "")
    True
    """
    lines = [made, "", *_INTRODUCTION]
    lines += ["", "## The claim, step by step", ""]
    lines += _section(records, CLAIM, _claim, origin)
    lines += ["", "## Against published machines", ""]
    lines += _section(records, PUBLISHED, _published, origin)
    lines += ["", "## Against this machine", ""]
    lines += _section(records, VALIDATE, _validate, origin)
    lines += ["", *_LIMITS]
    return "\n".join(lines) + "\n"


_INTRODUCTION = [
    "# What 4-bit hardware would give",
    "",
    "In 2020 the paper promised more than seven times the speed of FP16 systems, and as much less "
    "energy. No such chip ran; the figure came from the design of a multiplier array. This page "
    "derives it with the same recipe and the same networks that nybble trains, and shows where it "
    "holds. It is a model, not a measurement.",
    "",
    "    nybble hardware estimate resnet50 --chip rapid-fp4 --against rapid-fp16 \\",
    "        --recipes sun2020,hfp8 --batch 512     one network: table, and a page with figures",
    "    nybble hardware claim                      the claim, for seven networks",
    "    nybble hardware published                  the model against published machines",
    "    nybble hardware scale resnet50 --over chips",
    "    nybble hardware validate                   the model against the CPU it runs on",
    "",
    "The model is yours to use: `nybble hardware estimate module:function` takes any PyTorch model "
    "that runs on tensors without values, and `--chip file.toml` any machine. "
    "[How a cost is computed](hardware-method.md), and why its search is our own; "
    "[chip files](hardware-chips.md), each figure with its source and how sure it is.",
]

_LIMITS = [
    "## What is not in it",
    "",
    "- Area. The two machines have engines of equal area for FP16 and for FP4 x INT4. The 4-bit "
    "machine also needs engines for the layers that a recipe keeps at 8 and 16 bits; a chip of "
    "equal area would have room for more FP16. So every ratio here is an upper bound in this "
    "respect.",
    "- Overlap between operations, and of communication with the backward pass. A chip that "
    "computes one layer while it loads another is faster on both sides.",
    "- Bandwidths of the RaPiD system are assumed. The columns of the claim's table show what they "
    "decide; `--bandwidth` changes them.",
    "- Accuracy. A recipe that is fast on a chip has still to train: see [results](results.md).",
]


def _section(
    records: Mapping[str, Record], name: str, write: Callable[[Record], list[str]], origin: Origin
) -> list[str]:
    if name not in records:
        return [_MISSING]
    record = records[name]
    note = [f"- note: {record['note']}"] if record.get("note") else []
    return [f"Record: `results/{name}.json`", "", *write(record), *note, "", origin(record)]


def _row(record: Record, network: str, form: str) -> Record:
    return next(r for r in record["rows"] if (r["network"], r["form"]) == (network, form))


def _claim(record: Record) -> list[str]:
    networks = list(dict.fromkeys(row["network"] for row in record["rows"]))
    name = EXAMPLE if EXAMPLE in networks else networks[0]
    bare, ends, whole = (_row(record, name, form) for form in ("4-bit", "ends", "recipe"))
    steps = [row["step"] for row in record["rows"] if row["form"] == "recipe"]
    energies = [row["energy"] for row in record["rows"] if row["form"] == "recipe"]
    fastest = max(record["bandwidths"])
    at_most = f"{fastest:g}"
    shares = [row["main_memory_share"][0] for row in record["rows"] if row["form"] == "recipe"]
    command = f"`nybble hardware claim --networks {name}`"
    return [
        f"{name}, batch {whole['batch']} on the whole machine, as {command} prints it:",
        "",
        f"1. **Density.** The 4-bit engine does {bare['density']:.1f} times the multiply-adds of "
        f"the FP16 engine in a cycle (`nybble hardware chips {record['chip']}`). This is the "
        "claim.",
        f"2. **Every product in 4 bits, at peak: {bare['peak']:.2f}.** Nothing is lost yet.",
        f"3. **First and last layer at 16 bits: {ends['peak']:.2f}.** Few multiply-adds, but eight "
        "times as slow each.",
        f"4. **The recipe that trains: {whole['peak']:.2f}.** The paper keeps 1x1 convolutions of "
        "bottlenecks at 8 bits and has FP8 gradients in depthwise networks. The configuration with "
        "the accuracy and the configuration with the speed are not the same.",
        f"5. **Shapes and memories: {whole['gemms']:.2f}.** Arrays that do not divide the shapes, "
        "operands and results that go to main memory and back. Codes are a quarter of the bytes; "
        "results are not, they leave a product as 16-bit numbers.",
        f"6. **Quantising: {whole['quantised']:.2f}.** A scale that is found from the tensor's own "
        "moments needs it once before and once after.",
        f"7. **The whole step: {whole['step']:.2f} times as fast, {whole['energy']:.2f} times less "
        "energy.** Normalisation, activation functions, additions and the optimizer gain nothing.",
        "",
        f"Over all networks here the recipe's whole step is {min(steps):.2f} to {max(steps):.2f} "
        f"times as fast, with {min(energies):.2f} to {max(energies):.2f} times less energy. Main "
        f"memory decides {100 * min(shares):.0f} to {100 * max(shares):.0f} % of its time. With "
        f"{at_most} times the bandwidth on both machines it is "
        f"{min(r['speedup_at'][at_most] for r in record['rows'] if r['form'] == 'recipe'):.2f} to "
        f"{max(r['speedup_at'][at_most] for r in record['rows'] if r['form'] == 'recipe'):.2f} "
        "times as fast. Seven times is a property of the array, not of a training step.",
        "",
        hardware.claim_markdown(record),
    ]


def _published(record: Record) -> list[str]:
    missed = [name for name, good in record["passed"].items() if not good]
    says = "Every bound that was set before holds."
    if missed:
        says = f"Missed: {', '.join(missed)}."
    return [
        "Peaks are multiply-adds times clock, so they must come out exactly. The averages were "
        "published without the list of networks and bandwidths, so ours are stated, and bandwidths "
        f"are varied. No figure of a chip file was chosen by these outcomes. {says}",
        "",
        hardware.published_markdown(record),
    ]


def _validate(record: Record) -> list[str]:
    from nybble.reports import hardware_validate

    return [hardware_validate.markdown(record)]
