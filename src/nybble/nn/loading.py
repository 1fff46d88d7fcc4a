"""Parts of modules start afresh when weights come without their state, as every layer does.

torch shows a child only its own keys of a state_dict, but the weights of a part are its owner's: a
projection's the owner's parameter, and what attention multiplies comes from the layers around it.
So the part's holder, the nearest module above that has weights, looks before its children load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from nybble.nn.attention import Product
from nybble.nn.multihead import Projection

_HOOK = "_nybble_load_hook"


def watch_loads(model: nn.Module) -> None:
    """Let the holders of parts in `model` look at what is loaded into them."""
    modules = dict(model.named_modules())
    for name, _ in _parts(model):
        holder = modules[_holder(name, modules)]
        if _HOOK not in holder.__dict__:
            holder.__dict__[_HOOK] = holder.register_load_state_dict_pre_hook(_look)


def ignore_loads(model: nn.Module) -> None:
    """Undo `watch_loads`."""
    for module in model.modules():
        if _HOOK in module.__dict__:
            module.__dict__.pop(_HOOK).remove()


def _parts(module: nn.Module) -> Iterator[tuple[str, Projection | Product]]:
    for name, part in module.named_modules():
        if isinstance(part, Projection | Product):
            yield name, part


def _holder(name: str, modules: dict[str, nn.Module]) -> str:
    """The name of the nearest module above `name` that has weights; the whole's if none has."""
    while name:
        name = name.rpartition(".")[0]
        if any(_is_weight(key) for key, _ in modules[name].named_parameters()):
            break
    return name


def _is_weight(key: str) -> bool:
    return not key.rpartition(".")[2].startswith("nybble_")


def _look(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    if not any(key.startswith(prefix) and _is_weight(key) for key in state_dict):
        return
    modules = dict(module.named_modules())
    for name, part in _parts(module):
        if _holder(name, modules):
            continue  # another's
        if isinstance(part, Projection) and not part.comes_with(state_dict, prefix):
            continue
        for state in part.state_names():
            if f"{prefix}{name}.{state}" not in state_dict:
                part._reset(state)
