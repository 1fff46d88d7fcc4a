"""Converted layers: subclasses of torch.nn's own; isinstance and state_dict keys keep working."""

from nybble.nn.conv import Conv2d
from nybble.nn.groups import param_groups
from nybble.nn.linear import Linear
from nybble.nn.registry import converted_class, layer_types, quantized_layers
from nybble.nn.state import QuantizedLayer

__all__ = [
    "Conv2d",
    "Linear",
    "QuantizedLayer",
    "converted_class",
    "layer_types",
    "param_groups",
    "quantized_layers",
]
