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

chip_file.py reads and checks it. Not done here: clocks that follow the load, sparsity, memory
banks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nybble.errors import UserError

CONFIDENCES: Final = ("published", "derived", "remembered", "assumed", "measured")
OPERANDS: Final = ("int2", "int4", "fp4", "fp4_e2m1", "table4", "int8", "fp8", "fp16", "fp32")
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

    >>> from nybble.hardware import get_chip
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
        >>> from nybble.hardware import get_chip
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

        >>> from nybble.hardware import get_chip
        >>> chip = get_chip("rapid")
        >>> round(chip.peak_of(chip.engines[-1]) / 1e12, 1)
        13.1
        """
        cores = self.cores.value * self.chips.value
        return 2.0 * engine.macs_per_cycle * cores * self.clock_ghz.value * 1e9

    def peak(self, left: str, right: str) -> float:
        """Operations a second of all cores of all chips, two to a multiply-add: MACs x clock.

        >>> from nybble.hardware import get_chip
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
