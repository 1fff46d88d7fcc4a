"""The gradients that arrive at every block of a network, on one batch.

    output    of the loss by the output of the block's layer: what the layers above have passed down
    input     by its input: what the layer passes on
    weight    by its weight

and, of a converted layer, the same two products in float32 of the very gradient and operands that
it was given (`exact_input`, `exact_weight`): the difference is what this layer alone adds.

`forward="float32"` takes input and weight of every layer's output Gemm as they are, so that nothing
but the gradients is quantised; `recipe_for` makes that recipe from any other. A loss scale, where a
recipe needs one, is divided out again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError, suggest
from nybble.ops.spec import LayerSpec
from nybble.recipes import Recipe, get_recipe
from nybble.studies.depth.chain import Block, Chain

FORWARDS = ("quantised", "float32")


@dataclass
class Arrived:
    """What one backward pass brought to one layer; see the module."""

    output: Tensor
    input: Tensor
    weight: Tensor
    exact_input: Tensor
    exact_weight: Tensor


@dataclass
class _Seen:
    """What the hooks note of one layer."""

    x: Tensor | None = None
    found: dict[str, Tensor] = field(default_factory=dict)


def recipe_for(recipe: str, forward: str) -> Recipe:
    """The recipe, or the same with its forward pass in float32.

    >>> recipe_for("sun2020", "float32").spec.output_weight is None
    True
    """
    if forward not in FORWARDS:
        raise UserError(
            f"unknown forward '{forward}'; choose one of {', '.join(FORWARDS)}."
            f"{suggest(forward, FORWARDS)}"
        )
    chosen = get_recipe(recipe)
    if forward == "quantised":
        return chosen

    def plain(spec: LayerSpec | None) -> LayerSpec | None:
        if spec is None:
            return None
        # An input has other slots where its first batch holds negative values, and outliers apart.
        others: dict[str, Any] = {"signed_slot": None, "skewed_slot": None, "outliers": None}
        return replace(spec, output_input=None, output_weight=None, **others)

    rules = tuple(replace(rule, spec=plain(rule.spec)) for rule in chosen.rules)
    return replace(chosen, spec=cast(LayerSpec, plain(chosen.spec)), rules=rules)


def converted(model: Chain, recipe: Recipe, seed: int) -> Chain:
    """A converted copy; `seed` is that of the random bits, the weights are the model's."""
    import nybble

    twin = copy.deepcopy(model)
    nybble.convert(twin, recipe, backend="reference", seed=seed)
    return twin


def arriving(model: Chain, inputs: Tensor, target: Tensor) -> list[Arrived]:
    """One forward and one backward pass; what arrived at the layer of every block, from the stem's
    side to the loss. Gradients of the model's parameters are left empty."""
    from nybble.convert import loss_scale

    scale = loss_scale(model)
    blocks = [cast(Block, block) for block in model.blocks]
    notes = [_Seen() for _ in blocks]
    hooks = [
        hook
        for block, note in zip(blocks, notes, strict=True)
        for hook in _watch(block.layer, note)
    ]
    model.train()
    model.zero_grad(set_to_none=True)
    try:
        loss = F.cross_entropy(model(inputs), target)
        (loss * scale).backward()
    finally:
        for hook in hooks:
            hook.remove()
    found = [_arrived(block.layer, note, scale) for block, note in zip(blocks, notes, strict=True)]
    model.zero_grad(set_to_none=True)
    return found


def _watch(layer: nn.Module, note: _Seen) -> tuple[Any, Any]:
    """Note the layer's input, and the gradients of its input and output when they come."""

    def before(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        # A view, so that the hook hears this layer's own gradient only.
        x = arguments[0].view_as(arguments[0])
        note.x = x.detach()
        x.register_hook(lambda grad: note.found.__setitem__("input", grad.clone()))
        return (x,)

    def after(_: nn.Module, __: Any, y: Tensor) -> None:
        # A copy: a converted layer may use the memory of its gradient.
        y.register_hook(lambda grad: note.found.__setitem__("output", grad.clone()))

    return layer.register_forward_pre_hook(before), layer.register_forward_hook(after)


def _arrived(layer: nn.Module, note: _Seen, scale: float) -> Arrived:
    own = cast(nn.Parameter, layer.weight)
    if note.x is None or own.grad is None or len(note.found) != 2:
        raise UserError("depth: no gradient reached a block; is its recipe made for training?")
    with torch.enable_grad():
        x, weight = note.x.requires_grad_(), own.detach().clone().requires_grad_()
        y = F.conv2d(x, weight, padding=1) if own.dim() == 4 else F.linear(x, weight)
        exact = torch.autograd.grad(y, (x, weight), note.found["output"])
    parts = (note.found["output"], note.found["input"], own.grad, *exact)
    return Arrived(*(part.detach() / scale for part in parts))
