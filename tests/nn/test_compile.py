"""torch.compile: the graph breaks at converted layers, what lies between them is compiled, and the
results are those of the model that is not compiled."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import nybble


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(11, 8), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.lstm(self.table(x))[0]))


MODELS = {
    "linear": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)
        ),
        lambda: torch.randn(5, 6),
    ),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3),
        ),
        lambda: torch.randn(4, 2, 8, 8),
    ),
    "lstm": (Words, lambda: torch.randint(11, (3, 5))),
    "transformer": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), nn.Linear(8, 3)
        ),
        lambda: torch.randn(2, 5, 8),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _afresh() -> None:
    torch._dynamo.reset()


def steps(model: nn.Module, call: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs of some training steps, and the parameters after them."""
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.05))
    found = []
    for x in inputs:
        optimizer.zero_grad()
        y = call(x)
        y.square().mean().backward()
        optimizer.step()
        found.append(y.detach())
    return [*found, *(p.detach() for p in model.parameters())]


@pytest.mark.parametrize(
    ("recipe", "activations"),
    [
        ("sun2020", None), ("luq", None), ("nybble4:embedding=yes", None), ("nvfp4", None),
        ("xi2023", None), ("sun2020", "exact"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_model_computes_the_same(
    name: str, recipe: str, activations: str | None
) -> None:
    make, draw = MODELS[name]
    torch.manual_seed(0)
    model = nybble.convert(make(), recipe, seed=3, activations=activations)
    twin, inputs = copy.deepcopy(model), [draw() for _ in range(3)]
    compiled = torch.compile(model, backend="eager")
    expected = steps(twin, twin, inputs)
    found = steps(model, compiled, inputs)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    reasons = torch._dynamo.utils.counters["graph_break"]
    assert all("disable" in reason for reason in reasons), list(reasons)


class Straight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x * 2.0)) + 1.0
        return self.c(torch.relu(self.b(x))) * 3.0


def test_what_lies_between_is_compiled_once() -> None:
    model = nybble.convert(Straight(), "luq:first_last=same")
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count)
    for _ in range(4):
        compiled(torch.randn(5, 6)).sum().backward()
    assert len(graphs) == 4  # before, between and after three layers


def test_the_compiler_is_not_imported_before_somebody_asks() -> None:
    code = (
        "import sys, torch, nybble; m = nybble.convert(torch.nn.Sequential(torch.nn.Linear(4, 4)),"
        " 'bf16'); m(torch.ones(2, 4)).sum().backward(); print('torch._dynamo' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
