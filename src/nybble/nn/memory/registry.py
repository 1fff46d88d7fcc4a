"""Which modules keep less, by class; putting them in and taking them out."""

from __future__ import annotations

from torch import nn

from nybble.errors import UserError
from nybble.nn.memory.attention import AttentionScope, Softmax, attends, scope_class
from nybble.nn.memory.base import MemoryLayer, memory_layers
from nybble.nn.memory.feed_forward import Block, DecoderLayer, EncoderLayer, kind_of
from nybble.nn.memory.fuse import Pairs, find_pairs, writes_fresh
from nybble.nn.memory.norm import BatchNorm1d, BatchNorm2d, LayerNorm, _BatchNorm
from nybble.nn.memory.options import ActivationMemory
from nybble.nn.memory.pointwise import GELU, Dropout, LeakyReLU, ReLU, ReLU6, SiLU
from nybble.nn.memory.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

CLASSES: dict[type[nn.Module], type[MemoryLayer]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.LayerNorm: LayerNorm,
    nn.ReLU: ReLU,
    nn.ReLU6: ReLU6,
    nn.LeakyReLU: LeakyReLU,
    nn.GELU: GELU,
    nn.SiLU: SiLU,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.Dropout: Dropout,
    nn.Softmax: Softmax,
    nn.TransformerEncoderLayer: EncoderLayer,
    nn.TransformerDecoderLayer: DecoderLayer,
}
"""Exact classes only: a subclass may compute something else in its `forward`."""


def memory_class(module: nn.Module, options: ActivationMemory) -> type[MemoryLayer] | None:
    """The class that `module` would become, or None.

    >>> memory_class(nn.ReLU(), ActivationMemory()).__module__
    'nybble.nn.memory.pointwise'
    """
    cls = CLASSES.get(type(module))
    if cls is None and options.attention and not isinstance(module, MemoryLayer):
        cls = scope_class(type(module)) if attends(type(module)) else None
    if cls is None:
        return None
    kind = kind_of(module) if issubclass(cls, Block) else cls.memory_kind
    return cls if kind in options.kinds else None


def compress_memory(model: nn.Module, options: ActivationMemory, backend: str) -> None:
    """Make the modules of `model` keep less for backward, in place."""
    pairs = find_pairs(model) if options.fuse or options.in_place else Pairs()
    for module in model.modules():
        cls = memory_class(module, options)
        if cls is not None:
            module.__class__ = cls
            if not isinstance(module, MemoryLayer):
                raise TypeError(f"{cls.__name__} is no MemoryLayer")
            module.attach_memory_(backend)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            relu, source = pairs.relu_of.get(module), pairs.conv_of.get(module)
            if options.fuse and isinstance(relu, ReLU):
                module._nybble_memory_fused = (relu,)
            if options.in_place and source is not None and writes_fresh(source):
                module._nybble_memory_source = (source,)
        elif isinstance(module, ReLU):
            module._nybble_memory_in_place = options.in_place and module in pairs.over_sum
    model.__dict__["_nybble_memory_options"] = options
    model.__dict__["_nybble_memory_untraced"] = tuple(pairs.untraced)


def restore_memory(model: nn.Module) -> None:
    """Undo `compress_memory`."""
    for name, module in list(memory_layers(model)):
        if type(module).__bases__[0] not in (MemoryLayer, _BatchNorm, AttentionScope, Block):
            raise UserError(
                f"revert: module {name!r} was changed after its conversion (its class is"
                f" {type(module).__name__}): take the parametrization away first"
            )
        module.detach_memory_()
        module.__class__ = type(module).__bases__[1]
    for name in ("_nybble_memory_options", "_nybble_memory_untraced"):
        model.__dict__.pop(name, None)


def memory_options(model: nn.Module) -> ActivationMemory | None:
    """The options that `model` was converted with, None without."""
    options = model.__dict__.get("_nybble_memory_options")
    return options if isinstance(options, ActivationMemory) else None


def not_joined(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """(name, reason) of modules that could not be traced, so that nothing in them was joined."""
    untraced = model.__dict__.get("_nybble_memory_untraced", ())
    return tuple((str(name), str(why)) for name, why in untraced)
