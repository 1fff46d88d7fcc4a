"""Each compressing module against torch's own: outputs and exact gradients bit for bit."""

import copy
import pickle

import pytest
import torch
from torch import nn

import nybble
from nybble.nn.memory import ActivationMemory, MemoryLayer
from nybble.training.saved import measure_saved_bytes


def compressed(module: nn.Module, backend: str = "reference", **options) -> nn.Module:
    twin = copy.deepcopy(module)
    return nybble.convert(
        nn.Sequential(twin), "fp32", activations=ActivationMemory(**options), backend=backend
    )[0]


def run(module, x, seed=0):
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    with measure_saved_bytes(module) as saved:
        # the input of a module in place must not be a leaf
        y = module(x * 1)
    torch.manual_seed(1)
    y.backward(torch.randn_like(y))
    return y.detach(), x.grad, saved.total, [p.grad for p in module.parameters()]


EXACT = [
    (nn.ReLU(), (4, 6, 8, 8), 32),
    (nn.ReLU(inplace=True), (4, 6, 8, 8), 32),
    (nn.ReLU6(), (4, 6, 8, 8), 32),
    (nn.LeakyReLU(0.1), (4, 6, 8, 8), 32),
    (nn.MaxPool2d(2), (4, 6, 9, 8), 15),
    (nn.MaxPool2d(3, 2, padding=1), (4, 6, 9, 8), 15),
    (nn.MaxPool2d(3, 2, padding=1, dilation=2, ceil_mode=True), (4, 6, 12, 11), 15),
    (nn.MaxPool2d((5, 4), (3, 2)), (2, 3, 17, 12), 12),
    (nn.MaxPool2d(2), (6, 8, 8), 12),
    (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), (4, 6, 9, 8), 1e9),
    (nn.AdaptiveAvgPool2d((3, 2)), (4, 6, 9, 8), 1e9),
    (nn.AdaptiveAvgPool2d(1), (4, 6, 9, 8), 1),
    (nn.Dropout(0.3), (4, 6, 8, 8), 32),
    (nn.Dropout(0.5), (7, 11), 20),
]


@pytest.mark.parametrize("module, shape, gain", EXACT, ids=lambda v: str(v)[:40])
@pytest.mark.parametrize("last", [False, True])
def test_exact_modules_give_torchs_bits(module, shape, gain, last):
    torch.manual_seed(3)
    x = torch.randn(shape) * 4
    if last and x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    ours = compressed(module)
    assert isinstance(ours, MemoryLayer) and isinstance(ours, type(module))
    y, dx, _, _ = run(module, x)
    y2, dx2, saved, _ = run(ours, x)
    assert torch.equal(y, y2) and torch.equal(dx, dx2)
    assert y.stride() == y2.stride()
    assert saved * gain <= x.numel() * 4 + 32 * gain


@pytest.mark.parametrize(
    "module, shape, bound",
    [
        (nn.GELU(), (64, 50), 0.05),
        (nn.GELU("tanh"), (4, 6, 8, 8), 0.05),
        (nn.SiLU(), (64, 50), 0.05),
        (nn.Softmax(-1), (64, 50), 0.02),
        (nn.Softmax(1), (8, 24, 7, 7), 0.02),
        (nn.BatchNorm1d(50), (64, 50), 0.03),
        (nn.BatchNorm1d(6), (8, 6, 33), 0.03),
        (nn.BatchNorm2d(6), (8, 6, 9, 9), 0.03),
        (nn.BatchNorm2d(6, affine=False), (8, 6, 9, 9), 0.03),
        (nn.BatchNorm2d(6, track_running_stats=False), (8, 6, 9, 9), 0.03),
        (nn.BatchNorm2d(6, momentum=None), (8, 6, 9, 9), 0.03),
        (nn.LayerNorm(50), (64, 50), 0.03),
        (nn.LayerNorm((5, 10), bias=False), (64, 5, 10), 0.05),
        (nn.LayerNorm(50, elementwise_affine=False), (64, 50), 0.03),
    ],
    ids=str,
)
def test_compressing_modules_are_exact_forward_and_close_backward(module, shape, bound):
    torch.manual_seed(3)
    x = torch.randn(shape) * 2 + 1
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    ours = compressed(module)
    y, dx, full, grads = run(module, x)
    y2, dx2, saved, grads2 = run(ours, x)
    assert torch.equal(y, y2)
    assert (dx - dx2).norm() <= bound * dx.norm()
    for a, b in zip(grads, grads2, strict=True):
        assert (a - b).norm() <= 0.25 * a.norm() + 1e-6  # dy is noise here, and so is dgamma
    assert saved < full / 3
    for a, b in zip(module.buffers(), ours.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("gamma, beta", [(0.0, 0.0), (0.0, 1.0), (0.0, -1.0), (-1.5, 0.4)])
def test_joined_batch_norm_and_relu_mask_exactly(gamma, beta):
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(gamma)
        net[0].bias.fill_(beta)
        net[0].bias[1:] += torch.tensor([0.0, 5.0, -5.0, 0.3])
    ours = nybble.convert(copy.deepcopy(net), "fp32", activations="4bit")
    x = torch.randn(16, 5, 6, 6)
    y, _, _, grads = run(net, x)
    y2, _, saved, grads2 = run(ours, x)
    assert torch.equal(y, y2)
    # dbeta sums the output gradient where the ReLU was on: equal masks, equal sums
    torch.testing.assert_close(grads2[1], grads[1], rtol=1e-5, atol=1e-5)
    assert saved < x.numel() * 0.5 + 400


def test_a_joined_batch_norm_used_without_its_relu_is_an_error():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.relu, self.skip = nn.BatchNorm1d(4), nn.ReLU(), False

        def forward(self, x):
            y = self.bn(x)
            return y if self.skip else self.relu(y)

    model = nybble.convert(Odd(), "fp32", activations="4bit")
    x = torch.randn(8, 4)
    model(x)
    model.skip = True
    with pytest.raises(nybble.errors.UserError, match="fuse=False"):
        model(x).sum().backward()
        model(x)


def test_nan_reaches_the_gradient():
    ours = compressed(nn.BatchNorm1d(3))
    x = torch.randn(8, 3)
    x[0, 1] = torch.nan
    x.requires_grad_()
    ours(x).sum().backward()
    assert x.grad[:, 1].isnan().all() and not x.grad[:, 0].isnan().any()


def test_modes_without_a_graph_are_torchs_own():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.MaxPool2d(2))
    ours = nybble.convert(copy.deepcopy(model), "fp32", activations="4bit")
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        torch.manual_seed(0)
        y = model(x)
        torch.manual_seed(0)
        assert torch.equal(ours(x), y)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    model.eval()(a).sum().backward()
    ours.eval()(b).sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert torch.equal(torch.func.grad(lambda v: ours(v).sum())(x), a.grad)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("cls", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_the_activation_inside_a_transformer_layer(cls, activation, backend):
    """A plain function, on the largest tensor of the layer."""
    torch.manual_seed(0)
    layer = cls(16, 2, 64, dropout=0.0, activation=activation, batch_first=True)
    plain, function = copy.deepcopy(layer), layer.activation
    kinds = {name: name == activation for name in ("relu", "gelu")}
    others = dict.fromkeys(("norm", "pool", "dropout", "softmax", "attention"), False)
    options = nybble.ActivationMemory(**kinds, **others)
    nybble.convert(layer, "fp32", activations=options, backend=backend)
    x = torch.randn(3, 5, 16)
    inputs = (x, x) if cls is nn.TransformerDecoderLayer else (x,)

    def run(model):
        leaf = [v.clone().requires_grad_() for v in inputs]
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.nbytes) or t, lambda t: t
        )
        with hooks:
            y = model(*leaf)
        y.square().sum().backward()
        return y.detach(), [v.grad for v in leaf], sum(kept)

    y, grads, saved = run(layer)
    want, expected, whole = run(plain)
    torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
    exact = activation == "relu"
    for got, one in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, one, **({} if exact else {"rtol": 0.2, "atol": 0.2}))
    assert whole - saved >= 3 * 5 * 64 * 4 * 0.8
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(*inputs), layer(*inputs))
    pickle.loads(pickle.dumps(layer))
    assert nybble.revert(layer).activation is function and type(layer) is cls
