"""Converted layers: subclasses of torch.nn's own; isinstance and state_dict keys keep working."""

from nybble.nn.attention import ScaledDotProductAttention, scaled_dot_product_attention
from nybble.nn.bilinear import Bilinear
from nybble.nn.conv import Conv2d
from nybble.nn.conv_other import (
    Conv1d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from nybble.nn.embedding import Embedding
from nybble.nn.groups import param_groups
from nybble.nn.linear import Linear
from nybble.nn.multihead import MultiheadAttention
from nybble.nn.registry import converted_class, layer_types, quantized_layers
from nybble.nn.state import QuantizedLayer

__all__ = [
    "Bilinear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "Linear",
    "MultiheadAttention",
    "QuantizedLayer",
    "ScaledDotProductAttention",
    "converted_class",
    "layer_types",
    "param_groups",
    "quantized_layers",
    "scaled_dot_product_attention",
]
