"""A machine as data: arrays of multipliers, memories, a vector unit, energies; one file each.

A chip is a TOML file (chips/*.toml, or the user's own). Every figure is either a number or

    { value = 1.6, source = "JSSC 57(1) 2022", confidence = "published" }

and the shipped files give source and confidence for all of them (a test asks for it):

    published   stands in the named source            derived    computed from published figures
    remembered  from memory of the named source       assumed    chosen here, said why
    measured    on a machine, by the named command

Fields, with units; `?` may be left out:

    name, title, about?             what it is; a name is what `--chip` takes
    kind = "accelerator" | "cpu"    of a cpu, [[measured]] rates come before everything else
    clock_ghz, cores, chips?        cores of one chip; chips work on parts of the batch
    static_w                        power of one chip that flows whatever it does
    vector_bits?                    width of numbers between Gemms (16)
    per_operation_us?               time that no operation can go below: a launch, a dispatch

    [[engine]]                      what multiplies; the first that takes both operands is used
    name, operands                  pairs of operand kinds: [["int4", "int4"], ["int4", "fp4"]]
    m?, n, k                        multipliers of one core: m x n x k, results x sums
    energy_pj                       of one multiply-add, all that is not counted elsewhere
    dataflows?                      which operand stays: "weight", "input", "output" (all three)
    flattens?                       whether a convolution's taps can lie beside its channels in the
                                    array (true), or come one after the other
    block_scales?                   whether scales inside a sum cost nothing (false)

    [[memory]]                      from the inmost to the outmost, which is the main memory
    name, gb_per_s, pj_per_byte
    bytes                           of one core, or with shared = true of the chip; main: capacity
    shared?                         one for all cores
    multicast?                      per core, but what all cores need is fetched once, and together
                                    they hold different things

    [vector]
    per_cycle                       operations on numbers, one core, one cycle
    energy_pj                       of one operation
    chained?                        whether an operation can take the one before's results as they
                                    come, without the memory (true)

    [link]?                         between chips
    gb_per_s, latency_us, pj_per_byte

    [[measured]]*                   of a cpu: what one core was seen to do, memory included
    side                            "torch" (float32) or "native" (nybble's own kernels)
    name                            a kernel (matmul, conv, attention, ...), an operator, or "call"
    gemm?                           output, grad_input, grad_weight: then `value` is in GMAC/s, of
                                    operands `left` x `right` where they are given; without it in
                                    nanoseconds an element, of "call" in microseconds
    size?                           channels of a Gemm, elements of the others; rates in between are
                                    interpolated along the logarithm of the size
    value

Not done here: clocks that follow the load, sparsity, memory banks.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from nybble.errors import UserError, suggest
from nybble.hardware.kinds import GEMMS

CONFIDENCES: Final = ("published", "derived", "remembered", "assumed", "measured")
OPERANDS: Final = (*("int2", "int4", "fp4", "fp4_e2m1", "table4", "int8", "fp8", "fp16", "fp32"),)
SIDES: Final = ("torch", "native")
DATAFLOWS: Final = ("weight", "input", "output")


@dataclass(frozen=True)
class Figure:
    """A number with where it comes from. `where` names the file and field."""

    value: float
    source: str = ""
    confidence: str = ""
    where: str = ""


@dataclass(frozen=True)
class Engine:
    """An array of multipliers of one core; see the module."""

    name: str
    operands: tuple[tuple[str, str], ...]
    m: Figure
    n: Figure
    k: Figure
    energy_pj: Figure
    dataflows: tuple[str, ...] = DATAFLOWS
    flattens: bool = True
    block_scales: bool = False

    @property
    def macs_per_cycle(self) -> int:
        """Of one core.

        >>> one = Figure(1.0)
        >>> Engine("e", (("int4", "int4"),), one, Figure(64), Figure(64), one).macs_per_cycle
        4096
        """
        return int(self.m.value * self.n.value * self.k.value)

    def takes(self, left: str, right: str) -> bool:
        """Whether it multiplies these kinds of operands, in either order."""
        return (left, right) in self.operands or (right, left) in self.operands


@dataclass(frozen=True)
class Memory:
    """One level; see the module."""

    name: str
    bytes: Figure
    gb_per_s: Figure
    pj_per_byte: Figure
    shared: bool = False
    multicast: bool = False


@dataclass(frozen=True)
class Vector:
    """The unit for everything that is no Gemm."""

    per_cycle: Figure
    energy_pj: Figure
    chained: bool = True


@dataclass(frozen=True)
class Link:
    """What joins chips."""

    gb_per_s: Figure
    latency_us: Figure
    pj_per_byte: Figure


@dataclass(frozen=True)
class Measured:
    """One measured rate of a CPU; see the module."""

    side: str
    name: str
    value: Figure
    gemm: str = ""
    left: str = ""
    right: str = ""
    size: Figure = Figure(1.0)


@dataclass(frozen=True)
class Chip:
    """A machine. `peak(kind, kind)` in operations a second: multiply and add are two.

    >>> chip = get_chip("rapid")
    >>> chip.name, chip.memories[-1].name
    ('rapid', 'DRAM')
    """

    name: str
    title: str
    about: str
    kind: str
    clock_ghz: Figure
    cores: Figure
    chips: Figure
    static_w: Figure
    vector_bits: int
    per_operation_us: Figure
    engines: tuple[Engine, ...]
    memories: tuple[Memory, ...]
    vector: Vector
    link: Link | None
    file: str
    measured: tuple[Measured, ...] = ()

    def engine_for(self, left: str, right: str) -> Engine | None:
        """The first engine that takes both operands as they are."""
        return next((engine for engine in self.engines if engine.takes(left, right)), None)

    def rate(
        self, side: str, name: str, size: float, gemm: str = "", left: str = "", right: str = ""
    ) -> float | None:
        """The measured rate for `size`, None where nothing was measured. Between two sizes it is
        interpolated, beyond them the nearest is taken.

        >>> rows = tuple(Measured("torch", "relu", Figure(v), size=Figure(s)) for s, v in
        ...              ((1e3, 1.0), (1e5, 4.0)))
        >>> from dataclasses import replace
        >>> replace(get_chip("rapid"), measured=rows).rate("torch", "relu", 1e4)
        2.0
        """
        points = sorted(
            (row.size.value, row.value.value)
            for row in self.measured
            if (row.side, row.name, row.gemm) == (side, name, gemm)
            and row.left in ("", left)
            and row.right in ("", right)
        )
        if not points:
            return None
        for (low, a), (high, b) in itertools.pairwise(points):
            if low <= size <= high and high > low:
                share = math.log(size / low) / math.log(high / low)
                return float(math.exp((1 - share) * math.log(a) + share * math.log(b)))
        return points[0][1] if size < points[0][0] else points[-1][1]

    def peak_of(self, engine: Engine) -> float:
        """Of one of its engines, operations a second of all cores of all chips.

        >>> chip = get_chip("rapid")
        >>> round(chip.peak_of(chip.engines[-1]) / 1e12, 1)
        13.1
        """
        cores = self.cores.value * self.chips.value
        return 2.0 * engine.macs_per_cycle * cores * self.clock_ghz.value * 1e9

    def peak(self, left: str, right: str) -> float:
        """Operations a second of all cores of all chips, two to a multiply-add: MACs x clock.

        >>> round(get_chip("rapid").peak("int4", "int4") / 1e12, 1)
        104.9
        """
        engine = self.engine_for(left, right)
        if engine is None:
            raise UserError(
                f"{self.name} has no engine for {left} x {right}; it multiplies "
                f"{', '.join(sorted({f'{a} x {b}' for e in self.engines for a, b in e.operands}))}."
            )
        return self.peak_of(engine)

    def figures(self) -> list[Figure]:
        """Every figure of the file, for tables and for the test that each has a source."""
        found: list[Figure] = []

        def walk(value: Any) -> None:
            if isinstance(value, Figure):
                found.append(value)
            elif isinstance(value, Mapping):
                for one in value.values():
                    walk(one)
            elif isinstance(value, tuple):
                for one in value:
                    walk(one)
            elif isinstance(value, Measured):
                walk(value.value)  # its size says of what, and is no figure
            elif isinstance(value, Engine | Memory | Vector | Link):
                for one in vars(value).values():
                    walk(one)

        for one in vars(self).values():
            walk(one)
        return found


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
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
            least = "zero or more" if zero else "more than zero"
            raise self._fail(key, f"must be {least} and finite, not {value!r}")
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

    def table(self, key: str, optional: bool = False) -> _Table:
        value = self._get(key, {} if optional else _NEEDED)
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

    def names(self, known: tuple[str, ...]) -> list[str]:
        """Every field, all of which must be known."""
        for key in self.data:
            if key not in known:
                raise self._fail(key, "is unknown", suggest(key, known))
        return list(self.data)

    def done(self) -> None:
        """UserError where a field was not asked for."""
        for key in self.data:
            if key not in self.asked:
                raise self._fail(key, "is unknown", suggest(key, sorted(self.asked)))
