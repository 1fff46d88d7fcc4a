"""One process of several: trains a few steps and saves its state_dict. See test_distributed.py.

python -m tests.nn.distributed_child RANK WORLD RECIPE SEED FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import nybble

STEPS = 4


def network() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(conv, middle, nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 4))


def train(rank: int, world: int, recipe: str, seed: int) -> dict[str, Tensor]:
    model = nybble.convert(network(), recipe, seed=seed)
    model(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)))  # sets the clips
    ours = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.05), momentum=0.9)
    nybble.hook_steps(model, optimizer)
    generator = torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        x = torch.randn(8 * world, 3, 6, 6, generator=generator)
        y = torch.randint(0, 4, (8 * world,), generator=generator)
        mine = slice(8 * rank, 8 * rank + 8)
        optimizer.zero_grad()
        F.cross_entropy(ours(x[mine]), y[mine]).backward()
        optimizer.step()
    return dict(model.state_dict())


def main(rank: int, world: int, recipe: str, seed: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    where = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    try:
        torch.save(train(rank, world, recipe, seed), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
