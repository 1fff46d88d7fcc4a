"""Everything that is measured to describe one core, as rows of a chip.

    side    what
    torch   rates of Gemms; nanoseconds an element of operators and optimizers; call
    native  the same of converted layers; quantisers; converted modules; call

`peaks` are measured with them, and stand in the record: the fastest product of each kind, and
bytes a second of copying what L2, L3 and neither hold. Rows of "call" are microseconds.

Source: this machine, on one thread, by CPU time (timing.py). Not done here: a second core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from nybble.errors import UserError
from nybble.hardware.chip import Figure, Measured
from nybble.hardware.cpu import probe_gemms, probe_modules, probe_operators, probe_quantisers
from nybble.hardware.cpu.probe_quantisers import joined
from nybble.hardware.cpu.shapes import ELEMENTS, MODULE_ELEMENTS, QUANTISED
from nybble.hardware.cpu.timing import Timing, call_of
from nybble.ops.native import available
from nybble.studies.speed.kernel_cases import gemm_case

__all__ = ["COMMAND", "Probed", "peaks", "probe"]

COMMAND = "nybble hardware validate"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Probed:
    """`rows` of a chip, and the peaks that were measured with them."""

    rows: tuple[Measured, ...]
    peaks: dict[str, float] = field(default_factory=dict)


def probe(
    say: Say = lambda _: None, timing: Timing | None = None, few: int | None = None
) -> Probed:
    """Measure. `few`: only so many shapes and sizes of each kind, for a test.

    Raises:
        UserError: no native kernels here.
    """
    found = available()
    if not found:
        raise UserError(f"hardware validate: there are no native kernels here: {found.reason}.")
    timing = timing or Timing()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _probe(say, timing, few)
    finally:
        torch.set_num_threads(before)


def _probe(say: Say, timing: Timing, few: int | None) -> Probed:
    table = _Table()
    sizes = ELEMENTS[:few]
    quantised = probe_quantisers.probe_quantisers(timing, QUANTISED[:few], say)
    for name, size, seconds in quantised:
        table.elements("native", name, size, seconds)
    quantise = table.seconds_of("native")
    calls = probe_gemms.calls(timing, quantise)
    for (side, phase), seconds in calls.items():
        table.add(side, f"call {phase}", 1e6 * seconds)
    for rate in probe_gemms.probe_gemms(timing, quantise, calls, say, few):
        table.add(
            *(rate.side, rate.kernel, rate.gmacs),
            gemm=rate.gemm,
            left=rate.left,
            right=rate.right,
            size=rate.size,
        )
    names = probe_operators.OPERATORS if few is None else probe_operators.OPERATORS[:few]
    for name, size, seconds in probe_operators.probe_operators(timing, sizes, names, say):
        table.elements("torch", name, size, seconds)
    say("optimizers")
    for side, name, size, seconds in probe_operators.probe_optimizers(timing, sizes):
        table.elements(side, name, size, seconds)
    modules = probe_modules.MODULES if few is None else probe_modules.MODULES[:few]
    few_sizes = MODULE_ELEMENTS[:few]
    for name, size, seconds in probe_modules.probe_modules(timing, few_sizes, modules, say):
        table.elements("native", name, size, seconds)
    say("peaks")
    return Probed(tuple(table.rows), peaks(timing, few is not None))


class _Table:
    """Rows in the making."""

    def __init__(self) -> None:
        self.rows: list[Measured] = []

    def add(self, side: str, name: str, value: float, size: float = 1.0, **kinds: str) -> None:
        figure = Figure(value, COMMAND, "measured")
        self.rows.append(Measured(side, name, figure, size=Figure(size), **kinds))

    def elements(self, side: str, name: str, size: int, seconds: float) -> None:
        self.add(side, name, 1e9 * seconds / size, float(size))

    def seconds_of(self, side: str) -> Callable[[str, float], float]:
        """Seconds of a name for so many elements, from the rows so far."""
        from dataclasses import replace

        from nybble.hardware.chip_file import get_chip

        chip = replace(get_chip("cpu-avx2"), measured=tuple(self.rows))

        def seconds(name: str, elements: float) -> float:
            rate = chip.rate(side, joined(name), elements)
            return 0.0 if rate is None else 1e-9 * rate * elements

        return seconds


def peaks(timing: Timing, small: bool = False) -> dict[str, float]:
    """GMAC/s of the fastest products, GB/s of a copy (read and written) by what holds it, on one
    thread. Measured before and after all else they say how far the machine itself has drifted."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _peaks(timing, small)
    finally:
        torch.set_num_threads(before)


def _peaks(timing: Timing, small: bool) -> dict[str, float]:
    side = 64 if small else 1024
    found: dict[str, float] = {}
    for name, which, fmt in (
        ("int4 x int4", "output", "int4_sym"),
        ("fp4 x int4", "grad_input", "fp4_radix4"),
    ):
        case = gemm_case((side, side, side), which, "", fmt)
        found[f"{name} GMAC/s"] = side**3 / timing.seconds(call_of(case.ours)) / 1e9
    a, b = torch.randn(side, side), torch.randn(side, side)
    found["float32 GMAC/s"] = side**3 / timing.seconds(call_of(lambda: a @ b)) / 1e9
    for name, elements in (("L2", 1 << 16), ("L3", 1 << 20), ("DRAM", 1 << 25)):
        x, y = torch.ones(elements), torch.ones(elements)
        seconds = timing.seconds(call_of(_copy(x, y)))
        found[f"{name} GB/s"] = 8 * elements / seconds / 1e9
    return found


def _copy(x: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
    return lambda: y.copy_(x)
