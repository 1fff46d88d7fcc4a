"""`nybble doctor`: what this installation is, and whether it computes what it should."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Also measure, in about a minute, what 4 bits gain here."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check this installation: CPU, backend, packages and self-tests.

    Ends with status 1 if a self-test fails.

    Example: nybble doctor --json
    """
    from nybble.reports import doctor
    from nybble.reports.selftest import run_self_tests

    if json:
        found = doctor.report(Path.cwd(), list(run_self_tests()))
        if speed:
            found["speed"] = _measured()
        typer.echo(json_text.dumps(found, indent=2))
        raise typer.Exit(0 if found["ok"] else 1)

    for line in _lines(doctor.facts(Path.cwd())):
        typer.echo(line)
    failed = 0
    for test in run_self_tests():
        failed += not test.ok
        typer.echo(f"  {'ok  ' if test.ok else 'FAIL'} {test.name:20} {test.detail}")
    if failed:
        typer.echo(f"{failed} self-tests failed: results on this machine cannot be trusted.")
        raise typer.Exit(1)
    typer.echo("All self-tests passed.")
    if speed:
        for line in speed_lines(_measured()):
            typer.echo(line)


def _measured() -> dict[str, Any]:
    from nybble.cli.shared.output import bar
    from nybble.studies.speed.machine import measure_machine
    from nybble.training.allocator import keep_freed_memory

    keep_freed_memory()
    with bar("speed") as advance:
        return measure_machine(advance)


def speed_lines(found: dict[str, Any]) -> list[str]:
    """What `measure_machine` found, as aligned lines of text."""
    torch, step = found["torch"], found["step"]
    rows = {
        f"torch float32 ({torch['instructions']})": f"{torch['float32']:.1f} GMAC/s",
        "torch bfloat16": f"{torch['bfloat16']:.1f} GMAC/s",
        **{name: f"{value:.2f}x float32" for name, value in found["kernels"].items()},
        f"step, {step['model']}, batch {step['batch']}": f"{step['speedup']:.2f}x float32",
    }
    count = found["threads"]
    lines = [f"speed, {count} thread{'' if count == 1 else 's'}"]
    lines += [f"  {name:32} {text}" for name, text in rows.items()]
    return [*lines, *found["says"]]


def _lines(found: dict[str, Any]) -> list[str]:
    """The facts as aligned lines of text."""
    from nybble.reports.doctor import OPTIONAL

    machine, backend, disk = found["machine"], found["backend"], found["disk"]
    features = ", ".join(name for name, present in found["cpu"].items() if present)
    absent = ", ".join(name for name, present in found["cpu"].items() if not present)
    sharing = (
        f"{backend['threads']} in the compiled module"
        if backend["openmp"]
        else "no OpenMP in the compiled module"
    )
    rows = {
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "commit": found["commit"] or "not in a git checkout",
        "CPU": f"{machine['cpu']}, {machine['cores']} cores, {machine['architecture']}",
        "features": (features or "not probed") + (f" (not: {absent})" if absent else ""),
        "backend": f"{backend['auto']}; native: {'yes' if backend['native'] else 'no'}: "
        f"{backend['reason']}",
        "threads": f"{machine['threads']} in torch, {sharing}"
        if backend["compiled"]
        else f"{machine['threads']} in torch",
        "disk": f"{disk['free'] / 1e9:.1f} GB free of {disk['total'] / 1e9:.1f} GB in "
        f"{disk['folder']}",
    }
    lines = [f"{name:10} {text}" for name, text in rows.items()]
    lines.append("packages")
    for name, version in found["packages"].items():
        extra, purpose = OPTIONAL[name]
        state = version or f"not installed: pip install -e '.[{extra}]' in nybble's folder"
        lines.append(f"  {name:13} {state} ({purpose})")
    return [*lines, "self-tests"]
