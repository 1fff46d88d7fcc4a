"""Where the time of an emulated training step goes: torch operators by their own CPU time.

    python benchmarks/step_profile.py --model resnet14 --recipe sun2020 --threads 1 --top 15

Prints, for float32 and for the recipe, milliseconds a step of every operator and how often it is
called, and then what the recipe's step has on top, operator by operator.  The profiler slows the
step down: use it to find the place, and `nybble bench emulation` to measure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from nybble.convert import convert
from nybble.recipes import get_recipe
from nybble.studies.steptime import training_step
from nybble.training.models.registry import build_model

Costs = dict[str, tuple[float, float]]
"""Operator -> (own CPU milliseconds a step, calls a step)."""


def make_step(name: str, args: argparse.Namespace) -> Callable[[], None]:
    """One training step of the model under the recipe `name`, on random images."""
    torch.manual_seed(0)
    shape = (args.batch_size, args.channels, args.size, args.size)
    images, labels = torch.randn(shape), torch.randint(0, 10, (args.batch_size,))
    model = build_model(args.model, 10, args.channels)
    recipe = get_recipe(name)
    if name != "fp32":
        convert(model, recipe, backend="reference")
    loss = torch.nn.functional.cross_entropy
    return training_step(model, loss, images, labels, loss_scale=float(recipe.loss_scale))


def costs(step: Callable[[], None], steps: int) -> Costs:
    """Profile `steps` steps after two that are not counted."""
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    return {
        event.key: (event.self_cpu_time_total / 1000 / steps, event.count / steps)
        for event in profiler.key_averages()
    }


def table(title: str, found: Costs, top: int) -> list[str]:
    """The `top` most expensive operators, and the sum of all."""
    total = sum(milliseconds for milliseconds, _ in found.values())
    lines = [f"{title}: {total:.1f} ms a step in all operators"]
    ordered = sorted(found.items(), key=lambda item: -item[1][0])[:top]
    for name, (milliseconds, calls) in ordered:
        lines.append(f"  {milliseconds:8.2f} ms  {calls:7.1f} calls  {name}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of an emulated step goes.")
    parser.add_argument("--model", default="resnet14")
    parser.add_argument("--recipe", default="sun2020")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--top", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = costs(make_step("fp32", args), args.steps)
    four = costs(make_step(args.recipe, args), args.steps)
    extra = {
        name: (ms - base.get(name, (0.0, 0.0))[0], calls - base.get(name, (0.0, 0.0))[1])
        for name, (ms, calls) in four.items()
    }
    for title, found in (("fp32", base), (args.recipe, four), ("on top of fp32", extra)):
        print("\n".join(table(title, found, args.top)), end="\n\n")


if __name__ == "__main__":
    main()
