"""Every recipe trains an MLP, a CNN and an LSTM; a run that is saved and loaded is the same run."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nybble

RECIPES = [
    "ufp4",
    "four-over-six",
    "fp4-all-the-way",
    "wang2025",
    "quartet",
    "quartet2",
    "tetrajet",
    "tetrajet2",
    "xi2023",
]
STEPS = 12


class LastOfLSTM(nn.Module):
    """[batch, time, 6] to 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])  # type: ignore[no-any-return]


def mlp() -> tuple[nn.Module, Tensor]:
    layers = (nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 5))
    return nn.Sequential(*layers), torch.randn(32, 20)


def cnn() -> tuple[nn.Module, Tensor]:
    layers = (
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    return nn.Sequential(*layers), torch.randn(16, 2, 8, 8)


def lstm() -> tuple[nn.Module, Tensor]:
    return LastOfLSTM(), torch.randn(12, 5, 6)


class Run:
    """A model, its optimizer, one batch."""

    def __init__(self, make: Callable[[], tuple[nn.Module, Tensor]], recipe: str) -> None:
        torch.manual_seed(0)
        self.model, self.x = make()
        self.target = torch.randint(5, (len(self.x),))
        nybble.convert(self.model, recipe, seed=1)
        groups = nybble.param_groups(self.model, lr=1e-2)
        self.optimizer = torch.optim.Adam(groups, lr=1e-2)
        nybble.hook_steps(self.model, self.optimizer)

    def steps(self, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss = F.cross_entropy(self.model(self.x), self.target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


@pytest.mark.parametrize("make", [mlp, cnn, lstm])
@pytest.mark.parametrize("recipe", RECIPES)
def test_trains_and_resumes_bit_for_bit(
    recipe: str, make: Callable[[], tuple[nn.Module, Tensor]]
) -> None:
    whole = Run(make, recipe)
    losses = whole.steps(STEPS)
    assert losses[-1] < 0.8 * losses[0]
    first = Run(make, recipe)
    assert first.steps(5) == losses[:5]
    model, optimizer = (copy.deepcopy(o.state_dict()) for o in (first.model, first.optimizer))
    second = Run(make, recipe)
    second.model.load_state_dict(model)
    second.optimizer.load_state_dict(optimizer)
    assert second.steps(STEPS - 5) == losses[5:]
    ours, theirs = second.model.state_dict(), whole.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_trains_a_step(recipe: str) -> None:
    for switch in nybble.get_recipe(recipe).switches:
        for choice in switch.choices:
            torch.manual_seed(0)
            layers = (nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 33), nn.Linear(33, 4))
            model = nybble.convert(nn.Sequential(*layers), f"{recipe}:{switch.name}={choice}")
            model(torch.randn(10, 20)).square().sum().backward()
            for name, layer in nybble.quantized_layers(model):
                grad = layer.weight.grad
                assert grad is not None
                assert bool(grad.isfinite().all()), (switch.name, choice, name)
                assert bool(grad.any()), (switch.name, choice, name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_but_the_default_changes_the_recipe(recipe: str) -> None:
    default = nybble.get_recipe(recipe)
    for switch in default.switches:
        for choice in switch.choices:
            other = nybble.get_recipe(f"{recipe}:{switch.name}={choice}")
            same = (other.spec, other.rules, other.tail) == (
                default.spec, default.rules, default.tail,
            )  # fmt: skip
            assert same == (choice == switch.default), (switch.name, choice)


class Attending(nn.Module):
    """A table, attention, an LSTM: what recipes leave alone unless asked, and the time loop."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lstm = nn.LSTM(16, 12, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.lstm(x)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("recipe", RECIPES)
def test_tables_and_attention_where_they_are_asked_for(recipe: str) -> None:
    torch.manual_seed(0)
    model = nybble.convert(Attending(), f"{recipe}:embedding=yes+attention=yes+first_last=same")
    names = [name for name, _ in nybble.quantized_layers(model)]
    assert {"table", "attention.qk_product", "attention.in_proj", "lstm.hh_l0", "head"} <= set(
        names
    )
    tokens, target = torch.randint(11, (6, 7)), torch.randint(5, (6,))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    nybble.hook_steps(model, optimizer)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(tokens), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in model.named_parameters():
        assert bool(parameter.isfinite().all()), name
