"""What every speed record holds beside its measurements: `results/README.md` lists the fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nybble.errors import UserError
from nybble.training.machine import commit, machine, versions

SCHEMA = "nybble.bench/1"


def make(
    bench: str, command: str, configuration: Mapping[str, Any], **parts: Any
) -> dict[str, Any]:
    """A record of the kind `bench`; `parts` are its measurements.

    >>> make("step", "nybble bench step", {"model": "cnn"}, speedup={"1": 2.0})["bench"]
    'step'
    """
    from nybble.ops import native

    found = native.probe()
    return {
        "schema": SCHEMA,
        "bench": bench,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "configuration": dict(configuration),
        **parts,
        "environment": {
            "versions": versions(),
            "machine": machine(),
            "commit": commit(),
            "instruction_set": found.isa,
        },
    }


def words(command: str, given: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    """The command line that repeats a measurement: every option that is not at its default.

    >>> words("nybble bench step", {"model": "cnn", "threads": (1, 2)}, {"model": "cnn"})
    'nybble bench step --threads 1,2'
    """
    parts = [command]
    for name, value in given.items():
        if value == default.get(name) or value in (None, ()):
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(option if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, tuple):
            parts += [option, ",".join(map(str, value))]
        else:
            parts += [option, str(value)]
    return " ".join(parts)


MOST = {"threads": 1024}
"""Where an option has a bound of its own; others end at 2^31, beyond which no tensor is made."""


def at_least(what: str, value: int, least: int = 1) -> None:
    """UserError where a number of an option is too small, or absurdly large.

    >>> at_least("rounds", 3)
    """
    most = MOST.get(what, 2**31 - 1)
    if value > most:
        raise UserError(f"{what} must be at most {most}, not {value}.")
    if value < least:
        raise UserError(f"{what} must be at least {least}, not {value}.")
