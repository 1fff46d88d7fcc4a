"""Study `depth`: recipes x chains x depths, over seeds and batches; no training, or a few steps.

Of every seed a float32 chain is drawn (and trained for `steps` steps of SGD, if any are asked for);
on each of `batches` fresh batches the gradients of a converted copy, with two draws of its random
bits, are compared with the chain's own:

    weight        dW of the block against float32's dW: what an optimizer would see
    output        what arrived at the block against float32's: the error of all layers above
    own_weight    dW against the float32 product of the same operands: what this block alone adds
    own_input     the same of the gradient that it passes on

each with the figures of `figures.py`. A figure of a block is the mean over batches; its interval is
the t interval over seeds, since batches of one seed share weights and are not independent.

Every backward pass is the first of its network, so a GradScale fits its scale to the gradient at
hand; what a delayed scale adds is not measured. Chains are for studying depth, not accuracy: how
much a bad cosine costs is what training runs tell (`nybble study recipes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError

if TYPE_CHECKING:
    from nybble.studies.depth.chain import Chain

SCHEMA = "nybble.depth/1"
RECIPES = (
    "sun2020:phases=even-even",
    "sun2020",
    "sun2020:factor=stochastic",
    "sun2020:gradients=radix2",
    "luq",
    "nvfp4",
    "tseng2025",
    "nybble4",
)
"""Radix 4 to the nearest on one grid, in two phases, at random; radix 2; and those recipes of other
papers that the registry has."""
GRADIENTS = ("weight", "output", "own_weight", "own_input")
_LEAST = {"width": 2, "batch_size": 1, "batches": 1, "steps": 0, "threads": 1}


@dataclass(frozen=True)
class DepthConfig:
    """What to measure.

    recipes: texts that `get_recipe` reads; forwards: "quantised", "float32" or both; kinds: chains,
    "plain", "residual" or both; layers: "linear" or "conv"; steps: of float32 training before.

    >>> DepthConfig(depths=(4, 8)).seeds
    (0, 1, 2, 3, 4)
    """

    recipes: tuple[str, ...] = RECIPES[:4]
    depths: tuple[int, ...] = (4, 8, 16, 32)
    kinds: tuple[str, ...] = ("plain", "residual")
    forwards: tuple[str, ...] = ("float32", "quantised")
    layers: str = "linear"
    width: int = 64
    batch_size: int = 64
    batches: int = 2
    steps: int = 0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        for name in ("recipes", "depths", "kinds", "forwards", "seeds"):
            given = getattr(self, name)
            if not given or len(set(given)) != len(given):
                raise UserError(f"{name} {given}: give at least one, and each once.")
        if min(self.depths) < 1 or min(self.seeds) < 0:
            raise UserError("depths must be at least 1, seeds at least 0.")


def measure_depth(
    config: DepthConfig,
    progress: Callable[[int, int], None] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure, and return the record (JSON values).

    progress(done, total) counts recipes on chains; notes: what a reader should know besides.

    Raises:
        UserError: an unknown recipe, kind or forward.
    """
    import torch

    from nybble.studies.depth.gradients import recipe_for
    from nybble.training.machine import commit, machine, versions
    from nybble.training.seeds import globals_restored

    for recipe in config.recipes:
        for forward in config.forwards:
            recipe_for(recipe, forward)
    before = torch.get_num_threads()
    values: dict[tuple[str, str, str, int], dict[str, list[list[float]]]] = {}
    total = len(config.seeds) * len(config.kinds) * len(config.depths)
    total *= len(config.recipes) * len(config.forwards)
    try:
        torch.set_num_threads(config.threads)
        with globals_restored():
            for done, (key, found) in enumerate(_all(config), start=1):
                for name, per_layer in found.items():
                    values.setdefault(key, {}).setdefault(name, []).append(per_layer)
                if progress:
                    progress(done, total)
    finally:
        torch.set_num_threads(before)
    return {
        "schema": SCHEMA,
        "title": "Gradients of few bits in deep chains",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(config),
        "configuration": asdict(config),
        "notes": list(notes),
        "rows": [_row(key, found) for key, found in values.items()],
        "environment": {"versions": versions(), "machine": machine(), "commit": commit()},
    }


def known() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of `RECIPES` that the registry has, and a note for each of the others."""
    from nybble.studies.ready.choose import known_recipes

    return known_recipes(RECIPES)


def _all(
    config: DepthConfig,
) -> Iterator[tuple[tuple[str, str, str, int], dict[str, list[float]]]]:
    """((recipe, forward, kind, depth), {figure: a number a block}), one of every seed."""
    for seed in config.seeds:
        for kind in config.kinds:
            for depth in config.depths:
                chain = trained_chain(config, kind, depth, seed)
                for recipe in config.recipes:
                    for forward in config.forwards:
                        key = recipe, forward, kind, depth
                        yield key, of_one_chain(config, chain, recipe, forward, seed)


def trained_chain(config: DepthConfig, kind: str, depth: int, seed: int) -> Chain:
    """The seed's float32 chain, after `steps` steps."""
    import torch
    from torch.nn.functional import cross_entropy

    from nybble.studies.depth.chain import Chain, batch
    from nybble.training.seeds import derive

    torch.manual_seed(derive(seed, "depth/weights", depth))
    chain = Chain(kind, config.layers, depth, config.width)
    optimizer = torch.optim.SGD(chain.parameters(), lr=0.05, momentum=0.9)
    for step in range(config.steps):
        x, y = batch(seed, config.batches + step, config.layers, config.width, config.batch_size)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(chain(x), y).backward()
        optimizer.step()
    return chain


def of_one_chain(
    config: DepthConfig, chain: Chain, recipe: str, forward: str, seed: int
) -> dict[str, list[float]]:
    """{"weight.cosine": [block 1, block 2, ...], ...}: means over the batches."""
    from nybble.studies.depth.chain import batch
    from nybble.studies.depth.figures import compare
    from nybble.studies.depth.gradients import arriving, converted, recipe_for

    chosen = recipe_for(recipe, forward)
    sums: dict[str, list[float]] = {}
    for number in range(config.batches):
        given = batch(seed, number, config.layers, config.width, config.batch_size)
        exact = arriving(chain, *given)
        draws = [
            arriving(converted(chain, chosen, 2 * (seed * config.batches + number) + draw), *given)
            for draw in range(2)
        ]
        for layer, (g, a, b) in enumerate(zip(exact, *draws, strict=True)):
            pairs = {
                "weight": compare(a.weight, b.weight, g.weight),
                "output": compare(a.output, b.output, g.output),
                "own_weight": compare(a.weight, b.weight, a.exact_weight, b.exact_weight),
                "own_input": compare(a.input, b.input, a.exact_input, b.exact_input),
            }
            for gradient, figures in pairs.items():
                for name, value in figures.items():
                    place = sums.setdefault(f"{gradient}.{name}", [0.0] * len(exact))
                    place[layer] += value / config.batches
    return sums


def _row(
    key: tuple[str, str, str, int], values: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, Any]:
    """Mean and interval over seeds, of every figure, block by block from the stem to the loss."""
    from nybble.studies.statistics import spread, t_interval

    recipe, forward, kind, depth = key
    figures: dict[str, Any] = {}
    for name, seeds in values.items():
        means, lows, highs, counts = [], [], [], []
        for block in zip(*seeds, strict=True):
            numbers = [value for value in block if math.isfinite(value)]
            mean, interval = spread(numbers).mean, t_interval(numbers)
            means.append(_short(mean))
            lows.append(_short(interval.low if interval else None))
            highs.append(_short(interval.high if interval else None))
            counts.append(len(numbers))
        figures[name] = {"mean": means, "low": lows, "high": highs, "n": min(counts)}
    return {
        "recipe": recipe,
        "forward": forward,
        "kind": kind,
        "depth": depth,
        "figures": figures,
    }


def _short(value: float | None) -> float | None:
    """Six significant digits: the record has thousands of numbers."""
    return None if value is None else float(f"{value:.6g}")


def command(config: DepthConfig) -> str:
    """The command that repeats the measurement.

    >>> command(DepthConfig(recipes=("sun2020",), depths=(4,), kinds=("plain",)))
    'nybble study depth --recipes sun2020 --depths 4 --kinds plain'
    """
    words = ["nybble study depth"]
    default = DepthConfig()
    for name in asdict(config):
        value = getattr(config, name)
        if value != getattr(default, name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return " ".join(words)
