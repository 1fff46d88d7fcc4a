"""Which torch layers have a converted class. A new layer is one new file and one line here."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from nybble.nn.conv import Conv2d
from nybble.nn.conv1d_transformers import conv1d_class, is_conv1d
from nybble.nn.linear import Linear
from nybble.nn.recurrent import RecurrentGemm, gemm_names, recurrent_class
from nybble.nn.state import QuantizedLayer

LAYERS: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
}


def converted_class(module: nn.Module) -> type[QuantizedLayer] | None:
    """The class that `module` would become, or None.

    Only exact classes count: a subclass may compute something else in its `forward`.

    >>> converted_class(nn.Linear(2, 3)).__name__
    'Linear'
    """
    cls = type(module)
    if is_conv1d(cls):
        return conv1d_class(cls)
    return LAYERS.get(cls)


def layer_names(name: str, module: nn.Module) -> list[str]:
    """The names of the layers that `convert` sees in one module: its own, or one for each Gemm of
    a recurrent layer; none where there is no converted class.

    >>> layer_names("net", nn.GRU(2, 3)), layer_names("net", nn.ReLU())
    (['net.ih_l0', 'net.hh_l0'], [])
    """
    if recurrent_class(module) is not None:
        return [f"{name}.{part}" if name else part for part in gemm_names(module)]
    known = converted_class(module) is not None or isinstance(module, QuantizedLayer)
    return [name] if known else []


def layer_types(module: nn.Module) -> frozenset[str]:
    """What a rule's `type` may call this layer.

    >>> sorted(layer_types(nn.Conv2d(8, 8, 1)))
    ['conv', 'conv1x1']
    """
    if isinstance(module, RecurrentGemm) or recurrent_class(module) is not None:
        return frozenset({"recurrent"})
    if not isinstance(module, nn.Conv2d):
        return frozenset({"linear"})
    types = {"conv"}
    if set(module.kernel_size) == {1} and module.groups == 1:
        types.add("conv1x1")
    if module.groups > 1 and module.groups == module.in_channels:
        types.add("depthwise")
    return frozenset(types)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """(name, layer) of every converted layer, in module order; shared layers once."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module
