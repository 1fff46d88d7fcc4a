"""A chip's file, read and checked: TOML to the dataclasses of chip.py, where the schema stands.

Every field is asked for by name and kind, and a field that nobody asked for is an error, so a
spelling mistake never becomes a default. Each error names the file and the field.

Not done here: physical sense. A clock of a thousand terahertz is accepted.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from nybble.errors import UserError, suggest
from nybble.hardware.chip import (
    CONFIDENCES,
    DATAFLOWS,
    OPERANDS,
    SIDES,
    Chip,
    Engine,
    Figure,
    Link,
    Measured,
    Memory,
    Vector,
)
from nybble.hardware.kinds import GEMMS

__all__ = ["chip_names", "get_chip", "parse_chip"]

_FOLDER: Final = "chips"


def chip_names() -> tuple[str, ...]:
    """The shipped chips.

    >>> "rapid" in chip_names()
    True
    """
    files = resources.files(__package__).joinpath(_FOLDER).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def get_chip(name: str) -> Chip:
    """A shipped chip by name, or one of the user's: a path that ends in `.toml`.

    Raises:
        UserError: an unknown name; a file that cannot be read or breaks the schema.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The chip file {name} cannot be read: {error}.") from error
        return parse_chip(text, str(path))
    if name not in chip_names():
        raise UserError(
            f"Unknown chip '{name}'; choose one of {', '.join(chip_names())}, or a file of your "
            f"own that ends in .toml.{suggest(name, chip_names())}"
        )
    return _shipped(name)


@lru_cache
def _shipped(name: str) -> Chip:
    file = resources.files(__package__).joinpath(_FOLDER).joinpath(f"{name}.toml")
    return parse_chip(file.read_text(encoding="utf-8"), f"{name}.toml")


def parse_chip(text: str, file: str) -> Chip:
    """Read and check a chip file.

    Raises:
        UserError: no TOML; a field that is missing, unknown, of the wrong kind, negative or zero
            where it must not be. It names the field and the file.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of 5000 digits, and [[[[...
        raise UserError(f"{file} is no TOML file: {error}.") from error
    top = _Table(data, file, "")
    kind = top.choice("kind", ("accelerator", "cpu"))
    chip = Chip(
        name=top.text("name"),
        title=top.text("title"),
        about=top.text("about", ""),
        kind=kind,
        clock_ghz=top.figure("clock_ghz"),
        cores=top.whole("cores"),
        chips=top.whole("chips", 1),
        static_w=top.figure("static_w", zero=True),
        vector_bits=int(top.whole("vector_bits", 16).value),
        per_operation_us=top.figure("per_operation_us", 0.0, zero=True),
        engines=tuple(_engine(table) for table in top.tables("engine")),
        memories=tuple(_memory(table) for table in top.tables("memory")),
        vector=_vector(top.table("vector")),
        link=_link(top.table("link")) if "link" in data else None,
        file=file,
        measured=_measured(top, kind, file),
    )
    top.done()
    if len(chip.memories) < 2:
        raise UserError(f"{file}: give at least two [[memory]] tables, on chip and main.")
    return chip


def _engine(table: _Table) -> Engine:
    engine = Engine(
        name=table.text("name"),
        operands=table.pairs("operands"),
        m=table.whole("m", 1),
        n=table.whole("n"),
        k=table.whole("k"),
        energy_pj=table.figure("energy_pj", zero=True),
        dataflows=table.choices("dataflows", DATAFLOWS, DATAFLOWS),
        flattens=table.flag("flattens", True),
        block_scales=table.flag("block_scales", False),
    )
    table.done()
    return engine


def _memory(table: _Table) -> Memory:
    memory = Memory(
        name=table.text("name"),
        bytes=table.figure("bytes"),
        gb_per_s=table.figure("gb_per_s"),
        pj_per_byte=table.figure("pj_per_byte", zero=True),
        shared=table.flag("shared", False),
        multicast=table.flag("multicast", False),
    )
    table.done()
    return memory


def _vector(table: _Table) -> Vector:
    vector = Vector(
        per_cycle=table.figure("per_cycle"),
        energy_pj=table.figure("energy_pj", zero=True),
        chained=table.flag("chained", True),
    )
    table.done()
    return vector


def _measured(top: _Table, kind: str, file: str) -> tuple[Measured, ...]:
    if "measured" not in top.data:
        return ()
    if kind != "cpu":
        raise UserError(f'{file}: the field measured is for kind = "cpu".')
    found = []
    for table in top.tables("measured"):
        gemm = table.text("gemm", "")
        found.append(
            Measured(
                side=table.choice("side", SIDES),
                name=table.text("name"),
                value=table.figure("value"),
                gemm=table.choice("gemm", GEMMS) if gemm else "",
                left=table.choice("left", OPERANDS) if "left" in table.data else "",
                right=table.choice("right", OPERANDS) if "right" in table.data else "",
                size=table.figure("size", 1.0),
            )
        )
        table.done()
    return tuple(found)


def _link(table: _Table) -> Link:
    link = Link(
        gb_per_s=table.figure("gb_per_s"),
        latency_us=table.figure("latency_us", zero=True),
        pj_per_byte=table.figure("pj_per_byte", zero=True),
    )
    table.done()
    return link


_NEEDED: Final = object()
# Wide beyond every machine, and narrow enough for all ratios of two figures to be finite.
_LEAST: Final = 1e-15
_MOST: Final = 1e18


class _Table:
    """A table of a chip file that knows its name, and which of its fields were asked for."""

    def __init__(self, data: Mapping[str, Any], file: str, name: str) -> None:
        self.data, self.file, self.name = data, file, name
        self.asked: set[str] = set()

    def _where(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def _fail(self, key: str, what: str, hint: str = "") -> UserError:
        return UserError(f"{self.file}: the field {self._where(key)} {what}.{hint}")

    def _get(self, key: str, default: Any = _NEEDED) -> Any:
        self.asked.add(key)
        if key not in self.data and default is _NEEDED:
            raise self._fail(key, "is missing")
        return self.data.get(key, default)

    def text(self, key: str, default: Any = _NEEDED) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or (default is _NEEDED and not value.strip()):
            raise self._fail(key, f"must be a text, not {value!r}")
        return value

    def flag(self, key: str, default: bool | None) -> Any:
        value = self._get(key, default)
        if value is not None and not isinstance(value, bool):
            raise self._fail(key, f"must be true or false, not {value!r}")
        return value

    def figure(self, key: str, default: Any = _NEEDED, zero: bool = False) -> Figure:
        value = self._get(key, default)
        source = confidence = ""
        if isinstance(value, dict):
            inner = _Table(value, self.file, self._where(key))
            source, confidence = inner.text("source", ""), inner.text("confidence", "")
            if confidence and confidence not in CONFIDENCES:
                raise inner._fail(
                    "confidence",
                    f"must be one of {', '.join(CONFIDENCES)}, not {confidence!r}",
                    suggest(confidence, CONFIDENCES),
                )
            value = inner._get("value")
            inner.done()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fail(key, f"must be a number, not {value!r}")
        # TOML's integers have no end: float() of one beyond float64 is an OverflowError.
        number = float(value) if abs(value) < 1e300 else math.inf
        if not (_LEAST <= number <= _MOST or (number == 0 and zero)):  # false of a NaN
            least = "zero or more" if zero else "more than zero"
            shown = f"{value!r:.40}"
            raise self._fail(key, f"must be {least}, from {_LEAST:g} to {_MOST:g}, not {shown}")
        return Figure(number, source, confidence, self._where(key))

    def whole(self, key: str, default: Any = _NEEDED) -> Figure:
        figure = self.figure(key, default)
        if figure.value != int(figure.value):
            raise self._fail(key, f"must be a whole number, not {figure.value!r}")
        return figure

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self._fail(
                key, f"must be one of {', '.join(choices)}, not {value!r}", suggest(value, choices)
            )
        return value

    def choices(self, key: str, choices: tuple[str, ...], default: Any) -> tuple[str, ...]:
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self._fail(key, f"must be a list of texts, not {value!r}")
        if not value and key in self.data:
            raise self._fail(key, f"must not be empty; choose of {', '.join(choices)}")
        for one in value:
            if one not in choices:
                raise self._fail(
                    key, f"has no {one!r}; choose of {', '.join(choices)}", suggest(one, choices)
                )
        return tuple(value)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        value = self._get(key)
        good = isinstance(value, list) and value
        if not good or not all(isinstance(p, list) and len(p) == 2 for p in value):
            raise self._fail(key, f"must be a list of pairs of operand kinds, not {value!r}")
        for pair in value:
            for one in pair:
                if one not in OPERANDS:
                    raise self._fail(
                        key,
                        f"has no kind {one!r}; choose of {', '.join(OPERANDS)}",
                        suggest(str(one), OPERANDS),
                    )
        return tuple((str(a), str(b)) for a, b in value)

    def table(self, key: str) -> _Table:
        value = self._get(key)
        if not isinstance(value, dict):
            raise self._fail(key, f"must be a table, not {value!r}")
        return _Table(value, self.file, self._where(key))

    def tables(self, key: str) -> list[_Table]:
        value = self._get(key)
        if not isinstance(value, list) or not value or not all(isinstance(t, dict) for t in value):
            raise self._fail(key, f"must be [[{key}]] tables")
        return [
            _Table(t, self.file, f"{self._where(key)}[{t.get('name', place)}]")
            for place, t in enumerate(value)
        ]

    def done(self) -> None:
        """UserError where a field was not asked for."""
        for key in self.data:
            if key not in self.asked:
                raise self._fail(key, "is unknown", suggest(key, sorted(self.asked)))
