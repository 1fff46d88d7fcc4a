"""Every converted layer: native equals reference, and torch's module comes back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import nybble
from nybble.convert import channels_last_
from nybble.ops import native

ALL = "sun2020:first_last=int4+embedding=yes+attention=yes"
CORE, MISSING = native.core()
needs_core = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")


@dataclass(frozen=True)
class Layer:
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]


LAYERS = {
    "conv1d": Layer(
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), lambda n: (torch.randn(n, 4, 9),)
    ),
    "conv1d_same": Layer(
        lambda: nn.Conv1d(4, 6, 4, padding="same", groups=2), lambda n: (torch.randn(n, 4, 9),)
    ),
    "conv3d": Layer(
        lambda: nn.Conv3d(4, 6, 3, stride=(1, 2, 1), padding=(1, 0, 2)),
        lambda n: (torch.randn(n, 4, 5, 4, 6),),
    ),
    "conv3d_circular": Layer(
        lambda: nn.Conv3d(4, 6, (1, 2, 3), padding=1, padding_mode="circular", bias=False),
        lambda n: (torch.randn(n, 4, 3, 4, 5),),
    ),
    "transposed1d": Layer(
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1),
        lambda n: (torch.randn(n, 4, 9),),
    ),
    "transposed2d": Layer(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2),
        lambda n: (torch.randn(n, 4, 5, 6),),
    ),
    "transposed2d_beyond": Layer(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=(1, 2), dilation=3, output_padding=2),
        lambda n: (torch.randn(n, 4, 5, 6),),
    ),
    "transposed3d": Layer(
        lambda: nn.ConvTranspose3d(4, 6, 3, stride=2), lambda n: (torch.randn(n, 4, 3, 4, 2),)
    ),
    "bilinear": Layer(
        lambda: nn.Bilinear(4, 6, 5), lambda n: (torch.randn(n, 3, 4), torch.randn(n, 3, 6))
    ),
    "embedding": Layer(
        lambda: nn.Embedding(7, 6, padding_idx=2), lambda n: (torch.randint(0, 7, (n, 5)),)
    ),
    "attention": Layer(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda n: (torch.randn(n, 5, 8),) * 3,
    ),
    "weight_norm": Layer(lambda: weight_norm(nn.Linear(4, 6)), lambda n: (torch.randn(n, 4),)),
    "spectral_norm": Layer(
        lambda: spectral_norm(nn.Conv1d(4, 6, 3)), lambda n: (torch.randn(n, 4, 9),)
    ),
    "old_weight_norm": Layer(
        lambda: old_weight_norm(nn.Conv2d(4, 6, 3)), lambda n: (torch.randn(n, 4, 5, 6),)
    ),
    "old_spectral_norm": Layer(
        lambda: old_spectral_norm(nn.Linear(4, 6)), lambda n: (torch.randn(n, 4),)
    ),
}
HOOKED = ("old_weight_norm", "old_spectral_norm")
PARAMETRIZED = ("weight_norm", "spectral_norm")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


def built(name: str, seed: int = 0) -> nn.ModuleList:
    torch.manual_seed(seed)
    return nn.ModuleList([LAYERS[name].make()])


def called(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    y = layer(*inputs)
    return y[0] if isinstance(y, tuple) else y


def batch(name: str, n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    torch.manual_seed(5)
    found = {id(x): x for x in LAYERS[name].inputs(n)}
    cast = {
        key: x.to(dtype).requires_grad_() if x.is_floating_point() else x
        for key, x in found.items()
    }
    torch.manual_seed(5)
    again = LAYERS[name].inputs(n)
    return tuple(cast.values()) if len(cast) == len(again) else (next(iter(cast.values())),) * 3


def results(name: str, backend: str, n: int) -> dict[str, Tensor]:
    """Two training steps and an inference: outputs and gradients."""
    model = built(name)
    nybble.convert(model, ALL, backend=backend, accumulate="exact", strict=True)
    for _, layer in nybble.quantized_layers(model):
        channels_last_(layer)  # as for the native backend: statistics follow the memory
    inputs = batch(name, n)
    found = {}
    for step in range(2):
        y = called(model[0], inputs)
        (y.square().sum() * 1e-3).backward()
        found[f"y{step}"] = y.detach()
    found |= {f"dx{i}": x.grad for i, x in enumerate(inputs) if x.grad is not None}
    found |= {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    found["eval"] = called(model.eval()[0], inputs).detach()
    return found


@needs_core
@pytest.mark.parametrize("n", [2, 1, 0])
@pytest.mark.parametrize("name", LAYERS)
def test_native_is_the_reference_in_training_and_in_inference(name: str, n: int) -> None:
    expected, ours = results(name, "reference", n), results(name, "native", n)
    assert expected.keys() == ours.keys()
    for key, value in expected.items():
        if "bias" in key and "proj" not in key:  # a sum of floats in memory order, by torch
            torch.testing.assert_close(ours[key], value)
        else:
            assert torch.equal(ours[key], value), key
    assert n == 0 or float(expected["y0"].detach().abs().sum()) > 0


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_class_keys_and_result_come_back(name: str) -> None:
    model, plain = built(name), built(name)
    cls, keys = type(model[0]), set(model.state_dict())
    inputs = batch(name, 2)
    nybble.convert(model, ALL)
    assert isinstance(model[0], cls)
    more = set(model.state_dict()) - keys
    assert keys < set(model.state_dict()) and all(".nybble_" in key for key in more)
    called(model[0], inputs).sum().backward()
    if name not in HOOKED:
        twin = copy.deepcopy(model)
        assert torch.equal(called(twin.eval()[0], inputs), called(model.eval()[0], inputs))
        model.train()
    if name not in (*HOOKED, *PARAMETRIZED):  # torch pickles neither
        assert type(pickle.loads(pickle.dumps(model))[0]) is type(model[0])
    model.load_state_dict(plain.state_dict(), strict=True)
    assert nybble.revert(model) is model
    assert type(model[0]) is cls and set(model.state_dict()) == keys
    if "spectral" not in name:  # whose power iteration has gone on
        torch.testing.assert_close(called(model[0], inputs), called(plain[0], inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in HOOKED])
def test_half_dtypes_in_and_out(name: str, dtype: torch.dtype) -> None:
    model = nybble.convert(built(name), ALL).to(dtype)
    inputs = batch(name, 2, dtype)
    y = called(model[0], inputs)
    y.float().square().sum().backward()
    assert y.dtype is dtype and bool(y.isfinite().all())
    grads = [x.grad for x in inputs if x.is_floating_point()]
    assert all(g is not None and g.dtype is dtype for g in grads)


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("embedding", *HOOKED)])
def test_wide_formats_agree_with_torch(name: str) -> None:
    """bf16 rounds, so outputs agree to its precision: the geometry must be torch's."""
    model, plain = built(name), built(name)
    rules = {"0.qk_product": "bf16", "0.pv_product": "bf16"} if name == "attention" else None
    nybble.convert(model, "bf16", rules)
    outs, grads = [], []
    for one in (plain, model):
        inputs = batch(name, 2)
        y = called(one[0], inputs)
        y.square().sum().backward()
        outs.append(y.detach())
        grads.append([x.grad for x in inputs] + [p.grad for p in one.parameters()])
    torch.testing.assert_close(outs[1], outs[0], rtol=0.02, atol=0.05)
    for ours, theirs in zip(grads[1], grads[0], strict=True):
        error = (ours - theirs).abs().max() / theirs.abs().max()
        assert error < 0.05


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "transposed1d", "transposed3d"])
def test_a_single_example_and_a_wrong_one(name: str) -> None:
    # Learned clips: one that is found in every batch is another one for a part of it.
    model = nybble.convert(built(name), f"{ALL}+signed=symmetric")
    x = LAYERS[name].inputs(2)[0]
    layer = model[0].eval()
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    with pytest.raises((nybble.UserError, ValueError), match="input"):
        layer(x[0, 0])
    with pytest.raises(nybble.UserError, match=r"must be \[N, 4, "):
        layer(x[:, :3])


def test_the_output_size_of_a_transposed_convolution_is_taken() -> None:
    layer = nybble.convert(nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2)), ALL)[0]
    assert layer(torch.ones(1, 2, 4, 4), output_size=[10, 9]).shape == (1, 3, 10, 9)


def test_bilinear_refuses_what_does_not_fit() -> None:
    layer = nybble.convert(nn.ModuleList([nn.Bilinear(4, 6, 5)]), ALL)[0]
    with pytest.raises(nybble.UserError, match=r"must be \[..., 4\] and \[..., 6\]"):
        layer(torch.ones(2, 4), torch.ones(2, 5))


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "transposed2d", "bilinear", "attention"])
def test_frozen_weights_pass_the_gradient_on_and_get_none(name: str) -> None:
    model = nybble.convert(built(name).requires_grad_(False), ALL)
    inputs = batch(name, 2)
    called(model[0], inputs).square().sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if ".nybble_" not in n)
    assert all(x.grad is not None and float(x.grad.abs().sum()) > 0 for x in inputs)


def test_a_normalised_weight_is_computed_once_a_forward() -> None:
    """spectral_norm's power iteration steps at every access of the weight."""
    plain, model = (nn.Sequential(spectral_norm(nn.Linear(4, 6))) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    nybble.convert(model, ALL)
    for _ in range(3):
        plain(torch.ones(2, 4)), model(torch.ones(2, 4))
    u = [m[0].parametrizations.weight[0]._u for m in (plain, model)]
    assert torch.equal(u[0], u[1])


def test_a_parametrization_made_after_conversion_blocks_revert_and_one_before_does_not() -> None:
    model = nybble.convert(nn.Sequential(nn.Linear(4, 4)), ALL)
    weight_norm(model[0])
    with pytest.raises(nybble.UserError, match="take the parametrization away first"):
        nybble.revert(model)


def test_tied_weights_stay_tied_and_learn_from_both_uses() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3]])
    grads = []
    for recipe in ("sun2020:first_last=int4", ALL):
        model = nybble.convert(Tied(), recipe)
        assert model.head.weight is model.embed.weight
        model(ids).square().sum().backward()
        grads.append(model.embed.weight.grad)
        assert float(grads[-1][5].abs().sum()) > 0  # from the head
        assert next(n for n, _ in model.named_parameters()) == "embed.weight"
    assert not torch.equal(grads[0], grads[1])
