"""A recipe is data: six slots and a few rules. This one changes the gradients of sun2020.

python examples/02_a_recipe_of_your_own.py
"""

from dataclasses import replace

import torch
from torch import nn

import nybble
from nybble.formats import Stochastic, get_format
from nybble.quantizers import AbsMax, Quantizer
from nybble.recipes import Recipe, Rule


def integer_gradients() -> Recipe:
    """INT4 gradients by their maximum, rounded stochastically; the last layer float32."""
    gradient = Quantizer(get_format("int4_sym"), AbsMax(), Stochastic())
    spec = nybble.get_recipe("sun2020").spec
    return Recipe(
        name="integer-gradients",
        title="INT4 everywhere",
        source="this example",
        spec=replace(spec, grad_input_grad=gradient, grad_weight_grad=gradient),
        rules=(Rule(None, position="last", why="the classifier stays in float32"),),
    )


def main() -> float:
    """One step by the recipe; returns how far its weight gradient is from float32's."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
    x, labels = torch.rand(256, 64), torch.randint(10, (256,))
    nn.functional.cross_entropy(plain(x), labels).backward()
    expected = plain[0].weight.grad.clone()
    plain.zero_grad()
    model = nybble.convert(plain, integer_gradients(), seed=0)
    nn.functional.cross_entropy(model(x), labels).backward()
    error = ((model[0].weight.grad - expected).norm() / expected.norm()).item()
    print(nybble.summary(model, x))
    print(f"relative error of the first layer's weight gradient: {error:.2f}")
    return error


if __name__ == "__main__":
    main()
