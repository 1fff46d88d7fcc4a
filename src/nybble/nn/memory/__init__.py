"""Modules that keep less for their backward pass: `nybble.convert(model, ..., activations="4bit")`.

options.py    which kinds are compressed, and what that does to gradients
grid.py       where the sixteen codes of a normalised value lie
norm.py       BatchNorm, LayerNorm       pointwise.py  ReLU, GELU, Dropout
pool.py       pooling                    attention.py  softmax, attention
fuse.py       which modules work on each other's results
registry.py   by class: putting in and taking out
"""

from nybble.nn.memory.attention import attention
from nybble.nn.memory.base import MemoryLayer, memory_layers
from nybble.nn.memory.options import ActivationMemory, resolve_memory
from nybble.nn.memory.registry import (
    compress_memory,
    memory_options,
    not_joined,
    restore_memory,
)

__all__ = [
    "ActivationMemory",
    "MemoryLayer",
    "attention",
    "compress_memory",
    "memory_layers",
    "memory_options",
    "not_joined",
    "resolve_memory",
    "restore_memory",
]
