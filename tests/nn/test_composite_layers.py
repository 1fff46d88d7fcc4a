"""Converted layers with block scales, transforms and the other extras, as users meet them."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.ops.composite_oracle import Oracle
from tests.ops.test_composite import E2M1, FREE, INT4, NV, RANDOM, SPECS, TILE, slots, turned
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import nybble
from nybble.errors import UserError
from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.ops.spec import DGE, Accumulator, LayerSpec
from nybble.quantizers import PACT, SAWB, AbsMax, GradScale, Hadamard, Quantizer

UINT4 = nybble.get_format("uint4")
PACTED = Quantizer(UINT4, PACT())
EVERYTHING = slots(
    turned(FREE),
    turned(NV),
    samples=2,
    control_variate=True,
    double=True,
    outliers=0.95,
    weight_gradient=DGE(4.0, 2.0),
    signed_slot=turned(NV),
    fold=True,
    accumulator=Accumulator("fp16", 32),
)
CLIPPED = LayerSpec(
    PACTED, FREE, replace(FREE, rounding=RANDOM), "same", replace(NV, rounding=RANDOM), "same"
)
LAYERS = {**SPECS, "everything": EVERYTHING, "clipped": CLIPPED}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 5))


def converted(spec: LayerSpec, make: Callable[[], nn.Module] = mlp, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    options = {"backend": "reference", "seed": 3, **options}
    return nybble.convert(model, "fp32", rules={"re:.*": spec}, **options)


def step(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


X = torch.randn(9, 20, generator=torch.Generator().manual_seed(1)) + 0.3


# ---- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codes", "scales"),
    [
        ("nv", (64 * 256 + 128 * 256) // 2, 4 * 256 + 8 * 256),  # blocks along batch and outputs
        ("nv-same", (64 * 256 + 128 * 256) // 2, 64 * 16 + 128 * 16),
        ("nv-tile", (64 * 256 + 128 * 256) // 2, 4 * 256 + 8 * 16),
        ("mx", (64 * 256 + 128 * 256) // 2, 2 * 256 + 4 * 256),
        ("turned-double", (64 * 256 + 128 * 256) // 2, 64 * 16 + 128 * 16),
        ("free-same", (64 * 256 + 128 * 256) // 2, 4 * (64 + 128)),
    ],
)
def test_four_bits_an_element_and_a_byte_a_block_are_kept(name, codes, scales) -> None:
    layer = converted(SPECS[name], lambda: nn.Linear(256, 128))
    x, kept = torch.randn(64, 256), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    total = sum(t.numel() * t.element_size() for t in kept)
    assert codes + scales <= total <= codes + scales + 16  # and a float32 scale each


def test_outliers_keep_their_positions_and_values() -> None:
    layer = converted(replace(SPECS["nv-same"], outliers=0.99), lambda: nn.Linear(256, 128))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(64, 256))
    assert [t.numel() for t in kept[-2:]] == [2 * 163] * 2
    assert kept[-2].dtype is torch.int32


# ---- calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nv", "turned", "turned-double", "everything", "clipped"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_gives_the_same_bits(name: str, reentrant: bool) -> None:
    model = converted(LAYERS[name])
    twin = copy.deepcopy(model)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = twin

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    outside = Checkpointed()
    for _ in range(2):
        same(step(model, X), step(outside, X))


@pytest.mark.parametrize("name", ["nv", "turned", "everything"])
def test_a_layer_is_the_operators_with_its_call_number(name: str) -> None:
    model = converted(
        replace(LAYERS[name], accumulator=Accumulator()), lambda: nn.Linear(20, 5, bias=False)
    )
    found = step(model, X)
    spec = replace(model._resolved_spec(), outliers=None, weight_gradient=None)
    if name != "everything":
        expected = Oracle(spec, Geometry("linear"), seed=3, layer=0, call=1)
        y, dx, dw = expected.step(X, model.weight.detach(), 2 * found[0])
        for a, b in zip(found, (y, dx, dw), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    assert int(model.nybble_calls) == 1
    assert any(not torch.equal(a, b) for a, b in zip(found, step(model, X), strict=True))


@pytest.mark.parametrize("name", ["nv", "nv-same", "turned", "everything"])
def test_autocast_changes_the_results_dtype_only(name: str) -> None:
    model, twin = (converted(LAYERS[name]) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        first = model[0](X)
    assert first.dtype is torch.bfloat16
    assert torch.equal(first, twin[0](X).bfloat16())
    first.float().sum().backward()
    assert model[0].weight.grad.dtype is torch.float32 and model[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("name", LAYERS)
def test_empty_batches(name: str) -> None:
    y, dx, *others = step(converted(LAYERS[name]), X[:0])
    assert y.shape == (0, 5) and dx.shape == (0, 20)
    assert all(not t.any() for t in others)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_gradients_gives_the_same_output(name: str) -> None:
    model = converted(LAYERS[name]).eval()
    with torch.no_grad():
        one, other = model(X), model(X)
    assert torch.equal(one, other)  # inference draws call 0's bits


@pytest.mark.parametrize("frozen", ["weight", "input"])
@pytest.mark.parametrize("name", ["nv", "turned-double", "everything", "clipped", "double-wide"])
def test_only_what_is_asked_for_is_computed(name: str, frozen: str) -> None:
    full, part = (converted(LAYERS[name], lambda: nn.Linear(20, 5)) for _ in range(2))
    expected = step(full, X)
    x = X.clone().requires_grad_(frozen != "input")
    part.weight.requires_grad_(frozen != "weight")
    part(x).square().sum().backward()
    if frozen == "weight":
        assert torch.equal(x.grad, expected[1]) and part.weight.grad is None
    else:
        assert torch.equal(part.weight.grad, full.weight.grad)


def test_native_backend_falls_to_the_same_function() -> None:
    for name in ("nv", "free", "everything"):
        spec = LAYERS[name]
        models = [converted(spec, backend=b, accumulate="exact") for b in ("auto", "reference")]
        same(*(step(model, X) for model in models))


# ---- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nv", "mx-headroom", "turned-wide", "everything", "clipped"])
def test_opcheck(name: str) -> None:
    spec = LAYERS[name]
    call = LayerCall(spec, Geometry("linear"), "fast", "reference", 3, 1, 2)
    x, w, alpha = X.abs(), torch.randn(6, 20), torch.tensor([0.7]) if name == "clipped" else None
    args = (x, w, torch.randn(6), alpha, *call.arguments(), True)
    torch.library.opcheck(torch.ops.nybble.layer_forward.default, args)
    y, saved = torch.ops.nybble.layer_forward(*args)
    back = (torch.randn_like(y), x, w, saved, torch.zeros(1), [9, 20], [6, 20], *call.arguments())
    args = (*back, [False, False], [True, True, alpha is not None])
    torch.library.opcheck(torch.ops.nybble.layer_backward.default, args)


@pytest.mark.parametrize("name", LAYERS)
def test_fake_shapes_are_the_real_ones(name: str) -> None:
    call = LayerCall(
        LAYERS[name], Geometry("conv2d", (1, 1), (1, 1), (1, 1)), "fast", "auto", 3, 1, 2
    )
    alpha = torch.tensor([0.7]) if name == "clipped" else None
    args = [torch.rand(2, 5, 6, 6), torch.randn(6, 5, 3, 3), None, alpha, *call.arguments(), True]
    real = torch.ops.nybble.layer_forward(*args)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        fake = torch.ops.nybble.layer_forward(*fakes)
    for a, b in zip([real[0], *real[1]], [fake[0], *fake[1]], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


# ---- state and files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_spec_survives_json(name: str) -> None:
    spec = LAYERS[name]
    again = LayerSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and again.key == spec.key and hash(again) == hash(spec)


@pytest.mark.parametrize("name", ["nv", "everything", "clipped"])
def test_state_dict_round_trip(name: str) -> None:
    model = converted(LAYERS[name])
    step(model, X)
    twin = converted(LAYERS[name])
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    same(step(model, X), step(twin, X))


@pytest.mark.parametrize("name", ["nv-tile", "everything"])
def test_saved_models_go_on(name: str, tmp_path: Any) -> None:
    model = converted(LAYERS[name])
    step(model, X)
    nybble.save(model, tmp_path / "model.safetensors")
    twin = converted(LAYERS[name])
    nybble.load(twin, tmp_path / "model.safetensors")
    with torch.no_grad():
        first, second = model.eval()(X), twin.eval()(X)
    assert first.shape == second.shape and second.isfinite().all()


def test_signed_slot_serves_layers_whose_first_batch_has_negative_values() -> None:
    unsigned = Quantizer(UINT4, AbsMax("free"))
    spec = LayerSpec(unsigned, FREE, NV, "same", NV, "same", signed_slot=NV)
    model = converted(spec)
    model(X)
    kinds = [int(model[i].nybble_input_kind) for i in (0, 2)]
    assert kinds == [2, 1]  # behind the ReLU nothing is negative
    assert [model[i]._resolved_spec().output_input for i in (0, 2)] == [NV, unsigned]
    model(-X.abs())
    twin = converted(spec)
    twin.load_state_dict(model.state_dict())
    twin(X.abs())
    assert twin[0].nybble_input_kind == 2 and twin[0]._resolved_spec().output_input == NV


def test_pact_learns_beside_block_scales() -> None:
    model = converted(CLIPPED)
    *_, = step(model, X.abs())  # fmt: skip
    alpha = model[0].nybble_alpha
    assert alpha.shape == (1,) and alpha.grad.shape == (1,)
    with torch.no_grad():
        alpha.fill_(0.5)
    x = X.abs().requires_grad_()
    model.zero_grad()
    model[0](x).sum().backward()
    assert (x.grad[x > 0.5] == 0).all() and (x.grad[x < 0.5] != 0).any()
    assert alpha.grad.abs() > 0


# ---- other layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nv", "nv-tile", "turned", "everything"])
def test_other_layers_train(name: str) -> None:
    spec = replace(LAYERS[name], accumulator=Accumulator())
    makes = {
        "conv1d": (nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 9)),
        "conv3d": (nn.Conv3d(3, 4, 2, groups=1), (2, 3, 4, 4, 4)),
        "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (2, 6, 5, 5)),
        "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (2, 4, 5, 5)),
        "attention": (nn.MultiheadAttention(16, 2, batch_first=True), (2, 7, 16)),
    }
    for kind, (module, shape) in makes.items():
        torch.manual_seed(0)
        float_module = copy.deepcopy(module)
        model = nybble.convert(
            module, "fp32", rules={"re:.*": spec}, backend="reference",
            activations=None,
        )  # fmt: skip
        x = torch.randn(shape)

        def call(net: nn.Module, x: torch.Tensor, kind: str = kind) -> torch.Tensor:
            return net(x, x, x)[0] if kind == "attention" else net(x)

        ours, theirs = call(model, x), call(float_module, x)
        ours.square().sum().backward()
        error = (ours - theirs).norm() / theirs.norm()
        assert 0 < error < 0.6, kind
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["nv", "free", "turned", "turned-same", "nv-tile"])
def test_embeddings_look_up_decoded_rows(name: str) -> None:
    spec = SPECS[name]
    table = nn.Embedding(20, 24)
    model = nybble.convert(table, "fp32", rules={"": spec}, backend="reference", seed=3)
    index = torch.tensor([[1, 1, 7], [19, 0, 2]])
    y = model(index)
    oracle = Oracle(spec, Geometry("linear"), seed=3, layer=0, call=1)
    expected = oracle.quantized(table.weight.detach(), "output_weight").dequantize()
    assert torch.equal(y, expected[index])  # no transform: a look-up is no Gemm
    dy = torch.randn(2, 3, 24)
    y.backward(dy)
    g = oracle.quantized(dy.reshape(6, 24), "grad_weight_grad").dequantize()
    grad = torch.zeros(20, 24).index_add_(0, index.reshape(-1), g)
    torch.testing.assert_close(table.weight.grad, grad, rtol=1e-5, atol=1e-6)


def test_no_warning_in_any_layout() -> None:
    model = converted(SPECS["turned"], lambda: nn.Conv2d(5, 6, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, torch.randn(2, 5, 6, 6).to(memory_format=torch.channels_last))


# ---- what is refused -----------------------------------------------------------------------------

HADAMARD = Hadamard(16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": True}, "samples is True"),
        ({"outliers": 1.0}, "outliers is 1.0"),
        ({"outliers": 0.5}, "between 0.5 and 1"),
        ({"output_input": replace(NV, transform=HADAMARD)}, "same transform"),
        ({"grad_input_grad": replace(NV, transform=HADAMARD)}, "hadamard.16, random. and none"),
        ({"signed_slot": replace(NV, transform=HADAMARD)}, "same transform"),
        ({"signed_slot": "nv"}, "signed_slot is 'nv'"),
        ({"signed_slot": PACTED}, "output_input is PACT too"),
        ({"output_weight": "nv"}, "slot output_weight is 'nv'"),
        ({"double": True, "output_input": None}, "double=True: grad_weight_input"),
        (
            {
                "fold": True,
                "grad_input_grad": Quantizer(nybble.get_format("fp4_radix4"), GradScale()),
            },
            "GradScale is found before",
        ),
        (
            {
                "output_input": Quantizer(INT4, SAWB(ste="clip"), None, HADAMARD),
                "output_weight": replace(NV, transform=HADAMARD),
            },
            "takes no transform",
        ),
        (
            {
                "output_input": PACTED,
                "grad_weight_grad": replace(NV, transform=HADAMARD),
                "grad_weight_input": replace(NV, transform=HADAMARD),
            },
            "which side",
        ),
    ],
)
def test_specs_that_contradict_themselves_are_refused(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SPECS["nv"], **change)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weight_gradient", {"k": 3.0, "m": 1}, "weight_gradient.*'m'"),
        ("accumulator", {"chunks": 1}, "accumulator.*'chunks'"),
        ("samples", 1.5, "samples is 1.5"),
        ("folded", True, "no field folded"),
    ],
)
def test_json_that_says_something_else_is_refused(key: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        LayerSpec.from_dict({**SPECS["nv"].to_dict(), key: value})


@pytest.mark.parametrize(("k", "clip"), [(0.5, 3.0), (5.0, 0.0), (float("nan"), 1.0)])
def test_estimators_have_a_shape(k: float, clip: float) -> None:
    with pytest.raises(UserError, match="k must be at least 1"):
        DGE(k, clip)


def test_tile_and_e2m1_names() -> None:
    assert TILE.format == E2M1 and "16x16" in TILE.short
