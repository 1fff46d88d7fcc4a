"""What converted modules take for one element, forward and backward, with `activations="4bit"`.

    BatchNorm2d.forward, BatchNorm2d.backward, ...   nanoseconds an element of the input

A converted module replaces all of torch's operators inside it by one function that computes and
compresses, so it has one row each way, whatever operators a trace lists. BatchNorm2d+ReLU is the
pair that `nybble.convert` joins. Their inputs are fresh, as behind a convolution or a sum, and
may be written over where the module does so.

Not done here: blocks with an activation inside (TransformerEncoderLayer), softmax as a module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from nybble.convert import convert
from nybble.hardware.cpu.probe_operators import Row, columns_of
from nybble.hardware.cpu.probe_quantisers import RECIPE
from nybble.hardware.cpu.shapes import MODULE_ELEMENTS
from nybble.hardware.cpu.timing import Timing, time_passes

__all__ = ["JOINED", "MODULES", "probe_modules"]

JOINED: Final = "BatchNorm2d+ReLU"
_IMAGES: Final[dict[str, Callable[[int], list[nn.Module]]]] = {
    "BatchNorm2d": lambda columns: [nn.BatchNorm2d(columns)],
    JOINED: lambda columns: [nn.BatchNorm2d(columns), nn.ReLU(inplace=True)],
    "ReLU": lambda columns: [nn.ReLU(inplace=True)],
    "ReLU6": lambda columns: [nn.ReLU6(inplace=True)],
    "MaxPool2d": lambda columns: [nn.MaxPool2d(2)],
    "AdaptiveAvgPool2d": lambda columns: [nn.AdaptiveAvgPool2d(1)],
}
_ROWS: Final[dict[str, Callable[[int], list[nn.Module]]]] = {
    "LayerNorm": lambda columns: [nn.LayerNorm(columns)],
    "GELU": lambda columns: [nn.GELU()],
    "SiLU": lambda columns: [nn.SiLU()],
    "Dropout": lambda columns: [nn.Dropout(0.1)],
}
MODULES: Final = (*_IMAGES, *_ROWS)


def probe_modules(
    timing: Timing,
    sizes: tuple[int, ...] = MODULE_ELEMENTS,
    names: tuple[str, ...] = MODULES,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """(name, elements, seconds), the names as in the module."""
    rows: list[Row] = []
    for size in sizes:
        for name in names:
            say(f"{name}, {size} elements")
            function, x = _case(name, size)
            times = time_passes(function, x, timing, owned=True)
            for phase, seconds in zip(("forward", "backward"), times, strict=True):
                rows.append((f"{name}.{phase}", size, seconds))
    return rows


def _case(name: str, size: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The converted modules as a function, and their input."""
    columns = columns_of(size)
    x = torch.randn(size // columns, columns, generator=torch.Generator().manual_seed(1))
    made = (_IMAGES.get(name) or _ROWS[name])(columns)
    source: nn.Module = nn.Identity()
    if name in _IMAGES:
        high = 8 if x.shape[0] % 64 == 0 else 1
        x = x.view(-1, high, high, columns).permute(0, 3, 1, 2)
        source = nn.Conv2d(columns, columns, 1, bias=False)  # so that it is seen as fresh
    model = nn.Sequential(source, *made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no layer to convert
        convert(model, RECIPE, {"re:.": None} if name in _IMAGES else None, activations="4bit")
    model.train()
    modules = list(model)[1:]

    def function(value: Tensor) -> Tensor:
        box = [value]
        del value
        for module in modules:
            box.append(module(box.pop()))
        return box.pop()

    return function, x
