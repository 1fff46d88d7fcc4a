"""The layer's side of hooks: their state on the layer, the weight before a forward, the step.

    nybble_hook_<name>    buffers of the layer, in its state_dict, float32 or int64

`hook_steps(model, optimizer)` runs every layer's `after_step` whenever the optimizer has stepped,
through torch's own step hooks; nybble's training loop calls it, own loops have to. A layer whose
weight was stepped without it says so once.

A Gemm may see its weight in another shape than the layer keeps it (a convolution of one dimension,
a part of an attention's projections): buffers are shown to the hook as the Gemm sees the weight.

Not done here: weights that torch computes from others (`parametrize`), where a step may not write;
a hook that sets weights is refused there.
"""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nybble.errors import UserError
from nybble.ops.geometry import Geometry
from nybble.ops.reference.places import places
from nybble.quantizers import Quantizer

if TYPE_CHECKING:
    from nybble.nn.state import QuantizedLayer

__all__ = ["add_buffers", "hook_names", "hook_steps", "hooked_weight"]

PREFIX = "nybble_hook_"


@dataclass
class Seen:
    """What a layer knows of its hook beside the state: the weight as the last training forward saw
    it, the slot there, and the weight's version when it was first seen (-1: do not watch)."""

    weight: Tensor | None = None
    slot: Quantizer | None = None
    version: int | None = None
    stepped: bool = False


def add_buffers(layer: QuantizedLayer) -> None:
    """Give a layer the buffers of its hook, if it has one."""
    layer._nybble_seen = Seen()
    hook = layer.nybble_spec.hook
    if hook is not None:
        for name, tensor in hook.buffers(layer.weight.detach()).items():
            layer.register_buffer(PREFIX + name, tensor)


def hook_names(layer: nn.Module) -> tuple[str, ...]:
    """The names of the buffers of a layer's hook."""
    return tuple(name for name in layer._buffers if name.startswith(PREFIX))


def hooked_weight(layer: QuantizedLayer, weight: Tensor, geometry: Geometry) -> Tensor:
    """The float32 weight that the Gemm takes; `weight`: as the layer's own code passes it."""
    hook = layer.nybble_spec.hook
    if hook is None:
        return weight.float()
    slot = layer.nybble_spec.output_weight
    assert slot is not None  # the hook has checked it
    place = places(geometry, "output")[1]
    slot = replace(slot, scale=slot.scale.along(place.contraction, place.free))
    if torch.is_grad_enabled():
        _look(layer, weight.detach(), slot)
    own = weight.float()
    found = hook.weight(own.detach(), _state(layer, weight), slot)
    if found.data_ptr() == own.data_ptr():
        return own
    result: Tensor = _Instead.apply(own, found)  # type: ignore[no-untyped-call]
    return result


class _Instead(torch.autograd.Function):
    """`apply(weight, other)` is `other`, with the gradient of `weight`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, other: Tensor) -> Tensor:
        return other.view_as(other)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def hook_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Let the hooks of a converted model follow the steps of an optimizer.

    Recipes such as `tetrajet` keep something beside each weight that every step moves. In a loop of
    your own call this once, after the optimizer is made (and after a model is converted anew); it
    changes nothing where no layer has a hook. Returns torch's handle: `.remove()` ends it.

    >>> import nybble
    >>> model = nybble.convert(nn.Sequential(*(nn.Linear(32, 32) for _ in range(3))), "tetrajet")
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> handle = hook_steps(model, optimizer)
    >>> model(torch.randn(4, 32)).sum().backward()
    >>> optimizer.step()
    >>> int(model[1].nybble_hook_steps)
    1
    """
    from nybble.nn.registry import quantized_layers

    watched = weakref.ref(model)

    def stepped(*_: Any) -> None:
        whole = watched()
        for _name, layer in quantized_layers(whole) if whole is not None else ():
            _after_step(layer)

    return optimizer.register_step_post_hook(stepped)


def _after_step(layer: QuantizedLayer) -> None:
    hook, seen = layer.nybble_spec.hook, layer._nybble_seen
    if hook is None or seen.weight is None or seen.slot is None:
        return
    seen.stepped = True
    weight, state = seen.weight, _state(layer, seen.weight)
    if weight.dtype is torch.float32:
        hook.after_step(weight, state, seen.slot)
        return
    wide = weight.float()
    before = wide.clone()
    hook.after_step(wide, state, seen.slot)
    if not torch.equal(before, wide):
        weight.copy_(wide)


def _look(layer: QuantizedLayer, weight: Tensor, slot: Quantizer) -> None:
    """Note what the next step will need; warn once where steps pass without the hook."""
    seen = layer._nybble_seen
    kept, hook = layer.weight, layer.nybble_spec.hook
    assert hook is not None  # or there is nothing to look at
    same = weight.untyped_storage().data_ptr() == kept.untyped_storage().data_ptr()
    if not same or not isinstance(kept, nn.Parameter):
        raise UserError(
            f"{layer.nybble_name}: its weight is computed from other parameters, so {hook.short}"
            " cannot follow its steps; leave the layer in float32 with rules, or take the"
            " parametrization away"
        )
    seen.weight, seen.slot = weight, slot
    if seen.stepped or seen.version == -1:
        return
    if seen.version is None:
        seen.version = kept._version
    elif kept._version > seen.version + 1:
        seen.version = -1
        warnings.warn(
            f"the weight of {layer.nybble_name} is stepped, but its hook ({hook.short}) is not"
            " told: call nybble.hook_steps(model, optimizer) once, after the optimizer is made",
            stacklevel=6,
        )


def _state(layer: QuantizedLayer, weight: Tensor) -> dict[str, Tensor]:
    """The buffers by their short names, those of the weight's size as the Gemm sees it."""
    own = layer.weight
    found = {}
    for full in hook_names(layer):
        buffer = getattr(layer, full)
        if buffer.shape == own.shape and weight.shape != own.shape:
            buffer = _as_seen(layer, full, own, weight)
        found[full.removeprefix(PREFIX)] = buffer
    return found


def _as_seen(layer: QuantizedLayer, full: str, own: Tensor, weight: Tensor) -> Tensor:
    """A view of a buffer that lies in it as `weight`, a view of the parameter, lies in that."""
    buffer = getattr(layer, full)
    if buffer.stride() != own.stride():
        laid = torch.empty_like(own, dtype=buffer.dtype)
        setattr(layer, full, laid.copy_(buffer))
        buffer = laid
    offset = weight.storage_offset() - own.storage_offset()
    return torch.as_strided(buffer, weight.shape, weight.stride(), offset)
