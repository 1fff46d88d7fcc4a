"""What really runs in how many bits: a row per layer and Gemm, from one forward and backward pass.

Shapes, bytes and formats are observed, not deduced: a copy of the model runs on the example with
hooks on every layer that multiplies weights, converted or not. Saved bytes are what autograd keeps
between forward and backward (`saved_tensors_hooks`), each storage counted once; the share of a
layer is what was saved while it ran. Parameters that autograd merely refers to are not counted.
A Gemm that is not needed (grad_input of a layer whose input has no gradient, grad_weight of a
frozen weight) has no MACs.

Products that belong to no layer listed here (attention's QK^T and PV in float32, a module's own)
are counted by `products.py` and stand in one line, so that the shares are those of the whole model.
A converted recurrent layer has the rows of its Gemms, with the MACs of all time steps. Modules that
hold weights and have no converted class are named, and so are look-up tables in float32. Not done
here: fused recurrent layers, whose products it does not see; they are named as not converted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from nybble.convert import loss_scale, table_layers, unconverted_layers
from nybble.errors import UserError
from nybble.nn.attention import Product
from nybble.nn.embedding import Embedding
from nybble.nn.memory import not_joined
from nybble.nn.memory.base import passive
from nybble.nn.memory.report import KeptWatch
from nybble.nn.multihead import Projection
from nybble.nn.parts import reason_not_native
from nybble.nn.recurrent import RecurrentGemm
from nybble.nn.registry import converted_class, quantized_layers
from nybble.nn.short_blocks import short_blocks
from nybble.nn.state import QuantizedLayer
from nybble.ops.dispatch import runs_native
from nybble.ops.native import active_isa
from nybble.ops.spec import LayerSpec, Slot
from nybble.phases import in_tail
from nybble.products import OtherProducts
from nybble.summary_table import LayerBytes, Row, Summary

GEMMS = (
    ("output", "output_input", "output_weight"),
    ("grad_input", "grad_input_grad", "grad_input_weight"),
    ("grad_weight", "grad_weight_grad", "grad_weight_input"),
)


def summary(model: nn.Module, example_input: Any) -> Summary:
    """Run `model` once, forward and backward, on a copy, and report.

    `example_input`: a tensor, a tuple of positional or a dict of keyword arguments. The model
    itself, its statistics and its state are not touched.

    >>> import nybble
    >>> model = nybble.convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), "bf16")
    >>> [row.gemm for row in summary(model, torch.ones(4, 8)).rows][:3]
    ['output', 'grad_input', 'grad_weight']
    """
    try:
        twin = copy.deepcopy(model).train()
    except RuntimeError as error:
        raise UserError(
            f"summary runs a copy of the model, which cannot be copied ({error}); with"
            " torch.nn.utils.weight_norm or spectral_norm, use torch.nn.utils.parametrizations"
        ) from error
    calls: dict[str, int] = {}
    flowing: dict[str, int] = {}  # the part of `calls` whose input has a gradient
    saved: dict[str, int] = {}
    seen: set[int] = set()
    stack: list[str] = []
    layers = _listed(twin)
    second: dict[str, int] = {}  # products whose second operand has a gradient

    forward = True  # what is run again during backward keeps nothing until then, and is no layer

    def pack(tensor: Tensor) -> Tensor:
        if not forward:
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen and storage.data_ptr() not in parameters:
            seen.add(storage.data_ptr())
            kept.append(tensor)  # keeps the address from being used again
            owner = stack[-1] if stack else ""
            saved[owner] = saved.get(owner, 0) + storage.nbytes()
            watch.note(storage.nbytes())
        return tensor

    kept: list[Tensor] = []
    parameters = {p.untyped_storage().data_ptr() for p in twin.parameters()}
    watch = KeptWatch(twin, layers)
    for name, module in layers.items():
        module.register_forward_pre_hook(passive(_enter(name, stack)))
        leave = passive(_leave(name, stack, calls, flowing, second))
        module.register_forward_hook(leave, with_kwargs=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        with OtherProducts(stack) as other:
            output = _call(twin, example_input)
        loss = _scalar(output)
        forward = False
        watch.stop()
        macs_of_forward = dict(calls), dict(flowing), dict(second)
        loss.backward()
    calls, flowing, second = macs_of_forward
    macs: dict[tuple[str, str], int] = {}
    for name in layers:
        macs[name, "output"] = calls.get(name, 0)
        macs[name, "grad_input"] = flowing.get(name, 0)
        macs[name, "grad_weight"] = second.get(name, 0)
    total = sum(macs.values()) + other.macs
    rows = []
    for name, module in layers.items():
        if isinstance(module, Projection) and name not in calls:
            continue  # keys of self-attention go through in_proj
        spec = _spec_of(module)
        for gemm, *slots in GEMMS:
            if isinstance(module, Embedding) and gemm == "grad_input":
                continue
            rows.append(_row(name, module, spec, gemm, slots, macs[name, gemm], total))
    return Summary(
        rows=tuple(rows),
        layer_bytes=tuple(LayerBytes(name, saved.get(name, 0)) for name in layers),
        saved_bytes=sum(saved.values()),
        other_macs=other.macs,
        unconverted=tuple(unconverted_layers(model)),
        tables=tuple(table_layers(model)),
        clips=tuple(
            name
            for name, module in layers.items()
            if isinstance(module, QuantizedLayer) and module.learns_clip
        ),
        loss_scale=loss_scale(model),
        kept=watch.rows(),
        not_joined=not_joined(model),
        phase=_phase(model),
        short_blocks=short_blocks(model),
    )


def layer_rows(model: nn.Module) -> tuple[Row, ...]:
    """The rows of `summary` without running the model: no MACs, no shares.

    >>> [row.bits for row in layer_rows(nn.Linear(2, 2))]
    [(32, 32), (32, 32), (32, 32)]
    """
    return tuple(
        _row(name, module, _spec_of(module), gemm, slots, 0, 0)
        for name, module in _listed(model).items()
        for gemm, *slots in GEMMS
        if not (isinstance(module, Embedding) and gemm == "grad_input")
    )


def _listed(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have rows: converted ones, and those that could be."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
        or (converted_class(module) is not None and not isinstance(module, nn.Embedding))
    }


def _spec_of(module: nn.Module) -> LayerSpec:
    return module._resolved_spec() if isinstance(module, QuantizedLayer) else LayerSpec()


def _phase(model: nn.Module) -> str:
    """Where a model of a recipe with a tail is; empty for the others."""
    if in_tail(model):
        return "the recipe's tail has begun"
    if any(layer.nybble_tail is not None for _, layer in quantized_layers(model)):
        return "before the recipe's tail, which nybble.start_tail(model) begins"
    return ""


def _row(
    name: str,
    module: nn.Module,
    spec: LayerSpec,
    gemm: str,
    slots: list[str],
    macs: int,
    total: int,
) -> Row:
    left, right = (spec.slot(slot) for slot in slots)
    if isinstance(module, Embedding):
        return _table_row(name, module, gemm, left, right, total)
    converted = isinstance(module, QuantizedLayer)
    backend, fallback = _backend(module, spec, gemm)
    return Row(
        layer=name,
        type=type(module.nybble_owner if isinstance(module, RecurrentGemm) else module).__name__,
        gemm=gemm,
        left="fp32" if left is None else left.format.name,
        right="fp32" if right is None else right.format.name,
        bits=(
            32 if left is None else left.format.bits,
            32 if right is None else right.format.bits,
        ),
        accumulator=_accumulator(module, spec, gemm, left, right),
        backend=backend,
        fallback=fallback,
        macs=macs,
        share=macs / total if total else 0.0,
        rule=str(module.nybble_rule) if converted else "not converted",
        scales=(
            "" if left is None else left.scale.short,
            "" if right is None else right.scale.short,
        ),
    )


def _table_row(name: str, module: Embedding, gemm: str, left: Slot, right: Slot, total: int) -> Row:
    """A look-up: one operand, no products."""
    slot = right if gemm == "output" else left
    backend = "native" if runs_native(module.nybble_backend, module.weight) else "reference"
    what = "" if slot is None else slot.format.name
    return Row(
        layer=name,
        type=type(module).__name__,
        gemm={"output": "look-up", "grad_weight": "grad_weight"}.get(gemm, gemm),
        left=what or "fp32",
        right="index",
        bits=(32 if slot is None else slot.format.bits, 0),
        accumulator="exact" if slot is not None and slot.format.unit is not None else "fp32",
        backend=f"{backend} {active_isa()}" if backend == "native" else backend,
        fallback="",
        macs=0,
        share=0.0,
        rule=module.nybble_rule,
        scales=("" if slot is None else slot.scale.short, ""),
    )


def _backend(module: nn.Module, spec: LayerSpec, gemm: str) -> tuple[str, str]:
    """(what computes this Gemm, why that is a fall-back or "")."""
    if not isinstance(module, QuantizedLayer):
        return "torch", ""
    if not runs_native(module.nybble_backend, module.weight):
        return "reference", ""
    reason = reason_not_native(module, spec, gemm)
    if reason is None:
        return f"native {active_isa()}", ""
    return "reference", "" if reason.by_recipe else reason.text


def _accumulator(module: nn.Module, spec: LayerSpec, gemm: str, left: Slot, right: Slot) -> str:
    """How this Gemm really sums: operands without an integer form sum in float32 in both modes,
    and so does a backward Gemm whose second operand's scales lie inside the sum."""
    if not isinstance(module, QuantizedLayer):
        return "fp32"
    if spec.accumulator.format:
        return str(spec.accumulator)
    if _backend(module, spec, gemm)[0].startswith("native"):
        return "exact"
    integers = all(slot is not None and slot.format.unit is not None for slot in (left, right))
    if gemm != "output" and right is not None and not spec.fold:
        varies = getattr(right.scale, "granularity", "tensor") != "tensor"
        integers = integers and not (varies or getattr(right.scale, "per_channel", False))
    return "exact" if integers and module.nybble_accumulate == "exact" else "fp32"


def _enter(name: str, stack: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        stack.append(name)

    return hook


def _leave(
    name: str,
    stack: list[str],
    calls: dict[str, int],
    flowing: dict[str, int],
    second: dict[str, int],
) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        stack.pop()
        for layer, macs, flows, learns in _counted(name, module, (*args, *kwargs.values()), output):
            calls[layer] = calls.get(layer, 0) + macs
            if flows:
                flowing[layer] = flowing.get(layer, 0) + macs
            if learns:
                second[layer] = second.get(layer, 0) + macs

    return hook


Counted = tuple[str, int, bool, bool]


def _counted(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> list[Counted]:
    """(layer, MACs of its forward Gemm, whether its first operand has a gradient, whether its
    second has one) of every Gemm that this call of a module has computed."""
    inputs = [x for x in given if isinstance(x, Tensor)]
    if isinstance(module, RecurrentGemm):
        rows = (output if isinstance(output, Tensor) else output[0]).shape[0]
        whole = name.removesuffix(module.nybble_part)
        return [
            (whole + part, rows * w.numel(), module.flows(part, inputs), w.requires_grad)
            for part, w in module.products()
        ]
    if not isinstance(output, Tensor):
        return []
    second = isinstance(module, Product | Projection)  # its second input is its weight
    weight = inputs[1] if second else cast(Tensor, module.weight)
    flows = any(x.requires_grad for x in (inputs[:1] if second else inputs))
    return [(name, _macs(module, inputs[0], weight, output), flows, weight.requires_grad)]


def _macs(module: nn.Module, x: Tensor, weight: Tensor, output: Tensor) -> int:
    """Of the forward Gemm; each backward one costs as much."""
    if isinstance(module, Embedding):
        return 0
    if isinstance(module, nn.modules.conv._ConvNd):
        return (x if module.transposed else output).numel() * weight[0].numel()
    if isinstance(module, Product | Projection):
        return output.numel() * weight.shape[-1]
    outputs = output.shape[-1]
    return output.numel() * (weight.numel() // outputs) if outputs else 0


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    if isinstance(example, tuple):
        return model(*example)
    return model(example)


def _scalar(output: Any) -> Tensor:
    """A number to differentiate: the sum of the squares of every float output."""
    if isinstance(output, Tensor):
        found = [output]
    elif isinstance(output, dict):
        found = [v for v in output.values() if isinstance(v, Tensor)]
    elif isinstance(output, (tuple, list)):
        found = [v for v in output if isinstance(v, Tensor)]
    else:
        raise UserError(f"summary: the model returned {type(output).__name__}, not tensors")
    terms = [t.float().square().sum() for t in found if t.requires_grad]
    if not terms:
        raise UserError("summary: no output of the model requires a gradient")
    return torch.stack(terms).sum()
