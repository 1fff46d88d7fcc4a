"""`nybble hardware`: what a chip would need for a training step, by a model that can be checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nybble.cli.shared.output import JsonOption, NoteOption, RecordOption
from nybble.errors import UserError

if TYPE_CHECKING:
    from nybble.hardware.chip import Chip
    from nybble.hardware.cost import Estimate

command = typer.Typer(
    no_args_is_help=True, help="Model the speed and energy of training on a chip."
)

NetworkArgument = Annotated[
    str,
    typer.Argument(
        help="resnet18, resnet50, mobilenetv2, alexnet, vgg16, lstm, bilstm, transformer, bert,"
        " decoder7b; cpu:NAME of `nybble bench step`; or your own as module:function, which returns"
        " a model, (model, example input) or (model, example input, loss)."
    ),
]
ChipOption = Annotated[str, typer.Option(help="A chip (`nybble hardware chips`), or a file.toml.")]
BatchOption = Annotated[
    int | None,
    typer.Option(help="Examples a step of the whole machine; the network's own if not given."),
]


@command.callback()
def _group() -> None:
    """Model the speed and energy of training on a chip."""


@command.command("estimate")
def estimate_command(
    model: NetworkArgument,
    chip: ChipOption = "rapid-fp4",
    against: Annotated[
        str | None, typer.Option(help="The chip that it is compared with; none: no comparison.")
    ] = "rapid-fp16",
    recipes: Annotated[
        str, typer.Option(help="Recipes on the chip, as in sun2020,hfp8:NAME=VALUE.")
    ] = "sun2020",
    baseline: Annotated[str, typer.Option(help="The recipe of the other chip.")] = "fp16",
    batch: BatchOption = None,
    size: Annotated[int, typer.Option(help="Pixels of an image's side, of your own model.")] = 32,
    channels: Annotated[int, typer.Option(help="Channels of an image, of your own model.")] = 3,
    bandwidth: Annotated[
        float, typer.Option(help="Times the main memory's and the link's bandwidth.")
    ] = 1.0,
    cores: Annotated[int | None, typer.Option(help="Cores of a chip, in place of its own.")] = None,
    link_bits: Annotated[
        int, typer.Option(help="Bits of a gradient between the chips of either machine; 0: none.")
    ] = 16,
    page: Annotated[
        str | None, typer.Option(help="The HTML page; hardware-MODEL.html if not given.")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Write no page.")] = False,
    json: JsonOption = None,
) -> None:
    """Time and energy of a training step, by layer, Gemm and cause, and the page with its figures.

    Example: nybble hardware estimate resnet50 --chip rapid-fp4 --against rapid-fp16 --recipes sun2020,hfp8 --batch 512
    """  # noqa: E501
    from nybble.cli.shared.output import bar, check, finish
    from nybble.hardware.chip_file import get_chip
    from nybble.hardware.comparison import Comparison, Traced, scaled
    from nybble.hardware.networks import get_network
    from nybble.reports.hardware import plain_estimate
    from nybble.reports.hardware_page import write_page

    check(json, None)
    machine = _changed(get_chip(chip), bandwidth, cores)
    other = None if against in (None, "none", "") else get_chip(str(against))
    if other is not None:
        other = scaled(other, bandwidth=bandwidth) if bandwidth != 1.0 else other
    network = get_network(model, size, channels)
    traced = Traced(network)
    count = _batch(batch, network.batch, machine, other)
    names = [name for name in recipes.split(",") if name]
    if not names:
        raise UserError("--recipes: give at least one recipe, as in sun2020,hfp8.")
    target = None if no_page else _page_path(page, model)
    if link_bits not in (0, 4, 8, 16, 32):
        raise UserError(f"--link-bits {link_bits}: choose 0, 4, 8, 16 or 32.")
    entries: list[dict[str, Any]] = []
    with bar("estimating") as advance:
        base: Estimate | None = None
        if other is not None:
            advance(f"{other.name}, {baseline}", 0, len(names) + 1)
            base = traced.estimate(other, baseline, count, link_bits)
            entries.append(_entry(base))
        for done, name in enumerate(names):
            advance(f"{machine.name}, {name}", done + 1, len(names) + 1)
            found = traced.estimate(machine, name, count, link_bits)
            entry = _entry(found)
            if base is not None:
                entry["against"] = Comparison(found, base).ratios()
            entries.append(entry)
    record = {
        "hardware": "estimate",
        "network": model,
        "batch": count,
        "chip": machine.name,
        "against": None if other is None else other.name,
        "baseline": baseline,
        "command": _command_line(),
        "estimates": entries,
        "chips": [_machine(one) for one in dict.fromkeys((other, machine)) if one is not None],
    }
    finish(record, plain_estimate, json, None)
    if target is not None:
        write_page(target, record)
        typer.echo(f"page: {target}", err=json is not None)


@command.command("claim")
def claim_command(
    networks: Annotated[
        str | None,
        typer.Option(help="As in resnet50,bert; the seven of docs/hardware.md if not given."),
    ] = None,
    chip: ChipOption = "rapid-fp4",
    against: Annotated[str, typer.Option(help="The FP16 machine.")] = "rapid-fp16",
    batch: Annotated[int, typer.Option(help="Examples a step of the whole machine.")] = 512,
    json: JsonOption = None,
    record: RecordOption = None,
    note: NoteOption = None,
) -> None:
    """Take the claim of more than seven times the speed apart, step by step.

    Example: nybble hardware claim --networks resnet18,resnet50 --batch 512
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.hardware.claim import CLAIM_NETWORKS, take_apart
    from nybble.hardware.networks import check_network
    from nybble.reports.hardware import plain_claim

    check(json, record)
    names = CLAIM_NETWORKS if networks is None else tuple(n for n in networks.split(",") if n)
    if not names:
        raise UserError("--networks: give at least one network, as in resnet50,bert.")
    for name in names:
        check_network(name)
    with bar("networks") as advance:
        found = take_apart(names, chip, against, batch, advance)
    given = {"networks": networks, "chip": chip, "against": against, "batch": batch}
    default = {"networks": None, "chip": "rapid-fp4", "against": "rapid-fp16", "batch": 512}
    finish(_recorded("claim", found, given, default), plain_claim, json, record, note)


@command.command("published")
def published_command(
    json: JsonOption = None, record: RecordOption = None, note: NoteOption = None
) -> None:
    """The model beside what was published of machines that exist.

    Example: nybble hardware published
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.hardware.published import check_published
    from nybble.reports.hardware import plain_published

    check(json, record)
    with bar("networks") as advance:
        found = check_published(advance)
    finish(_recorded("published", found, {}, {}), plain_published, json, record, note)


@command.command("validate")
def validate_command(
    networks: Annotated[
        str | None,
        typer.Option(
            help="Only these, as in cpu:resnet18,bert; the five of docs/hardware.md if not given."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Steps of each side; their median counts.")] = 15,
    save: Annotated[
        Path | None, typer.Option(help="Also write this machine's chip file, as in cpu.toml.")
    ] = None,
    json: JsonOption = None,
    record: RecordOption = None,
    note: NoteOption = None,
) -> None:
    """Predict step times on this CPU from probes, then measure them; status 1 beyond the bounds.

    Leave the machine alone meanwhile: it takes about ten minutes.

    Example: nybble hardware validate --networks cpu:resnet18 --rounds 5
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.hardware.cpu.describe import rows_of
    from nybble.hardware.cpu.describe import save as save_chip
    from nybble.hardware.cpu.validate import NETWORKS, run
    from nybble.reports.hardware_validate import plain

    check(json, record)
    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {rounds}.")
    if save is not None and (save.is_dir() or not save.parent.is_dir()):
        raise UserError(f"--save {save}: give a file in a folder that exists.")
    wanted = None if networks is None else [name for name in networks.split(",") if name]
    chosen = [one for one in NETWORKS if wanted is None or one.name in wanted]
    unknown = set(wanted or ()) - {one.name for one in NETWORKS}
    if unknown or not chosen:
        known = ", ".join(one.name for one in NETWORKS)
        raise UserError(f"--networks {networks}: choose of {known}.")
    with bar("probing") as advance:
        found = run(advance, rounds=rounds, networks=chosen)
    finish({**found, "schema": "nybble.hardware/1"}, plain, json, record, note)
    if save is not None:
        save_chip(save, rows_of(found["rows"], "nybble hardware validate"), found["peaks"])
        typer.echo(f"written to {save}", err=True)
    if not all(found["passed"].values()):
        raise typer.Exit(1)


@command.command("scale")
def scale_command(
    model: NetworkArgument,
    over: Annotated[str, typer.Option(help="batch, cores, bandwidth or chips.")] = "batch",
    chip: ChipOption = "rapid-fp4",
    recipe: Annotated[str, typer.Option(help="A recipe (`nybble recipes`).")] = "sun2020",
    batch: BatchOption = None,
    json: JsonOption = None,
) -> None:
    """How time and energy follow the batch, the cores, the bandwidth or the number of chips.

    Example: nybble hardware scale resnet50 --over chips --chip rapid-fp4 --batch 512
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.hardware.chip_file import get_chip
    from nybble.hardware.comparison import Traced
    from nybble.hardware.networks import get_network
    from nybble.hardware.scaling import scaling
    from nybble.reports.hardware import plain_scaling

    check(json, None)
    machine, network = get_chip(chip), get_network(model)
    count = _batch(batch, network.batch, machine, None)
    with bar(over) as advance:
        rows = scaling(Traced(network), machine, recipe, count, over, advance)
    record = {
        "hardware": "scaling",
        "network": model,
        "chip": machine.name,
        "recipe": recipe,
        "batch": count,
        "over": over,
        "rows": rows,
    }
    finish(record, plain_scaling, json, None)


@command.command("chips")
def chips_command(
    name: Annotated[
        str | None, typer.Argument(help="A chip, or a file.toml: every figure with its source.")
    ] = None,
) -> None:
    """List the chips, or show one: its peaks, and every figure with its source and confidence.

    Example: nybble hardware chips rapid
    """
    from nybble.hardware.chip_file import chip_names, get_chip
    from nybble.reports.hardware import aligned, plain_chip

    if name is not None:
        typer.echo(plain_chip(get_chip(name)))
        return
    rows = []
    for one in chip_names():
        chip = get_chip(one)
        fastest = max(chip.engines, key=lambda engine: engine.macs_per_cycle)
        peak = chip.peak_of(fastest) / 1e12
        rows.append([chip.name, chip.title, f"{fastest.name} {peak:.1f} TOPS"])
    typer.echo("\n".join(aligned(("name", "what", "fastest engine"), rows)))


# ---- parts --------------------------------------------------------------------------------------


def _changed(chip: Chip, bandwidth: float, cores: int | None) -> Chip:
    from nybble.hardware.comparison import scaled

    if not 0 < bandwidth < 1e9:
        raise UserError(f"--bandwidth {bandwidth:g}: give a factor above 0.")
    return scaled(chip, cores=cores, bandwidth=bandwidth)


def _batch(given: int | None, usual: int, machine: Chip, other: Chip | None) -> int:
    chips = max(int(m.chips.value) for m in (machine, other) if m is not None)
    if given is None:
        return -(-usual // chips) * chips
    if given < 1:
        raise UserError(f"--batch must be at least 1, not {given}.")
    theirs = 1 if other is None else int(other.chips.value)
    if other is not None and given % theirs and not given % int(machine.chips.value):
        raise UserError(
            f"--batch {given} cannot be divided evenly over the {theirs} chips of {other.name}, "
            f"with which {machine.name} is compared: give a multiple of {theirs} or "
            "--against none."
        )
    return given


def _page_path(page: str | None, model: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)
    path = Path(page or f"hardware-{safe}.html")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--page {path}: give a file in a folder that exists.")
    return path


def _entry(found: Estimate) -> dict[str, Any]:
    chips = int(found.chip.chips.value)
    return {**found.to_dict(), "chips": chips, "machine_macs": found.workload.macs * chips}


def _machine(chip: Chip) -> dict[str, Any]:
    return {
        "name": chip.name,
        "title": chip.title,
        "main_tb_per_s": chip.memories[-1].gb_per_s.value * chip.chips.value / 1e3,
        "roofs": [
            {"name": engine.name, "tops": chip.peak_of(engine) / 1e12} for engine in chip.engines
        ],
        "figures": [
            {
                "field": figure.where,
                "value": figure.value,
                "source": figure.source,
                "confidence": figure.confidence,
            }
            for figure in chip.figures()
            if figure.where
        ],
    }


def _command_line() -> str:
    import shlex

    return shlex.join(["nybble", *sys.argv[1:]])


def _recorded(
    kind: str, found: Mapping[str, Any], given: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """The record that `results/` keeps of an estimate: with command, versions and commit."""
    from nybble.studies.speed import record

    made = record.make(
        f"hardware-{kind}", record.words(f"nybble hardware {kind}", given, default), given, **found
    )
    return {**made, "schema": "nybble.hardware/1"}
