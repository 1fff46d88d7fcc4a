"""convert(model, recipe): in place, so that an ordinary optimizer and loop follow; and its inverse.

    layers are numbered in module order (`model.named_modules()`), which fixes first and last
    rules: the user's, in their order; then the recipe's; then the recipe's own spec
    a rule that matches no layer is an error, and so is an unknown name

A layer changes its class, nothing else: parameters, buffers, hooks, names and every reference to
it stay. Layers whose class nybble does not know are left alone and listed by `summary`.

Each Gemm of a recurrent layer counts as a layer (`lstm.ih_l0`), and so does each projection of
`nn.MultiheadAttention` (`attention.in_proj`); a rule that names the whole means all of them. In a
network that begins with a recurrent layer, its first input-hidden Gemm (one for each direction) is
the first layer, unless an embedding stands before it: then no layer is. In one that ends with a
recurrent layer, all Gemms of its top layer are the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from nybble.errors import UserError, suggest
from nybble.nn.fastpath import allow_fast_paths, block_fast_paths
from nybble.nn.memory import (
    ActivationMemory,
    compress_memory,
    memory_layers,
    resolve_memory,
    restore_memory,
)
from nybble.nn.multihead import MultiheadAttention
from nybble.nn.parts import Target, adopt, check_release, release, targets, weights_of
from nybble.nn.recurrent import Recurrent
from nybble.nn.registry import quantized_layers
from nybble.nn.scaling import group_scales
from nybble.nn.state import QuantizedLayer
from nybble.ops.dispatch import choose_backend, runs_native
from nybble.ops.native.plan import GEMMS
from nybble.ops.spec import LayerSpec
from nybble.recipes import LayerFacts, Recipe, get_recipe
from nybble.recipes.recipe import OPTIONAL, name_matches

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
    others = [name for name, _ in unconverted_layers(model) + table_layers(model)]
    user_rules = _user_rules(rules or {}, [facts for facts, _ in layers], others)
    if strict:
        tables = chosen.resolve(LayerFacts("", frozenset({"embedding"}), frozenset()))[0]
        refuse_unconverted(model, user_rules, tables=tables is not None)
    planned: list[Planned] = []
    for index, (facts, target) in enumerate(layers):
        spec, why = _resolve(facts, user_rules, chosen)
        if spec is not None and spec.quantizes:
            planned.append((index, target, spec, why))
        elif target.bound:  # the rest of its module may be converted
            planned.append((index, target, LayerSpec(), why))
    planned = _without_float(planned)
    if strict:  # before the first layer is changed
        for _, target, spec, _ in planned:
            refuse_fallback(target, spec, backend)
    for index, target, spec, why in planned:
        layer = target.place()
        layer.attach_(
            spec,
            name=target.name,
            rule=why,
            backend=backend,
            accumulate=accumulate,
            seed=seed,
            index=index,
            inputs=inputs,
            tail=None if chosen.tail is None else chosen.tail.of(spec),
        )
        if runs_native(backend, target.sample):
            channels_last_(layer)
    multiplying = any(not facts.types.intersection(OPTIONAL) for facts, _ in layers)
    if not multiplying and not planned and chosen.spec.quantizes:
        warnings.warn(
            f"convert found no layer that {chosen.name} could convert in {type(model).__name__};"
            " nybble.summary(model, example_input) lists what was not converted",
            stacklevel=2,
        )
    adopt(model)
    group_scales([layer for _, layer in quantized_layers(model)])
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
    check_release(model)
    restore_memory(model)
    allow_fast_paths(model)
    release(model)
    return model


def loss_scale(model: nn.Module) -> float:
    """By how much a training loop should multiply the loss, and divide the gradients: the largest
    that a converted layer needs, 1 where none does. torch's GradScaler does as well.

    >>> loss_scale(convert(nn.Sequential(nn.Linear(4, 4)), "hfp8"))
    1024.0
    """
    return max((layer.nybble_spec.loss_scale for _, layer in quantized_layers(model)), default=1.0)


def convertible_layers(model: nn.Module) -> list[tuple[LayerFacts, Target]]:
    """(facts, target) of every layer that can be converted, in module order.

    First and last are the first and the last that multiply weights: embeddings and products of
    attention, which recipes leave alone unless asked, are neither.
    """
    found = list(targets(model))
    multiplying = [t for t in found if not t.types.intersection(OPTIONAL) and t.part not in _SECOND]
    first, last = _ends(model, multiplying)
    family = _family([target.types for target in found])
    order = {target.name: i / len(multiplying) for i, target in enumerate(multiplying)}
    layers = []
    for target in found:
        position = {"first": target.name in first, "last": target.name in last}
        at = frozenset(end for end, here in position.items() if here)
        depth = order.get(target.name, 0.0)
        facts = LayerFacts(target.name, target.types, at, family, target.owner, depth)
        layers.append((facts, target))
    return layers


def _ends(model: nn.Module, multiplying: list[Target]) -> tuple[set[str], set[str]]:
    """Names of the first layers and of the last ones: more than one at a recurrent stack."""
    if not multiplying:
        return set(), set()
    bottom, top = multiplying[0], multiplying[-1]
    if not bottom.bound:
        first = {bottom.name}
    elif _behind_embedding(model, bottom.module):
        first = set()
    else:
        first = {t.name for t in multiplying if t.module is bottom.module and t.ends[0]}
    if not top.bound:
        return first, {top.name}
    return first, {t.name for t in multiplying if t.module is top.module and t.ends[1]}


def _behind_embedding(model: nn.Module, module: nn.Module) -> bool:
    for other in model.modules():
        if other is module:
            return False
        if isinstance(other, nn.Embedding):
            return True
    return False


# Projections that self-attention does not call.
_SECOND = ("k_proj", "v_proj")


def unconverted_layers(model: nn.Module) -> list[tuple[str, str]]:
    """(name, class name) of modules that hold weights of two or more dimensions and are not
    converted: nothing is silently skipped. Normalisation multiplies element by element and is not
    meant; embeddings are listed by `table_layers`."""
    missed = []
    inner: set[int] = set()  # what belongs to a module that was judged already
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            inner.update(id(part) for part in module.parametrizations.modules())
        if isinstance(module, MultiheadAttention | Recurrent):
            continue
        skipped = isinstance(module, QuantizedLayer | nn.LayerNorm | nn.RMSNorm | nn.GroupNorm)
        if skipped or id(module) in inner or isinstance(module, nn.Embedding):
            continue
        if weights_of(module):
            missed.append((name, type(module).__name__))
    return missed


def table_layers(model: nn.Module) -> list[tuple[str, str]]:
    """(name, class name) of embeddings in float32: a look-up multiplies nothing."""
    return [
        (name, type(module).__name__)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and not isinstance(module, QuantizedLayer)
    ]


def refuse_unconverted(
    model: nn.Module,
    user_rules: list[tuple[str, LayerSpec | Recipe | None]],
    *,
    tables: bool,
) -> None:
    """Raise UserError if some layer with weights has no converted class, and no rule accepts it.
    tables: look-up tables are to be converted too."""
    known = {name for target in targets(model) for name in (target.name, target.owner)}
    accepted = [pattern for pattern, value in user_rules if value is None]
    missed = [
        f"{name or repr(name) + ', the model itself'} ({cls})"
        for name, cls in unconverted_layers(model) + (table_layers(model) if tables else [])
        if name not in known and not any(name_matches(pattern, name) for pattern in accepted)
    ]
    if missed:
        raise UserError(
            f"strict=True: layers that hold weights and cannot be converted ({len(missed)}):"
            f" {', '.join(missed[:5])}; name them in rules as None, or use strict=False"
        )


def refuse_fallback(target: Target, spec: LayerSpec, backend: str) -> None:
    """Raise UserError if a Gemm of a native layer would fall back to the reference backend."""
    if "embedding" in target.types or not runs_native(backend, target.sample):
        return
    for gemm in GEMMS:
        reason = target.why_not_native(spec, gemm)
        if reason is not None and not reason.by_recipe:
            raise UserError(
                f"strict=True: the {gemm} Gemm of {target.name} would run on the reference backend"
                f" ({reason.text}); use backend='reference' or strict=False"
            )


def channels_last_(layer: QuantizedLayer) -> None:
    """Lay a convolution's weight out as [O, kh, kw, I], in place; the values stay.

    Convolutions with such a weight return channels-last images, in torch as well, so everything
    behind the first one works in the layout of the native kernels.
    """
    if parametrize.is_parametrized(layer) or not isinstance(layer, nn.modules.conv._ConvNd):
        return
    if layer.weight.dim() == 4 and isinstance(layer.weight, nn.Parameter):
        with torch.no_grad():
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _family(types: list[frozenset[str]]) -> frozenset[str]:
    convs = [t for t in types if "conv" in t]
    if any("depthwise" in t for t in convs):
        return frozenset({"depthwise-separable"})
    ones = sum("conv1x1" in t for t in convs)
    # ResNet-50: 36 of 53 convolutions are 1x1; ResNet-18: 3 of 20.
    return frozenset({"bottleneck"}) if 2 * ones > len(convs) else frozenset()


Planned = tuple[int, Target, LayerSpec, str]


def _without_float(planned: list[Planned]) -> list[Planned]:
    """Recurrent layers of which no Gemm leaves float32 stay torch's own."""
    changed = {id(target.module) for _, target, spec, _ in planned if spec.quantizes}
    return [entry for entry in planned if id(entry[1].module) in changed]


def _user_rules(
    rules: Rules, layers: list[LayerFacts], others: list[str]
) -> list[tuple[str, LayerSpec | Recipe | None]]:
    """The rules, checked; `others` are layers that cannot be converted, which None accepts."""
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
            other = next((name for name in others if name_matches(pattern, name)), None)
            if other is not None and value is None:
                resolved.append((pattern, None))
                continue
            if other is not None:
                raise UserError(
                    f"rule {pattern!r}: {other} has no converted class; None leaves it in float32"
                )
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(
                f"rule {pattern!r} matches no layer; the layers are {shown}."
                f"{suggest(pattern, [*names, *(facts.name for facts in layers)])}"
            )
        resolved.append((pattern, get_recipe(value) if isinstance(value, str) else value))
    return resolved


def _resolve(
    facts: LayerFacts, user_rules: list[tuple[str, LayerSpec | Recipe | None]], recipe: Recipe
) -> tuple[LayerSpec | None, str]:
    optional = bool(facts.types.intersection(OPTIONAL))
    chosen, rule = recipe.resolve(facts)
    for pattern, value in user_rules:
        # A regular expression, or the name of the whole, changes what an optional layer does, but
        # does not bring it in.
        reaches = not optional or chosen is not None or pattern == facts.name
        if reaches and facts.named(pattern):
            spec = value.named_spec(facts) if isinstance(value, Recipe) else value
            return spec, f"user rule {pattern}"
    return chosen, recipe.name if rule is None else f"{recipe.name}: {rule.describe()}"
