"""Where a step's time goes, by torch's profiler, with nybble's own functions as regions of it.

Every function of `ops/native` and `ops/reference` becomes a region while the profile runs, and is
put back afterwards; every event's own time is then added to one place:

    forward, grad_input, grad_weight   products of converted layers
    forward, backward products         products of torch's layers (one operator does both gradients)
    quantise      scales, rounding, packing, decoding, masks, and what a layer does around products
    attention     scaled_dot_product_attention
    elementwise   normalisation, activation functions, pooling, residual adds, softmax, loss, with
                  the compression of what they keep
    optimizer, rest

The profiler slows small operators; shares are what it is for.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.autograd.profiler import profile, record_function

from nybble.studies.steptime import Step

FORWARD, GRAD_INPUT, GRAD_WEIGHT = "forward products", "grad_input", "grad_weight"
BACKWARD, QUANTISE, ATTENTION = "backward products", "quantise", "attention"
ELEMENTWISE, OPTIMIZER, REST = "elementwise", "optimizer", "rest"
PLACES = (
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    BACKWARD,
    QUANTISE,
    ATTENTION,
    ELEMENTWISE,
    OPTIMIZER,
    REST,
)
PRODUCTS = (FORWARD, GRAD_INPUT, GRAD_WEIGHT, BACKWARD)

_FOLDERS = ("nybble.ops.native", "nybble.ops.reference")
_REGION = "nybble:"
_PRODUCT_WORDS = ("gemm", "conv", "matmul", "product", "winograd", "grad_input", "grad_weight")
_QUANTISE_WORDS = ("pack", "quantize", "encode", "decode", "mask")
_LAYER_WORDS = ("layer_forward", "layer_backward", "LayerFunction")
_TORCH_PRODUCTS = ("aten::addmm", "aten::mm", "aten::linear", "convolution", "aten::bmm", "_conv2d")
_ELEMENTWISE_WORDS = (
    *("norm", "relu", "threshold", "gelu", "silu", "softmax", "pool", "mean", "aten::add", "nll"),
    *("loss", "sum", "dropout", "sigmoid", "tanh", "mul", "embedding", "clamp"),
)


def profile_step(step: Step, steps: int = 3) -> dict[str, Any]:
    """Milliseconds a step by place, and the costliest events, of `steps` steps after one."""
    be_quiet()
    with _regions():
        step()
        with profile(use_kineto=False) as profiler:
            for _ in range(steps):
                step()
    places = dict.fromkeys(PLACES, 0.0)
    names: dict[str, float] = {}
    for event in profiler.function_events or ():
        own = event.self_cpu_time_total / 1000 / steps
        chain = _chain(event)
        places[place_of(chain)] += own
        names[chain[0]] = names.get(chain[0], 0.0) + own
    top = sorted(names.items(), key=lambda item: -item[1])[:12]
    return {
        "ms": {name: round(ms, 3) for name, ms in places.items()},
        "total_ms": round(sum(places.values()), 3),
        "top": [{"event": name, "ms": round(ms, 3)} for name, ms in top],
        "steps": steps,
    }


def be_quiet() -> None:
    """Keep the profiler's own log lines off stderr; a level that the user has set stays."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def _chain(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(str(event.name))
        event = event.cpu_parent
    return names


def place_of(chain: Sequence[str]) -> str:
    """The place of an event, from its name and those of the events around it, inmost first.

    >>> place_of(["aten::convolution_backward", "autograd::engine::evaluate_function"])
    'backward products'
    >>> place_of(["nybble:gemm.gemm trans_a", "nybble::layer_backward"])
    'grad_weight'
    >>> place_of(["mkldnn::_rnn_layer_backward", "MkldnnRnnLayerBackward0"])
    'backward products'
    >>> place_of(["aten::native_batch_norm", "aten::batch_norm"])
    'elementwise'
    """
    if any(name.startswith("Optimizer.") for name in chain):
        return OPTIMIZER
    if any("scaled_dot_product" in name or "flash_attention" in name for name in chain):
        return ATTENTION
    backward = any("ackward" in name for name in chain)
    if any("rnn_layer" in name for name in chain):  # oneDNN's whole time loop, gates included
        return BACKWARD if backward else FORWARD
    regions = [name.removeprefix(_REGION) for name in chain if name.startswith(_REGION)]
    if any(word in name for name in chain for word in _LAYER_WORDS):
        return _place_in_layer(regions, backward, chain[0])
    if regions:  # normalisation, activation functions and what they compress
        return ELEMENTWISE
    if any(word in chain[0] for word in _TORCH_PRODUCTS):
        return BACKWARD if backward else FORWARD
    if any(word in name for name in chain[:3] for word in _ELEMENTWISE_WORDS):
        return ELEMENTWISE
    return REST


def _place_in_layer(regions: Sequence[str], backward: bool, own: str) -> str:
    """Of an event inside a converted layer: a product, or else its quantisation."""
    functions = [region.partition(".")[2] for region in regions]
    product = any(word in own for word in _TORCH_PRODUCTS)
    if own.startswith(_REGION):
        product = any(word in own for word in _PRODUCT_WORDS)
        product = product and not any(word in own for word in _QUANTISE_WORDS)
    if not product:
        return QUANTISE
    for name in functions:
        for word, place in (
            ("grad_input", GRAD_INPUT),
            ("grad_weight", GRAD_WEIGHT),
            ("output", FORWARD),
            ("trans_a", GRAD_WEIGHT),
        ):
            if word in name:
                return place
    return GRAD_INPUT if backward else FORWARD


@contextmanager
def _regions() -> Iterator[None]:
    """Make every function of nybble's operators a region of the profile."""
    replaced: list[tuple[types.ModuleType, str, Any]] = []
    modules = [m for name, m in sys.modules.items() if name.startswith("nybble") and m is not None]
    wrapped: dict[int, Callable[..., Any]] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, types.FunctionType) and value.__module__.startswith(_FOLDERS):
                wrapped.setdefault(id(value), _region(value))
    try:
        for module in modules:
            for name, value in list(vars(module).items()):
                if id(value) in wrapped and isinstance(value, types.FunctionType):
                    replaced.append((module, name, value))
                    setattr(module, name, wrapped[id(value)])
        yield
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def _region(function: types.FunctionType) -> Callable[..., Any]:
    title = f"{_REGION}{function.__module__.rpartition('.')[2]}.{function.__name__}"
    parameters = list(inspect.signature(function).parameters)
    place = parameters.index("trans_a") if "trans_a" in parameters else None

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        name = title
        if place is not None:
            transposed = kwargs.get("trans_a", args[place] if len(args) > place else False)
            name = f"{title} trans_a" if transposed else title
        with record_function(name):
            return function(*args, **kwargs)

    return inside
