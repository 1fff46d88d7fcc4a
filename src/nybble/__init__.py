"""4-bit training of neural networks for PyTorch.

import nybble
nybble.convert(model, "sun2020")            # in place; then an ordinary optimizer and loop
print(nybble.summary(model, example_input)) # what really runs in how many bits
"""

from __future__ import annotations

from nybble.convert import convert, loss_scale, revert
from nybble.convolutions import conv1d, conv2d
from nybble.errors import NybbleError, UserError
from nybble.formats import get_format
from nybble.nn.groups import param_groups, unheld_clips
from nybble.nn.hooks import hook_steps
from nybble.nn.memory import ActivationMemory
from nybble.nn.registry import quantized_layers
from nybble.numeric import matmul
from nybble.ops.native.pool import empty_cache
from nybble.ops.spec import LayerSpec
from nybble.phases import in_tail, start_tail
from nybble.quantizers import QTensor, Quantizer, quantize
from nybble.recipes import Recipe, get_recipe
from nybble.serialize import float_state_dict, load, save
from nybble.summary import summary
from nybble.version import __version__
from nybble.watching import watch

__all__ = [
    "ActivationMemory",
    "LayerSpec",
    "NybbleError",
    "QTensor",
    "Quantizer",
    "Recipe",
    "UserError",
    "__version__",
    "conv1d",
    "conv2d",
    "convert",
    "empty_cache",
    "float_state_dict",
    "get_format",
    "get_recipe",
    "hook_steps",
    "in_tail",
    "load",
    "loss_scale",
    "matmul",
    "param_groups",
    "quantize",
    "quantized_layers",
    "revert",
    "save",
    "start_tail",
    "summary",
    "unheld_clips",
    "watch",
]
