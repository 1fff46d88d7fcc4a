"""What a training step costs: several models, step by step in turn, in one process.

Runs of a comparison come one after another, minutes apart, on a machine that others use too: the
ratio of their step times says as much about the machine as about the recipe.  So step times are
measured separately.  Every round takes one step of every model, in an order that is reversed from
round to round; the ratio is formed within the round, and the median over rounds is reported:

    ratio(recipe) = median_i  t_i(recipe) / t_i(baseline)

A slow stretch of the machine slows both steps of a round.  Wall time is what the user waits for.
Process CPU time is steadier under load with one thread; with more, it also counts threads that spin
while they wait, so it overstates small steps.

A step is: clear gradients, forward, loss, backward (with the recipe's loss scale), optimizer.  One
fixed batch; no data loading, no augmentation, no bookkeeping.  The first `warmup` rounds are not
counted.

Not done: memory bandwidth, energy, or any claim about a 4-bit chip; a step on the `reference`
backend is emulated in float32 and is expected to be slower than float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.studies.statistics import median_ratio

if TYPE_CHECKING:
    from torch import Tensor, nn

Step = Callable[[], None]


@dataclass(frozen=True)
class Sample:
    """One step: wall seconds and process CPU seconds (all threads)."""

    wall: float
    cpu: float


def interleave(
    steps: Mapping[str, Step],
    pairs: int,
    warmup: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Sample]]:
    """Time `pairs` rounds of all `steps`, in turn, after `warmup` rounds that are not counted.

    `progress` is called after every round with the rounds done and their number.

    Raises:
        UserError: fewer than one pair.

    >>> order = []
    >>> steps = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    >>> samples = interleave(steps, pairs=2, warmup=1)
    >>> "".join(order), len(samples["a"]), len(samples["b"])
    ('abbaab', 2, 2)
    """
    if pairs < 1:
        raise UserError(f"step times: {pairs} pairs asked; at least 1 is needed")
    samples: dict[str, list[Sample]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(warmup + pairs):
        for name in names if turn % 2 == 0 else reversed(names):
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if turn >= warmup:
                samples[name].append(Sample(wall, cpu))
        if progress:
            progress(turn + 1, warmup + pairs)
    return samples


def ratios(samples: Mapping[str, Sequence[Sample]], baseline: str) -> dict[str, dict[str, Any]]:
    """For every name: the ratio to `baseline` in wall and CPU time, and its median milliseconds.

    >>> fast, slow = [Sample(1e-3, 2e-3)] * 2, [Sample(3e-3, 5e-3)] * 2
    >>> found = ratios({"fp32": fast, "sun2020": slow}, "fp32")["sun2020"]
    >>> found["wall"]["median"], found["cpu"]["median"], found["wall_ms"]
    (3.0, 2.5, 3.0)
    """
    reference = samples[baseline]
    found: dict[str, dict[str, Any]] = {}
    for name, own in samples.items():
        found[name] = {
            "wall": median_ratio([s.wall for s in own], [s.wall for s in reference]).to_dict(),
            "cpu": median_ratio([s.cpu for s in own], [s.cpu for s in reference]).to_dict(),
            "wall_ms": 1000 * _median([s.wall for s in own]),
            "cpu_ms": 1000 * _median([s.cpu for s in own]),
        }
    return found


def _median(values: Sequence[float]) -> float:
    import statistics

    return statistics.median(values)


def training_step(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    target: Tensor,
    loss_scale: float = 1.0,
    lr: float = 0.01,
) -> Step:
    """A function that takes one whole training step of `model` on one fixed batch.

    SGD with momentum; the learning rate is small, so that repeated steps on one batch stay tame.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = layer.weight.detach().clone()
    >>> x, y = torch.ones(1, 2), torch.tensor([0])
    >>> training_step(layer, torch.nn.functional.cross_entropy, x, y, loss_scale=4.0)()
    >>> bool((layer.weight != before).any())
    True
    """
    model.train()
    return loss_step(model, lambda: loss(model(inputs), target), loss_scale, lr)


def loss_step(
    model: nn.Module, loss: Callable[[], Tensor], loss_scale: float = 1.0, lr: float = 0.01
) -> Step:
    """A function that takes one whole training step, where `loss()` runs the model.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> step = loss_step(layer, lambda: layer(torch.ones(1, 2)).square().mean())
    >>> step()
    """
    import torch

    from nybble.training.optimizers import unscale_

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        scaled = value if loss_scale == 1.0 else value * loss_scale
        scaled.backward()
        if loss_scale != 1.0:
            unscale_(parameters, loss_scale)
        optimizer.step()

    return step
