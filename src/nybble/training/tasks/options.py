"""Options that one task alone understands: `--set KEY=VALUE`, checked against what it declares.

options = {"width": Option(int, 256, "Size of the hidden state.", low=1)}
read_options("language", options, (("width", "512"),)) == {"width": 512}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nybble.errors import UserError, suggest

_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Option:
    """One option: its type (int, float, bool or str), its default, and what is allowed.

    default None: the task decides (from the model, say), and the option is None where not given.
    """

    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def read(self, key: str, text: str) -> Any:
        """The value of `text`; UserError if it is none.

        >>> Option(int, 256, "", low=1).read("width", "512")
        512
        """
        if self.choices and text not in self.choices:
            raise UserError(
                f"--set {key}={text}: choose one of {', '.join(self.choices)}."
                f"{suggest(text, self.choices)}"
            )
        try:
            value = _WORDS[text.lower()] if self.kind is bool else self.kind(text)
        except (ValueError, KeyError):
            raise UserError(f"--set {key}={text}: it must be {_KINDS[self.kind]}.") from None
        if self.kind in (int, float):
            low, high = self.low, self.high
            if value != value or (low is not None and value < low):
                raise UserError(f"--set {key}={text}: it must be at least {low}.")
            if high is not None and value > high:
                raise UserError(f"--set {key}={text}: it must be at most {high}.")
        return value


def read_options(
    task: str, options: Mapping[str, Option], given: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Every option's value: given, or its default. UserError for an unknown key or a bad value.

    >>> read_options("t", {"width": Option(int, 256, "")}, ())
    {'width': 256}
    """
    values = {key: option.default for key, option in options.items()}
    for key, text in given:
        if key not in options:
            known = ", ".join(f"{k} ({o.help.rstrip('.')})" for k, o in options.items())
            raise UserError(
                f"The task {task} has no option '{key}'; "
                + (f"it has {known}.{suggest(key, options)}" if options else "it has none.")
            )
        values[key] = options[key].read(key, text)
    return values


def complete_options(
    task: str, options: Mapping[str, Option], given: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """The same as pairs of text, sorted, with the defaults written out, for the record of a run.

    >>> complete_options("t", {"width": Option(int, 256, "")}, ())
    (('width', '256'),)
    """
    values = read_options(task, options, given)
    return tuple((key, _text(value)) for key, value in sorted(values.items()) if value is not None)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
