"""Layers whose weight is computed by `torch.nn.utils.parametrize`: weight_norm, spectral_norm, ...

torch gives such a module a class of its own with the weight as a property, computed at every
access. The converted class inherits that class too, so the property stays and the gradient flows on
to what the weight is made of; a forward computes the weight once. Both phases of torch's older
hooks (`torch.nn.utils.weight_norm`) work without this: they set the weight before each forward.

Not done here: taking a parametrization off a converted layer; `nybble.revert` the model first.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.nn.utils import parametrize

from nybble.nn.state import QuantizedLayer

_MADE = "_nybble_converted_class"


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or for a parametrized one the class that it was.

    >>> from torch.nn.utils.parametrizations import weight_norm
    >>> plain_class(weight_norm(nn.Linear(2, 2))).__name__
    'Linear'
    """
    cls = type(module)
    if parametrize.is_parametrized(module) and cls.__name__.startswith("Parametrized"):
        return cls.__bases__[0]
    return cls


def parametrized_class(module: nn.Module, converted: type[QuantizedLayer]) -> type[QuantizedLayer]:
    """The converted class of a parametrized module, made once a class."""
    own = type(module)
    if _MADE not in own.__dict__:

        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with parametrize.cached():
                return converted.forward(self, *args, **kwargs)

        members = {"forward": forward, "__module__": __name__}
        setattr(own, _MADE, type(own.__name__, (converted, own), members))
    return cast(type[QuantizedLayer], own.__dict__[_MADE])
