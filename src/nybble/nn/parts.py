"""The layers of a model that can be converted, wherever they are: `targets`.

Most are modules that change their class. Some are parts of a module: the projections of
`nn.MultiheadAttention`, which torch keeps as parameters, and the two products of attention, which
have none. Such a part becomes a child module; a target's name is the name that it then has, so
rules, `summary` and checkpoints speak of both kinds alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nybble.errors import UserError
from nybble.nn.attention import PRODUCTS, Product, ScaledDotProductAttention
from nybble.nn.attention_transformers import attends_by_registry, give_back, use_products
from nybble.nn.multihead import PROJECTIONS, MultiheadAttention, OutProjection, Projection
from nybble.nn.registry import converted_class, layer_types
from nybble.nn.state import QuantizedLayer
from nybble.ops.geometry import Geometry, Kind

_PARTS = (*PROJECTIONS, *PRODUCTS)


@dataclass(frozen=True)
class Target:
    """A layer that can be converted. `part`: the name of the child that it becomes; "" where it is
    `module` itself."""

    name: str
    module: nn.Module
    types: frozenset[str]
    part: str = ""

    def place(self) -> QuantizedLayer:
        """The layer with its converted class, without state yet (`attach_`)."""
        if self.part in PROJECTIONS:
            return self._child(Projection(self.module, self.part))
        if self.part in PRODUCTS:
            return self._child(Product(self.module))
        module = self.module
        cls = OutProjection if self.part else converted_class(module)
        if cls is None:
            raise TypeError(f"{self.name} lost its class while it was converted")
        module.__class__ = cls
        return cast(QuantizedLayer, module)

    def _child(self, child: QuantizedLayer) -> QuantizedLayer:
        self.module.add_module(self.part, child)
        child.train(self.module.training)
        return child

    @property
    def sample(self) -> Tensor:
        """A tensor of the layer, for its device."""
        found = next(self.module.parameters(), None)
        return torch.empty(0) if found is None else found

    @property
    def geometry(self) -> Geometry:
        """The kind of Gemm; its stride and padding do not matter here."""
        return geometry_of(self.module, self.types)


def targets(model: nn.Module) -> Iterator[Target]:
    """Every layer that is or can be converted, in module order; shared modules once."""
    outs: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield Target(name, module, types_of(module))
        elif id(module) in outs:
            yield Target(name, module, frozenset({"linear"}), "out_proj")
        elif converted_class(module) is not None:
            yield Target(name, module, layer_types(module))
        for part in parts_of(module):
            types = frozenset({"attention" if part in PRODUCTS else "linear"})
            yield Target(f"{name}.{part}" if name else part, module, types, part)
        if type(module) is nn.MultiheadAttention:
            outs[id(module.out_proj)] = name


def parts_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the parts of a module that are not modules yet.

    >>> parts_of(nn.MultiheadAttention(4, 2))
    ('in_proj', 'k_proj', 'v_proj', 'qk_product', 'pv_product')
    """
    cls = type(module)
    if cls is nn.MultiheadAttention:
        return _PARTS
    if cls is ScaledDotProductAttention or attends_by_registry(cls):
        return tuple(name for name in PRODUCTS if name not in module._modules)
    return ()


def types_of(module: nn.Module) -> frozenset[str]:
    """What a rule's `type` may call a converted layer."""
    if isinstance(module, Product):
        return frozenset({"attention"})
    return layer_types(module)


def geometry_of(module: nn.Module, types: frozenset[str] | None = None) -> Geometry:
    """The kind of Gemm of a layer, without its sizes.

    >>> geometry_of(nn.ConvTranspose1d(2, 2, 1)).kind
    'conv_transpose2d'
    """
    types = types_of(module) if types is None else types
    if "attention" in types:
        return Geometry("bmm")
    if "conv" not in types:
        return Geometry("linear")
    dims = "3d" if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) else "2d"
    return Geometry(cast(Kind, ("conv_transpose" if "transposed" in types else "conv") + dims))


def adopt(model: nn.Module) -> None:
    """Let the modules that hold converted parts call them: the last step of a conversion."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and any(
            isinstance(child, QuantizedLayer) for child in module.children()
        ):
            module.__class__ = MultiheadAttention
    use_products(model)


def release(model: nn.Module) -> None:
    """Undo `place` and `adopt`: every layer has its torch class again."""
    give_back(model)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, Projection | Product):
                delattr(module, name)
        if type(module) is MultiheadAttention:
            cast(nn.Module, module).__class__ = nn.MultiheadAttention
        if isinstance(module, QuantizedLayer) and not isinstance(module, Projection | Product):
            module.detach_()
            # (QuantizedLayer, torch's class): the second base is what the layer was.
            module.__class__ = type(module).__bases__[1]


def check_release(model: nn.Module) -> None:
    """Raise UserError where a converted layer got another class meanwhile."""
    for name, module in model.named_modules():
        bases = type(module).__bases__
        changed = isinstance(module, QuantizedLayer) and not isinstance(
            module, Projection | Product
        )
        if changed and not (len(bases) == 2 and issubclass(bases[0], QuantizedLayer)):
            raise UserError(
                f"revert: layer {name!r} was changed after its conversion (its class is"
                f" {type(module).__name__}): take the parametrization away first"
            )


def weights_of(module: nn.Module) -> bool:
    """Whether a module itself holds a weight of two or more dimensions, parametrized or not."""
    own = [p for p in module.parameters(recurse=False) if p.dim() >= 2 and p.is_floating_point()]
    if own:
        return True
    if not parametrize.is_parametrized(module):
        return False
    made_of = cast(nn.ModuleDict, module.parametrizations)
    return any(p.dim() >= 2 for each in made_of.values() for p in each.parameters())
