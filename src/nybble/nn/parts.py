"""The layers of a model that can be converted, wherever they are: `targets`.

Most are modules that change their class. Some are parts of a module: the projections of
`nn.MultiheadAttention` and the Gemms of a recurrent layer, whose weights torch keeps as parameters,
and the two products of attention, which have none. Such a part becomes a child module; a target's
name is the name that it then has, so rules, `summary` and checkpoints speak of both kinds alike. A
rule that names the whole means each of its parts.
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
from nybble.nn.loading import ignore_loads, watch_loads
from nybble.nn.multihead import PROJECTIONS, MultiheadAttention, OutProjection, Projection
from nybble.nn.recurrent import (
    Recurrent,
    RecurrentGemm,
    attach_gemm,
    gemm_names,
    recurrent_class,
    top_names,
)
from nybble.nn.registry import converted_class, layer_types
from nybble.nn.state import QuantizedLayer
from nybble.ops.geometry import Geometry, Kind
from nybble.ops.native.plan import Reason, why_not
from nybble.ops.native.recurrent import why_not_native
from nybble.ops.spec import LayerSpec

_PARTS = (*PROJECTIONS, *PRODUCTS)
_CHILDREN = (Projection, Product, RecurrentGemm)


@dataclass(frozen=True)
class Target:
    """A layer that can be converted. `part`: the name of the child that it becomes; "" where it is
    `module` itself. `owner`: the name of the whole whose name means all its parts."""

    name: str
    module: nn.Module
    types: frozenset[str]
    part: str = ""
    owner: str | None = None

    def place(self) -> QuantizedLayer:
        """The layer with its converted class, without state yet (`attach_`)."""
        if self.part in PROJECTIONS:
            return self._child(Projection(self.module, self.part))
        if self.part in PRODUCTS:
            return self._child(Product(self.module))
        if self.bound:
            return attach_gemm(self.module, self.part)
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
    def bound(self) -> bool:
        """Whether `module` is converted with all its parts or with none: its loop calls them."""
        return "recurrent" in self.types

    @property
    def ends(self) -> tuple[bool, bool]:
        """Whether it is the first, and the last, that multiplies where `module` is: of a stack the
        Gemms that take its input, and those of its top layer."""
        if not self.bound:
            return True, True
        first, last = top_names(self.module)
        return self.part in first, self.part in last

    def why_not_native(self, spec: LayerSpec, gemm: str) -> Reason | None:
        """Why a Gemm of a native layer runs on the reference backend; None if it does not."""
        if self.bound and not self.part.startswith("ih") and gemm != "grad_weight":
            return why_not_native(spec, gemm, bool(getattr(self.module, "proj_size", 0)))
        # The kind of Gemm; its stride and padding do not matter here.
        return why_not(spec, geometry_of(self.module, self.types), gemm)


def targets(model: nn.Module) -> Iterator[Target]:
    """Every layer that is or can be converted, in module order; shared modules once.

    >>> [t.name for t in targets(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.GRU(2, 3)}))]
    ['a', 'b.ih_l0', 'b.hh_l0']
    """
    outs: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield _converted(name, module)
        elif id(module) in outs:
            yield Target(name, module, frozenset({"linear"}), "out_proj", outs[id(module)])
        elif converted_class(module) is not None:
            yield Target(name, module, layer_types(module))
        whole = type(module) is nn.MultiheadAttention or recurrent_class(module) is not None
        for part in parts_of(module):
            types = frozenset({"attention"}) if part in PRODUCTS else layer_types(module)
            types |= _time_loop(types, part)
            full = f"{name}.{part}" if name else part
            yield Target(full, module, types, part, name if whole else None)
        if type(module) is nn.MultiheadAttention:
            outs[id(module.out_proj)] = name


def _converted(name: str, layer: QuantizedLayer) -> Target:
    if not isinstance(layer, RecurrentGemm):
        return Target(name, layer, types_of(layer))
    owner = name.rpartition(".")[0]
    part = layer.nybble_part
    types = types_of(layer)
    return Target(name, layer.nybble_owner, types | _time_loop(types, part), part, owner)


def _time_loop(types: frozenset[str], part: str) -> frozenset[str]:
    """What a Gemm of the hidden state of a recurrent layer is besides."""
    inside = "recurrent" in types and not part.startswith("ih")
    return frozenset({"time-loop"}) if inside else frozenset()


def reason_not_native(layer: QuantizedLayer, spec: LayerSpec, gemm: str) -> Reason | None:
    """`Target.why_not_native` of a converted layer."""
    return _converted("", layer).why_not_native(spec, gemm)


def parts_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the parts of a module that are not modules yet.

    >>> parts_of(nn.MultiheadAttention(4, 2))
    ('in_proj', 'k_proj', 'v_proj', 'qk_product', 'pv_product')
    >>> parts_of(nn.LSTM(4, 2))
    ('ih_l0', 'hh_l0')
    """
    if recurrent_class(module) is not None:
        return tuple(gemm_names(module))
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
    """The kind of Gemm of a layer and its groups, without its sizes.

    >>> found = geometry_of(nn.ConvTranspose1d(2, 2, 1, groups=2))
    >>> found.kind, found.groups
    ('conv_transpose2d', 2)
    """
    types = types_of(module) if types is None else types
    if "attention" in types:
        return Geometry("bmm")
    if "conv" not in types:
        return Geometry("linear")
    dims = "3d" if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) else "2d"
    kind = cast(Kind, ("conv_transpose" if "transposed" in types else "conv") + dims)
    return Geometry(kind, groups=cast(int, getattr(module, "groups", 1)))


def adopt(model: nn.Module) -> None:
    """Let the modules that hold converted parts call them: the last step of a conversion."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and any(
            isinstance(child, QuantizedLayer) for child in module.children()
        ):
            module.__class__ = MultiheadAttention
    use_products(model)
    watch_loads(model)


def release(model: nn.Module) -> None:
    """Undo `place` and `adopt`: every layer has its torch class again."""
    give_back(model)
    ignore_loads(model)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, _CHILDREN):
                delattr(module, name)
        if isinstance(module, QuantizedLayer) and not isinstance(module, _CHILDREN):
            module.detach_()
        if _changed(module):
            # (nybble's class, torch's): the second base is what the layer was.
            module.__class__ = type(module).__bases__[1]
        elif type(module) is MultiheadAttention:
            cast(nn.Module, module).__class__ = nn.MultiheadAttention


def check_release(model: nn.Module) -> None:
    """Raise UserError where a converted layer got another class meanwhile."""
    for name, module in model.named_modules():
        bases = type(module).__bases__
        known = len(bases) == 2 and issubclass(bases[0], QuantizedLayer | Recurrent)
        if _changed(module) and not known:
            raise UserError(
                f"revert: layer {name!r} was changed after its conversion (its class is"
                f" {type(module).__name__}): take the parametrization away first"
            )


def _changed(module: nn.Module) -> bool:
    """Whether a conversion changed the module's class."""
    return isinstance(module, QuantizedLayer | Recurrent) and not isinstance(module, _CHILDREN)


def weights_of(module: nn.Module) -> bool:
    """Whether a module itself holds a weight of two or more dimensions, parametrized or not."""
    own = [p for p in module.parameters(recurse=False) if p.dim() >= 2 and p.is_floating_point()]
    if own:
        return True
    if not parametrize.is_parametrized(module):
        return False
    made_of = cast(nn.ModuleDict, module.parametrizations)
    return any(p.dim() >= 2 for each in made_of.values() for p in each.parameters())
