"""Hostile tensors to the Python entry points: run as a child, see test_fuzz.py.

    python -m tests.ops.native.fuzz_wrappers [ISA]

Each of `calls` works on the tensors of its inputs. One at a time is replaced by the variants of
variants.py: the call must refuse it clearly, or give the same result where the numbers are the
same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from tests.ops.native.variants import REFUSALS, same, without_numbers, wrong
from torch import Tensor

import nybble  # defines the operators
from nybble.formats import get_format
from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.ops.native import conv, gemm, norm, quantize, shaped, streams, winograd
from nybble.ops.native import core as native_core
from nybble.ops.native.codes import Codes, table_of
from nybble.ops.native.mask import mask_gradient_
from nybble.quantizers import AbsMax, Quantizer
from nybble.quantizers.packing import packed_bytes
from nybble.recipes import get_recipe

Inputs = dict[str, Tensor]
Call = Callable[[Inputs], Any]

MAKE = torch.Generator().manual_seed(0)
CONV = Geometry("conv2d", (1, 1), (1, 1), (1, 1))
# What is no mistake. A saved mask that is empty says that nothing was clipped; factors may be any
# numbers; the functions of ANY_SHAPE take tensors of every size.
SIZES = ("empty", "short", "longer", "one dimension more")
FREE = {("saved3", "empty"), ("state", "one dimension more")}
FREE |= {("inv", what) for what in ("wide integers", "booleans", "complex")}
ANY_SHAPE = ("pack", "absmax", "tree_sum", "mask_gradient_", "relu", "sawb", "relayout")


def packed(count: int) -> Tensor:
    return torch.randint(0, 256, (packed_bytes(count, 4),), generator=MAKE).to(torch.uint8)


def floats(*shape: int) -> Tensor:
    return torch.rand(shape, generator=MAKE) + 0.1


def operands(count_a: int, count_b: int) -> Inputs:
    table_a, table_b = (table_of(get_format(name))[0] for name in ("uint4", "int4"))
    return {"a": packed(count_a), "b": packed(count_b), "table_a": table_a, "table_b": table_b}


def codes(t: Inputs, shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> tuple[Codes, Codes]:
    a = Codes(t["a"], shape_a, t["table_a"], 0, 15)
    return a, Codes(t["b"], shape_b, t["table_b"], -8, 7)


def calls() -> Iterator[tuple[str, Inputs, Call]]:
    yield from products()
    yield from convolutions()
    yield from packing()
    yield from normalisation()
    yield from operators()
    yield from batched()


def products() -> Iterator[tuple[str, Inputs, Call]]:
    m, n, k = 7, 18, 70
    scales = {"scale_a": floats(m), "scale_b": floats(n), "bias": floats(n)}
    yield (
        "gemm",
        operands(m * k, n * k) | scales,
        lambda t: gemm.gemm(
            *codes(t, (m, k), (n, k)),
            trans_b=True,
            scale_a=t["scale_a"],
            scale_b=t["scale_b"],
            bias=t["bias"],
        ),
    )
    yield (
        "block_gemm",
        operands(m * k, n * k) | {"scale_a": floats(m, 5), "scale_b": floats(5, n)},
        lambda t: gemm.block_gemm(*codes(t, (m, k), (k, n)), 16, t["scale_a"], t["scale_b"]),
    )


def batched() -> Iterator[tuple[str, Inputs, Call]]:
    slot = Quantizer(get_format("int4_sym"), AbsMax())

    def call(t: dict[str, Tensor]) -> Tensor:
        a, b = (
            shaped.Stored(t[name], slot, torch.empty(0), shape, False, t[scale])
            for name, shape, scale in (("a", (3, 7, 5), "scale_a"), ("b", (3, 4, 5), "scale_b"))
        )
        return shaped.batched_gemm(a, b, trans_b=True)

    inputs = {name: make for name, make in operands(105, 60).items() if "table" not in name}
    yield "batched_gemm", inputs | {"scale_a": floats(1), "scale_b": floats(1)}, call


def convolutions() -> Iterator[tuple[str, Inputs, Call]]:
    x, w, y = (2, 5, 6, 19), (17, 3, 3, 19), (2, 5, 6, 17)
    nx, nw, ny = prod(x), prod(w), prod(y)
    for name, function in (
        ("conv", lambda a, b, s, bias: conv.conv_output(a, b, CONV, None, s, bias)),
        ("winograd", lambda a, b, s, bias: winograd.output(a, b, (1, 1), None, s, bias)),
    ):
        yield (
            f"{name} output",
            operands(nx, nw) | {"scale": floats(17), "bias": floats(17)},
            lambda t, f=function: f(*codes(t, x, w), t["scale"], t["bias"]),
        )
    for name, function in (
        ("conv", lambda a, b, s: conv.conv_grad_input(a, b, CONV, x, None, s)),
        ("winograd", lambda a, b, s: winograd.grad_input(a, b, (1, 1), x, None, s)),
    ):
        yield (
            f"{name} grad_input",
            operands(ny, nw) | {"scale": floats(19)},
            lambda t, f=function: f(*codes(t, y, w), t["scale"]),
        )
    for name, function in (
        ("conv", lambda a, b, s, z: conv.conv_grad_weight(a, b, CONV, w, s, z)),
        ("winograd", lambda a, b, s, z: winograd.grad_weight(a, b, (1, 1), s, z)),
    ):
        yield (
            f"{name} grad_weight",
            operands(ny, nx) | {"scale_a": floats(17), "scale_b": floats(19)},
            lambda t, f=function: f(*codes(t, y, x), t["scale_a"], t["scale_b"]),
        )


def packing() -> Iterator[tuple[str, Inputs, Call]]:
    log, int4 = get_format("fp4_radix4"), get_format("int4")
    x = torch.randn(3, 50, generator=MAKE)
    key = nybble.quantizers.RandomKey(seed=1)
    yield (
        "pack",
        {"x": x, "inv": floats(3, 1)},
        lambda t: quantize.pack(t["x"], t["inv"], int4, want_inside=True),
    )
    yield "pack_stochastic", {"x": x}, lambda t: quantize.pack_stochastic(t["x"], 1.0, int4, key)
    yield (
        "pack_two_phase",
        {"x": x},
        lambda t: quantize.pack_two_phase(t["x"], 2.0, log, log.odd()),  # type: ignore[arg-type,attr-defined]
    )
    yield "absmax", {"x": x}, lambda t: quantize.absmax(t["x"])
    yield "tree_sum", {"x": x}, lambda t: quantize.tree_sum(t["x"])
    yield "sawb_statistics", {"x": x}, lambda t: torch.from_numpy(quantize.sawb_statistics(t["x"]))

    def masked(t: Inputs) -> tuple[Tensor, Tensor | None]:
        dx = t["dx"].clone()
        return dx, mask_gradient_(dx, t["mask"], t["codes"], int4)

    mask = torch.randint(0, 256, (19,), generator=MAKE).to(torch.uint8)
    yield "mask_gradient_", {"dx": x, "mask": mask, "codes": packed(150)}, masked
    yield "relayout", {"codes": packed(330)}, lambda t: streams.relayout(t["codes"], 2, 5, 33)


def normalisation() -> Iterator[tuple[str, Inputs, Call]]:
    x = torch.randn(7, 5, generator=MAKE)
    channel = {name: floats(5) for name in ("weight", "bias", "mean", "var")}
    yield (
        "batch_norm_forward",
        {"x": x, **channel},
        lambda t: norm.batch_norm_forward(*t.values(), 0.1, 1e-5, True),
    )
    yield (
        "batch_norm_backward",
        {"grad": x, "packed": packed(35), "stats": floats(5, 5)},
        lambda t: norm.batch_norm_backward(*t.values()),
    )
    yield "relu_forward", {"x": x}, lambda t: norm.relu_forward(t["x"])
    bits = torch.randint(0, 256, (5,), generator=MAKE).to(torch.uint8)
    yield (
        "relu_backward",
        {"grad": x, "bits": bits},
        lambda t: norm.relu_backward(t["grad"], t["bits"], False),
    )


def operators() -> Iterator[tuple[str, Inputs, Call]]:
    spec = get_recipe("sun2020").spec
    conv_x, conv_w = torch.rand(2, 19, 7, 6, generator=MAKE), floats(18, 19, 3, 3) - 0.5
    for kind, x, w in (
        ("linear", floats(37, 70), floats(21, 70) - 0.5),
        ("conv2d", conv_x, conv_w),
    ):
        geometry = CONV if kind == "conv2d" else Geometry("linear")
        rest = LayerCall(spec, geometry, "exact", "native", seed=3, layer=1, call=2).arguments()
        alpha, bias = torch.tensor([1.5]), floats(w.shape[0])
        yield (
            f"layer_forward {kind}",
            {"x": x, "weight": w, "bias": bias, "alpha": alpha},
            lambda t, rest=rest: torch.ops.nybble.layer_forward(*t.values(), *rest, True)[0],
        )
        y, saved = torch.ops.nybble.layer_forward(x, w, bias, alpha, *rest, True)
        inputs = {"grad": torch.randn(y.shape, generator=MAKE) * 1e-3, "state": torch.ones(1)}
        inputs |= {f"saved{i}": s for i, s in enumerate(saved) if s.numel() > 1}

        def backward(t: Inputs, saved: list[Tensor] = saved, x=x, w=w, rest=rest) -> Any:  # type: ignore[no-untyped-def]
            parts = [t.get(f"saved{i}", s) for i, s in enumerate(saved)]
            return torch.ops.nybble.layer_backward(
                t["grad"],
                None,
                None,
                parts,
                t["state"],
                list(x.shape),
                list(w.shape),
                *rest,
                [False, False],
                [True, True, True],
            )

        yield f"layer_backward {kind}", inputs, backward


def same_result(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            return False
        a, b = a.detach().as_subclass(Tensor), b.detach().as_subclass(Tensor)
        return torch.equal(a, b) or (
            a.is_floating_point()
            and bool((a.isnan() == b.isnan()).all())
            and torch.equal(a.nan_to_num(), b.nan_to_num())
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_result(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def has_numbers(result: Any) -> bool:
    """Whether a result has a real tensor in it."""
    if isinstance(result, list | tuple):
        return any(has_numbers(part) for part in result)
    return type(result) is Tensor and result.device.type == "cpu" and result.numel() > 0


def main(isa: str = "") -> int:
    module, _ = native_core()
    assert module is not None
    module.use_isa(isa)
    torch.manual_seed(0)
    failures: list[str] = []
    tried = refused = 0
    for name, inputs, call in calls():

        def run(tensors: Inputs, call: Call = call) -> Any:
            return call({key: x.clone() if type(x) is Tensor else x for key, x in tensors.items()})

        expected = run(inputs)
        for key, x in inputs.items():
            for kind, variants in (("same", same), ("wrong", wrong), ("none", without_numbers)):
                for what, variant in variants(x):
                    tried += 1
                    any_shape = name.startswith(ANY_SHAPE) and key in ("x", "grad", "dx", "codes")
                    if (key, what) in FREE or (any_shape and what in SIZES):
                        continue
                    where = f"{name}: {key} {what}"
                    try:
                        # Not cloned: a copy would undo what is odd about it.
                        got = call({**{k: v.clone() for k, v in inputs.items()}, key: variant})
                    except REFUSALS as error:
                        refused += 1
                        if not str(error).strip():
                            failures.append(f"{where}: {type(error).__name__} without a message")
                        continue
                    except AssertionError as error:
                        # torch's own answer where fake and real tensors meet.
                        if "FakeTensorMode" not in str(error):
                            failures.append(f"{where}: {error}")
                        refused += 1
                        continue
                    except Exception as error:
                        failures.append(f"{where}: {type(error).__name__}: {error}")
                        continue
                    if kind == "none":
                        # (One operand on "meta" is enough for torch to ask for shapes only.)
                        if has_numbers(got) and not name.startswith("layer_backward"):
                            failures.append(f"{where}: numbers from nothing")
                    elif not same_result(got, expected):
                        failures.append(f"{where}: another result")
                    elif kind == "wrong":
                        failures.append(f"{where}: accepted")
    print(f"{tried} calls, {refused} refused, {len(failures)} wrong")
    print("\n".join(failures))
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
