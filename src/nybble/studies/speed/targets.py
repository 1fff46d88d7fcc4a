"""The aims that measured figures are compared with: at least, and hard.

Each is a ratio to float32, or to another recipe, on the same machine in the same process. An aim
speaks of one configuration; a measurement of anything else has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """`least` is the aim, `hard` the ambitious one (None: there is none)."""

    what: str
    least: float
    hard: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


RESNET18 = Target("whole step, ResNet-18 (CIFAR form), batch 32 and 128, sun2020", 2.0, 2.5)
TRANSFORMER = Target("whole step, 4-layer d=512 transformer, sun2020", 1.4, 1.6)
TRANSFORMER_RADIX2 = Target("the same with radix-2 gradients, which fit int8", 1.7, 1.9)
LSTM = Target("whole step, 2-layer LSTM, 512 units, 64 steps, batch 64, sun2020", 1.5, 1.8)
NYBBLE4_TRANSFORMER = Target("nybble4 against sun2020: whole step of that transformer", 1.25)
NYBBLE4_RESNET18 = Target("nybble4 against sun2020: whole step, ResNet-18, batch 32", 1.0)
RESNET20 = Target("whole step, ResNet-20, batch 128, sun2020", 1.3, 1.6)
SAVED_RESNET18 = Target("bytes kept for backward, ResNet-18", 5.0, 7.0)
SAVED_TRANSFORMER = Target("bytes kept for backward, transformer", 4.0, 6.0)
PEAK_RESNET18 = Target("peak memory of the process, ResNet-18, batch 128", 3.0, 4.0)

KERNELS: dict[str, Target] = {
    "gemm output": Target("forward GEMM (M, N, K of at least 512)", 3.0, 3.2),
    "gemm radix4": Target("backward GEMM, radix-4, any data", 1.5, 1.75),
    "gemm int8": Target("backward GEMM, formats that fit int8", 2.4, 2.8),
    "gemm small": Target("64 x 64 x 64 is not slower than float32", 1.0),
    "conv output": Target("conv 3x3 stride 1, forward", 3.0, 4.0),
    "conv grad_input": Target("conv 3x3 stride 1, grad-input", 2.4, 2.8),
    "conv grad_weight": Target("conv 3x3 stride 1, grad-weight", 3.0, 3.6),
    "quantize": Target(
        "quantise and pack 8M elements against memcpy, at most 0.7x its time", 1 / 0.7, 2.0
    ),
}
"""By group of `kernel_cases.py`; a group's aim holds for every row of it."""


def kernel_target(group: str) -> Target | None:
    """The aim of a group; narrow convolutions have that of the others.

    >>> kernel_target("conv output, narrow").least, kernel_target("overhead") is None
    (3.0, True)
    """
    return KERNELS.get(group.removesuffix(", narrow"))


AIMS = (
    *KERNELS.values(),
    RESNET18,
    TRANSFORMER,
    TRANSFORMER_RADIX2,
    RESNET20,
    LSTM,
    NYBBLE4_TRANSFORMER,
    NYBBLE4_RESNET18,
    SAVED_RESNET18,
    SAVED_TRANSFORMER,
    PEAK_RESNET18,
)
"""Every aim, in the order of the speed page."""


def step_target(configuration: Mapping[str, Any]) -> Target | None:
    """The aim of a whole step.

    >>> step_target({"model": "resnet18", "batch": 32, "recipe": "sun2020", "size": 32}).least
    2.0
    >>> step_target({"model": "cnn", "batch": 32, "recipe": "sun2020", "size": 32}) is None
    True
    """
    model, batch, recipe = (configuration[name] for name in ("model", "batch", "recipe"))
    if model == "transformer" and batch == 32:
        return {"sun2020": TRANSFORMER, "sun2020:gradients=radix2": TRANSFORMER_RADIX2}.get(recipe)
    if recipe != "sun2020" or configuration.get("size", 32) != 32:
        return None
    if model == "resnet18" and batch in (32, 128):
        return RESNET18
    if model == "lstm" and batch == 64:
        return LSTM
    return RESNET20 if model == "resnet20" and batch == 128 else None


def against_target(configuration: Mapping[str, Any]) -> Target | None:
    """The aim of a recipe's step against another recipe's.

    >>> made = {"model": "resnet18", "batch": 32, "recipe": "nybble4", "against": "sun2020"}
    >>> against_target(made).least, against_target({**made, "against": "luq"}) is None
    (1.0, True)
    """
    recipes = (configuration["recipe"], configuration.get("against"))
    if recipes != ("nybble4", "sun2020") or configuration["batch"] != 32:
        return None
    if configuration["model"] == "transformer":
        return NYBBLE4_TRANSFORMER
    image = configuration["model"] == "resnet18" and configuration.get("size", 32) == 32
    return NYBBLE4_RESNET18 if image else None


def memory_targets(configuration: Mapping[str, Any]) -> tuple[Target | None, Target | None]:
    """The aims for bytes kept for backward and for the peak of the process.

    >>> [t.least for t in memory_targets({"model": "resnet18", "batch": 128, "size": 32})]
    [5.0, 3.0]
    """
    model, batch = configuration["model"], configuration["batch"]
    if model == "transformer":
        return SAVED_TRANSFORMER, None
    if model == "resnet18" and configuration.get("size", 32) == 32:
        return SAVED_RESNET18, PEAK_RESNET18 if batch == 128 else None
    return None, None
