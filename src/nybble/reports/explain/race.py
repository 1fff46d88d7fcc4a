"""The race: one network, the same digits in the same order, trained in three ways.

    float32            no 4 bits anywhere
    INT4 everything    `networks.int4_everywhere`
    the paper's way    the recipe `sun2020`

The training loss is kept of every step; every `EVERY` steps also the accuracy on all test digits,
and what each network takes ten of them for. Further seeds run for their last accuracy alone: one
race could be luck.

Torch computes on one thread meanwhile: networks this small gain nothing by more, and the numbers
do not depend on the cores of the machine.

Not done here: the time a step takes. `nybble bench` measures it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.recipes import Recipe, get_recipe
from nybble.reports.explain.networks import BATCH, begin, int4_everywhere
from nybble.reports.explain.words import number, percent
from nybble.training.data.base import ImageData
from nybble.training.data.batches import Batches

EVERY = 5
TEST_BATCH = 500
Advance = Callable[[str, int, int], None]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, with the caller's random state and threads restored behind it."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def racers(recipe: str) -> list[tuple[str, str, str | Recipe]]:
    """(key, name on the page, recipe) of every racer."""
    return [
        ("float", str(torch.float32).removeprefix("torch."), "fp32"),
        ("linear", int4_everywhere().title, int4_everywhere()),
        ("paper", "the paper's recipe", recipe),
    ]


def race(
    data: ImageData,
    model: str,
    recipe: str,
    seed: int,
    steps: int,
    seeds: int,
    advance: Advance,
) -> dict[str, Any]:
    """Run it; `seeds`: how many races there are, the first being shown step by step."""
    field = racers(recipe)
    entries: list[dict[str, Any]] = []
    total, done = len(field) * seeds, 0
    for key, name, how in field:
        advance(f"race: {name}", done, total)
        entries.append({"key": key, "name": name, **_run(data, model, how, seed, steps, full=True)})
        done += 1
    for extra in range(1, seeds):
        for entry, (_, name, how) in zip(entries, field, strict=True):
            advance(f"race {extra + 1}: {name}", done, total)
            found = _run(data, model, how, seed + extra, steps, full=False)
            entry["finals"].append(found["finals"][0])
            done += 1
    advance("race", total, total)
    return {
        "seed": seed,
        "seeds": seeds,
        "steps": steps,
        "batch": BATCH,
        "train": len(data.train_x),
        "test": len(data.test_x),
        "at": _moments(steps),
        "wide_ends": any(rule.position for rule in get_recipe(recipe).rules),
        "chance": 1 / len(data.classes),
        "scale": [[v / 4, percent(v / 4)] for v in range(5)],
        "digits": _digits(data),
        "racers": entries,
    }


def _run(
    data: ImageData, model: str, recipe: str | Recipe, seed: int, steps: int, full: bool
) -> dict[str, Any]:
    """Losses of every step, accuracies and guesses at `_moments`; only the last if not `full`."""
    started = begin(model, recipe, data, seed, steps)
    net = started.model
    batches = Batches(data, BATCH, seed, "none")
    losses: list[float] = []
    accuracies, guesses = [], []
    moments = set(_moments(steps) if full else [steps])
    for step in range(steps + 1):
        if step in moments:
            found = _answers(net, batches)
            accuracies.append(float((found == data.test_y).float().mean()))
            guesses.append(found[_shown(data)].tolist())
        if step == steps:
            break
        started.rate(step)
        x, y = batches.batch(*divmod(step, batches.steps_per_epoch))
        loss = F.cross_entropy(net(x), y)
        started.optimizer.zero_grad()
        loss.backward()
        started.optimizer.step()
        losses.append(loss.item())
    return {
        "losses": losses,
        "accuracies": accuracies,
        "accuracies_text": [percent(v) for v in accuracies],
        "losses_text": [number(losses[t - 1]) for t in sorted(moments)],
        "guesses": guesses,
        "finals": accuracies[-1:],
    }


def _moments(steps: int) -> list[int]:
    """After how many steps there is a test: EVERY, 2 EVERY, .., and the last. Not before the first
    step: learned clips are set by the first batch that a layer sees, which must be one to learn."""
    return sorted({*range(EVERY, steps, EVERY), steps})


@torch.no_grad()
def _answers(net: nn.Module, batches: Batches) -> Tensor:
    net.eval()
    found = [
        net(batches.test_batch(start, TEST_BATCH)[0]).argmax(1)
        for start in range(0, len(batches.data.test_x), TEST_BATCH)
    ]
    net.train()
    return torch.cat(found)


def _shown(data: ImageData) -> Tensor:
    """The first test digit of every class."""
    labels = data.test_y.tolist()
    return torch.tensor([labels.index(k) for k in range(len(data.classes)) if k in labels])


def _digits(data: ImageData) -> dict[str, Any]:
    chosen = _shown(data)
    images = data.test_x[chosen][:, 0].contiguous()
    return {
        "side": int(images.shape[-1]),
        "labels": data.test_y[chosen].tolist(),
        "pixels": base64.b64encode(images.numpy().tobytes()).decode(),
    }
