"""convert(model, recipe): in place, so that an ordinary optimizer and loop follow; and its inverse.

    layers are numbered in module order (`model.named_modules()`), which fixes first and last
    rules: the user's, in their order; then the recipe's; then the recipe's own spec
    a rule that matches no layer is an error, and so is an unknown name

A layer changes its class, nothing else: parameters, buffers, hooks, names and every reference to
it stay. Layers whose class nybble does not know are left alone and listed by `summary`.

Each Gemm of a recurrent layer counts as a layer (`lstm.ih_l0`); a rule that names the whole means
all of them. In a network that begins with a recurrent layer, its first input-hidden Gemm (one for
each direction) is the first layer, unless an embedding stands before it, which is then the first
and stays as it is; in one that ends with a recurrent layer, all Gemms of its top layer are the
last.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from nybble.errors import UserError, suggest
from nybble.nn.fastpath import allow_fast_paths, block_fast_paths
from nybble.nn.memory import (
    ActivationMemory,
    compress_memory,
    memory_layers,
    resolve_memory,
    restore_memory,
)
from nybble.nn.recurrent import (
    Recurrent,
    RecurrentGemm,
    attach_gemm,
    recurrent_class,
    top_names,
)
from nybble.nn.registry import converted_class, layer_names, layer_types, quantized_layers
from nybble.nn.state import QuantizedLayer
from nybble.ops.dispatch import choose_backend, runs_native
from nybble.ops.geometry import Geometry
from nybble.ops.native.plan import GEMMS, Reason, why_not
from nybble.ops.native.recurrent import why_not_native
from nybble.ops.spec import LayerSpec
from nybble.recipes import LayerFacts, Recipe, get_recipe

Rules = Mapping[str, "str | Recipe | LayerSpec | None"]
Inputs = Literal["unsigned", "signed"]


def convert(
    model: nn.Module,
    recipe: str | Recipe,
    rules: Rules | None = None,
    *,
    backend: str = "auto",
    accumulate: str = "fast",
    activations: str | ActivationMemory | None = None,
    inputs: Inputs | None = None,
    strict: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Make `model` train by `recipe`, in place; returns the same module.

    rules: module name (or `re:` and a regular expression) -> recipe (of which the layer takes the
    six slots), `LayerSpec`, or None to leave the layer in float32; tried in order, before the
    recipe's own.
    backend: `auto`, `reference` or `native` (`ops/dispatch.py`). Layers that will run natively get
    channels-last weights, so that their convolutions read and write that layout.
    accumulate: `fast` (float32 sums) or `exact`, of the reference backend; native sums exactly.
    activations: `4bit` makes normalisation, activation functions, pooling, dropout and attention
    keep little for backward too (`exact`: only where no gradient changes by it; an
    `ActivationMemory` chooses by kind; docs/memory.md).
    inputs: whether layers see negative inputs. None decides from each layer's first batch;
    `unsigned` or `signed` decides now.
    strict: refuse layers that multiply weights and cannot be converted, and slower fall-backs.
    seed: of the random bits of stochastic rounding.

    Raises UserError for unknown names, rules that match nothing, and models converted before.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> _ = convert(model, "sun2020", rules={"2": None})
    >>> [type(layer).__module__.split(".")[0] for layer in model]
    ['nybble', 'torch', 'torch', 'nybble']
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    chosen = get_recipe(recipe)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed={seed!r}: use a whole number from 0 to 2**63 - 1")
    if accumulate not in ("fast", "exact"):
        raise UserError(f"accumulate={accumulate!r} is not known: use 'fast' or 'exact'")
    if inputs not in (None, "unsigned", "signed"):
        raise UserError(f"inputs={inputs!r}: use None, 'unsigned' or 'signed'")
    memory = resolve_memory(activations)
    backend = choose_backend(backend, strict=strict)
    if any(True for _ in chain(quantized_layers(model), memory_layers(model))):
        raise UserError("the model is converted already: call nybble.revert(model) first")
    layers = convertible_layers(model)
    if strict:
        refuse_unconverted(model)
    user_rules = _user_rules(rules or {}, [facts for facts, _ in layers])
    planned = []
    for index, (facts, module) in enumerate(layers):
        spec, why = _resolve(facts, user_rules, chosen)
        if spec is not None and spec.quantizes:
            planned.append((index, facts.name, module, spec, why))
        elif facts.owner is not None:  # the rest of its layer may be converted
            planned.append((index, facts.name, module, LayerSpec(), why))
    planned = _without_float(planned)
    if strict:  # before the first layer is changed
        for _, name, module, spec, _ in planned:
            refuse_fallback(name, module, spec, backend)
    for index, name, module, spec, why in planned:
        layer = quantized_form(name, module)
        layer.attach_(
            spec,
            name=name,
            rule=why,
            backend=backend,
            accumulate=accumulate,
            seed=seed,
            index=index,
            inputs=inputs,
        )
        if runs_native(backend, layer.weight):
            channels_last_(layer)
    if not layers and chosen.spec.quantizes:
        warnings.warn(
            f"convert found no layer that {chosen.name} could convert in {type(model).__name__};"
            " nybble.summary(model, example_input) lists what was not converted",
            stacklevel=2,
        )
    block_fast_paths(model)
    if memory is not None:
        compress_memory(model, memory, backend)
    return model


def revert(model: nn.Module) -> nn.Module:
    """Give every converted layer its torch class back, in place; the master weights stay.

    >>> model = revert(convert(nn.Sequential(nn.Linear(2, 2)), "sun2020"))
    >>> type(model[0]) is nn.Linear
    True
    """
    layers = list(quantized_layers(model))
    for name, layer in layers:
        whole = layer.nybble_owner if isinstance(layer, RecurrentGemm) else layer
        if not issubclass(type(whole).__bases__[0], QuantizedLayer | Recurrent):
            raise UserError(
                f"revert: layer {name!r} was changed after its conversion (its class is"
                f" {type(whole).__name__}): take the parametrization away first"
            )
    restore_memory(model)
    allow_fast_paths(model)
    for _, layer in layers:
        layer.revert_()
    return model


def quantized_form(name: str, module: nn.Module) -> QuantizedLayer:
    """The layer `name` with its class changed, or the Gemm of that name of a recurrent layer;
    without its state yet."""
    if recurrent_class(module) is not None or isinstance(module, Recurrent):
        return attach_gemm(module, name.rpartition(".")[2])
    cls = converted_class(module)
    if cls is None:
        raise TypeError(f"{name} lost its class while it was converted")
    module.__class__ = cls
    if not isinstance(module, QuantizedLayer):
        raise TypeError(f"{cls.__name__} is no QuantizedLayer")
    return module


def loss_scale(model: nn.Module) -> float:
    """By how much a training loop should multiply the loss, and divide the gradients: the largest
    that a converted layer needs, 1 where none does. torch's GradScaler does as well.

    >>> loss_scale(convert(nn.Sequential(nn.Linear(4, 4)), "hfp8"))
    1024.0
    """
    return max((layer.nybble_spec.loss_scale for _, layer in quantized_layers(model)), default=1.0)


def convertible_layers(model: nn.Module) -> list[tuple[LayerFacts, nn.Module]]:
    """(facts, module) of every layer that has a converted class, in module order; of each Gemm of
    a recurrent layer, with that layer as module."""
    found: list[tuple[str, str, nn.Module]] = []
    embedded = False
    for owner, module in model.named_modules():
        if not found and isinstance(module, nn.Embedding):
            embedded = True
        found += [(name, owner, module) for name in layer_names(owner, module)]
    types = [layer_types(module) for _, _, module in found]
    family = _family(types)
    layers = []
    for i, (name, owner, module) in enumerate(found):
        position = set()
        part, whole = None, None
        if recurrent_class(module) is not None:
            part, whole = name.rpartition(".")[2], owner
            first, last = top_names(module)
            first = set() if embedded else first
            if not part.startswith("ih"):
                types[i] |= {"time-loop"}
        if module is found[0][2] and (part is None or part in first):
            position.add("first")
        if module is found[-1][2] and (part is None or part in last):
            position.add("last")
        layers.append((LayerFacts(name, types[i], frozenset(position), family, whole), module))
    return layers


def unconverted_layers(model: nn.Module) -> list[tuple[str, str]]:
    """(name, class name) of modules that multiply weights of two or more dimensions themselves,
    and are not converted: nothing is silently skipped."""
    missed = []
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer | Recurrent):
            continue
        weights = [
            p for p in module.parameters(recurse=False) if p.dim() >= 2 and p.is_floating_point()
        ]
        if weights:
            missed.append((name, type(module).__name__))
    return missed


def refuse_unconverted(model: nn.Module) -> None:
    """Raise UserError if some layer with weights has no converted class."""
    known = {name for facts, _ in convertible_layers(model) for name in (facts.name, facts.owner)}
    missed = [f"{n} ({cls})" for n, cls in unconverted_layers(model) if n not in known]
    if missed:
        raise UserError(
            f"strict=True: {len(missed)} layers multiply weights and cannot be converted:"
            f" {', '.join(missed[:5])}; name them in rules as None, or use strict=False"
        )


def refuse_fallback(name: str, module: nn.Module, spec: LayerSpec, backend: str) -> None:
    """Raise UserError if a Gemm of a native layer would fall back to the reference backend."""
    weight = next(module.parameters()) if layer_part(name, module) else module.weight
    if not isinstance(weight, Tensor) or not runs_native(backend, weight):
        return
    for gemm in GEMMS:
        reason = reason_not_native(module, spec, gemm, layer_part(name, module))
        if reason is not None and not reason.by_recipe:
            raise UserError(
                f"strict=True: the {gemm} Gemm of {name} would run on the reference backend"
                f" ({reason.text}); use backend='reference' or strict=False"
            )


def layer_part(name: str, module: nn.Module) -> str | None:
    """Which Gemm of a recurrent layer `name` is; None for other layers."""
    if isinstance(module, RecurrentGemm):
        return module.nybble_part
    return name.rpartition(".")[2] if recurrent_class(module) is not None else None


def reason_not_native(
    module: nn.Module, spec: LayerSpec, gemm: str, part: str | None = None
) -> Reason | None:
    """Why a Gemm of a native layer runs on the reference backend; None if it does not."""
    if isinstance(module, RecurrentGemm):
        part = module.nybble_part
        module = module.nybble_owner
    if part is None or part.startswith("ih") or gemm == "grad_weight":
        return why_not(spec, Geometry("linear") if part else layer_geometry(module), gemm)
    return why_not_native(spec, gemm, bool(getattr(module, "proj_size", 0)))


def layer_geometry(module: nn.Module) -> Geometry:
    """The kind of Gemm of a layer; its stride and padding do not matter here."""
    return Geometry("conv2d" if "conv" in layer_types(module) else "linear")


def channels_last_(layer: QuantizedLayer) -> None:
    """Lay a convolution's weight out as [O, kh, kw, I], in place; the values stay.

    Convolutions with such a weight return channels-last images, in torch as well, so everything
    behind the first one works in the layout of the native kernels.
    """
    if layer.weight.dim() == 4:
        with torch.no_grad():
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _family(types: list[frozenset[str]]) -> frozenset[str]:
    convs = [t for t in types if "conv" in t]
    if any("depthwise" in t for t in convs):
        return frozenset({"depthwise-separable"})
    ones = sum("conv1x1" in t for t in convs)
    # ResNet-50: 36 of 53 convolutions are 1x1; ResNet-18: 3 of 20.
    return frozenset({"bottleneck"}) if 2 * ones > len(convs) else frozenset()


Planned = tuple[int, str, nn.Module, LayerSpec, str]


def _without_float(planned: list[Planned]) -> list[Planned]:
    """Recurrent layers of which no Gemm leaves float32 stay torch's own."""
    changed = {id(module) for _, _, module, spec, _ in planned if spec.quantizes}
    return [entry for entry in planned if id(entry[2]) in changed]


def _user_rules(
    rules: Rules, layers: list[LayerFacts]
) -> list[tuple[str, LayerSpec | Recipe | None]]:
    names = list(dict.fromkeys(facts.owner or facts.name for facts in layers))
    resolved: list[tuple[str, LayerSpec | Recipe | None]] = []
    if not isinstance(rules, Mapping):
        raise UserError(f"rules is {rules!r}: use a dict, layer name -> recipe, LayerSpec or None")
    for pattern, value in rules.items():
        if not isinstance(pattern, str):
            raise UserError(f"rule {pattern!r}: a layer's name is a string, as in {names[:1]}")
        if value is not None and not isinstance(value, str | Recipe | LayerSpec):
            raise UserError(
                f"rule {pattern!r} is {value!r}: use a recipe, a LayerSpec, or None for float32"
            )
        if not any(facts.named(pattern) for facts in layers):
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(
                f"rule {pattern!r} matches no layer; the layers are {shown}."
                f"{suggest(pattern, names)}"
            )
        resolved.append((pattern, get_recipe(value) if isinstance(value, str) else value))
    return resolved


def _resolve(
    facts: LayerFacts, user_rules: list[tuple[str, LayerSpec | Recipe | None]], recipe: Recipe
) -> tuple[LayerSpec | None, str]:
    for pattern, value in user_rules:
        if facts.named(pattern):
            spec = value.spec if isinstance(value, Recipe) else value
            return spec, f"user rule {pattern}"
    spec, rule = recipe.resolve(facts)
    return spec, recipe.name if rule is None else f"{recipe.name}: {rule.describe()}"
