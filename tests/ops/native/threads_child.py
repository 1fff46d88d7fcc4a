"""Training on native kernels from many threads and processes: run as a child, see test_threads.py.

python -m tests.ops.native.threads_child together | counts | fork
"""

from __future__ import annotations

import sys
import threading

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import nybble

STEPS = 6


def model_of(seed: int) -> nn.Module:
    """A small network, without anything whose sums are torch's own: no layer is exempt, since those
    of 16 bits are torch's operators, whose sums may depend on the threads."""
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, stride=1 + seed % 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * (64 if seed % 2 == 0 else 16), 10, bias=False),
    )
    recipe = "sun2020:first_last=int4" + ("", "+factor=stochastic")[seed // 2 % 2]
    nybble.convert(body, recipe, backend="native", seed=seed)
    return body


def train(seed: int, model: nn.Module) -> list[Tensor]:
    """The weights after a few steps, each with a gradient of a fixed function of the output."""
    make = torch.Generator().manual_seed(seed)
    x, target = torch.rand(8, 3, 8, 8, generator=make), torch.randn(8, 10, generator=make)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        y = model(x)
        y.backward((y - target).detach() / 80.0)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def check(a: list[Tensor], b: list[Tensor], what: str) -> None:
    if not all(torch.equal(p, q) for p, q in zip(a, b, strict=True)):
        sys.exit(f"{what}: other weights")
    if not all(bool(p.isfinite().all()) for p in a):
        sys.exit(f"{what}: weights that are not finite")


def together() -> None:
    """Four Python threads, four models, at once: the weights are those of one after the other."""
    torch.set_num_threads(2)
    alone = [train(seed, model_of(seed)) for seed in range(4)]
    for _ in range(3):
        models = [model_of(seed) for seed in range(4)]
        found: list[list[Tensor]] = [[] for _ in models]
        start = threading.Barrier(len(models))

        def work(seed: int, models=models, found=found, start=start) -> None:  # type: ignore[no-untyped-def]
            start.wait()
            found[seed] = train(seed, models[seed])

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(len(models))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, weights in enumerate(found):
            check(alone[seed], weights, f"model {seed}")


def counts() -> None:
    """One, two and three threads inside of a kernel."""
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append([train(seed, model_of(seed)) for seed in range(2)])
    for count, weights in zip((2, 3), found[1:], strict=True):
        for seed in range(2):
            check(found[0][seed], weights[seed], f"{count} threads, model {seed}")


class Quantized(Dataset[Tensor]):
    """Items that are made by native kernels."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(index))
        with torch.no_grad():
            y: Tensor = self.model(x)
        return y


def fork() -> None:
    """Workers of a DataLoader, forked after kernels ran on several threads."""
    torch.set_num_threads(2)
    model = model_of(0)
    train(0, model)
    model.eval()
    data = Quantized(model)
    here = [data[i] for i in range(len(data))]
    for _ in range(2):
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
        check(here, list(loader), "forked workers")
        train(0, model_of(0))


if __name__ == "__main__":
    {"together": together, "counts": counts, "fork": fork}[sys.argv[1]]()
