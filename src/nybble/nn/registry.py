"""Which torch layers have a converted class. A new layer is one new file and one line here."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from nybble.nn.bilinear import Bilinear
from nybble.nn.conv import Conv2d
from nybble.nn.conv1d_transformers import conv1d_class, is_conv1d
from nybble.nn.conv_other import (
    Conv1d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from nybble.nn.embedding import Embedding
from nybble.nn.linear import Linear
from nybble.nn.parametrized import parametrized_class, plain_class
from nybble.nn.recurrent import RecurrentGemm, recurrent_class
from nybble.nn.state import QuantizedLayer

LAYERS: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Linear: Linear,
    nn.Bilinear: Bilinear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
    nn.Embedding: Embedding,
}


def converted_class(module: nn.Module) -> type[QuantizedLayer] | None:
    """The class that `module` would become, or None.

    Only exact classes count: a subclass may compute something else in its `forward`.

    >>> converted_class(nn.Linear(2, 3)).__name__
    'Linear'
    """
    cls = type(module)
    base = plain_class(module)
    found = conv1d_class(base) if is_conv1d(base) else LAYERS.get(base)
    if found is None or cls is base:
        return found
    # A table that is computed is looked up before it can be quantised.
    return None if found is Embedding else parametrized_class(module, found)


def layer_types(module: nn.Module) -> frozenset[str]:
    """What a rule's `type` may call this layer.

    >>> sorted(layer_types(nn.Conv2d(8, 8, 1)))
    ['conv', 'conv1x1']
    """
    if isinstance(module, nn.Embedding):
        return frozenset({"embedding"})
    if isinstance(module, RecurrentGemm) or recurrent_class(module) is not None:
        return frozenset({"recurrent"})
    if not isinstance(module, nn.modules.conv._ConvNd):
        return frozenset({"linear"})
    types = {"conv"}
    if set(module.kernel_size) == {1} and module.groups == 1:
        types.add("conv1x1")
    if module.groups > 1 and module.groups == module.in_channels:
        types.add("depthwise")
    if module.transposed:
        types.add("transposed")
    return frozenset(types)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """(name, layer) of every converted layer, in module order; shared layers once."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module
