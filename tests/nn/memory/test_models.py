"""Whole models with activations="4bit": bytes, training, and everything torch does to modules."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import nybble
from nybble.nn.memory import ActivationMemory, attention, memory_layers
from nybble.training.models.resnet import resnet8, resnet18
from nybble.training.saved import measure_saved_bytes


def kept(model, x, t):
    with measure_saved_bytes(model) as saved:
        F.cross_entropy(model(x), t)
    return saved.total


def batch(n, size=32):
    torch.manual_seed(n)
    x = torch.randn(n, 3, size, size).to(memory_format=torch.channels_last)
    return x, torch.arange(n) % 10


def per_sample(model, size=32):
    """What grows with the batch: weights are not counted."""
    return (kept(model, *batch(4, size)) - kept(model, *batch(2, size))) / 2


def test_resnet18_keeps_a_sixth():
    model = resnet18().to(memory_format=torch.channels_last)
    full = per_sample(model)
    ours = per_sample(nybble.convert(model, "sun2020", activations="4bit"))
    assert full / ours > 6.1


class Attention(nn.Module):
    def __init__(self, width=32, heads=1):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.norm1, self.attention, self.norm2 = (
            nn.LayerNorm(width),
            Attention(),
            nn.LayerNorm(width),
        )
        self.up, self.act, self.down = nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


def test_transformer_keeps_less_than_a_fifth_and_gradients_are_close():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), *(Block() for _ in range(4)), nn.Linear(32, 32))
    x = torch.randn(4, 16, 32)
    ours = nybble.convert(copy.deepcopy(model), "fp32", activations="4bit")
    assert isinstance(ours[1].attention, Attention)
    grads = []
    for net in (model, ours):
        y = net(x)
        y.square().sum().backward()
        grads.append((y, torch.cat([p.grad.flatten() for p in net.parameters()])))
    assert torch.equal(grads[0][0], grads[1][0])
    assert F.cosine_similarity(grads[0][1], grads[1][1], 0) > 0.999

    def bytes_(net, n):
        with measure_saved_bytes(net) as saved:
            net(torch.ones(n, 16, 32)).sum()
        return saved.total

    four = nybble.convert(copy.deepcopy(model), "sun2020", activations="4bit")
    full = bytes_(model, 8) - bytes_(model, 4)
    assert full / (bytes_(four, 8) - bytes_(four, 4)) > 4.5


@pytest.mark.parametrize("causal, masked", [(True, False), (False, True), (False, False)])
def test_attention_is_close(causal, masked):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 24, 16, requires_grad=True) for _ in range(3))
    mask = torch.randn(24, 24) if masked else None
    results = []
    for f in (F.scaled_dot_product_attention, attention):
        y = f(q, k, v, attn_mask=mask, is_causal=causal)
        torch.manual_seed(1)
        results.append((y, *torch.autograd.grad(y, (q, k, v), torch.randn_like(y))))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        assert (a - b).norm() < 0.03 * a.norm()


def test_attention_repeats_its_dropout():
    torch.manual_seed(0)
    q = torch.randn(1, 1, 8, 8, requires_grad=True)
    v = torch.eye(8)[None, None].requires_grad_()
    y = attention(q, q, v, dropout_p=0.5)
    y.backward(torch.ones_like(y))
    # v is the identity: y holds the weights that were kept, and v's gradient their column sums
    torch.testing.assert_close(v.grad[0, 0, :, 0], y[0, 0].detach().sum(0), rtol=0.03, atol=1e-3)
    assert bool((y == 0).any())
    before = torch.get_rng_state()
    attention(q, q, v, dropout_p=0.5)
    assert not torch.equal(before, torch.get_rng_state())


def test_multihead_attention():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    ours = nybble.convert(nn.Sequential(copy.deepcopy(layer)), "fp32", activations="4bit")[0]
    x = torch.randn(2, 8, 16)
    for weights in (False, True):
        a, b = layer(x, x, x, need_weights=weights)[0], ours(x, x, x, need_weights=weights)[0]
        assert torch.equal(a, b)
        b.sum().backward()


def small():
    torch.manual_seed(0)
    return resnet8(width=16)


def train(model, steps=30):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 3, 8, 8, generator=generator)
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.05), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        t = torch.randint(0, 10, (32,), generator=generator)
        x = centres[t] + 0.7 * torch.randn(32, 3, 8, 8, generator=generator)
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def test_training_reaches_the_same_loss():
    full = train(small())
    ours = train(nybble.convert(small(), "fp32", activations="4bit"))
    assert full < 0.6 and abs(full - ours) < 0.1
    four = train(nybble.convert(small(), "sun2020"))
    both = train(nybble.convert(small(), "sun2020", activations="4bit"))
    assert abs(four - both) < 0.25


def test_revert_gives_back_torchs_classes_and_keys():
    model = nn.Sequential(small(), Block(), nn.MultiheadAttention(8, 2))
    before = [(name, type(module)) for name, module in model.named_modules()]
    attributes = [sorted(module.__dict__) for module in model.modules()]
    keys = list(model.state_dict())
    nybble.convert(model, "fp32", activations="4bit")
    assert list(model.state_dict()) == keys
    assert len(list(memory_layers(model))) > 15
    with pytest.raises(nybble.errors.UserError, match="converted already"):
        nybble.convert(model, "sun2020")
    nybble.revert(model)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert [sorted(module.__dict__) for module in model.modules()] == attributes


def gradients(model, x, t):
    model.zero_grad()
    loss = F.cross_entropy(model(x), t)
    loss.backward()
    return [loss.detach()] + [p.grad.clone() for p in model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_copies_and_pickles_work_like_the_original():
    model = nybble.convert(small(), "fp32", activations="4bit")
    x, t = batch(4, 8)
    want = gradients(model, x, t)
    assert equal(gradients(copy.deepcopy(model), x, t), want)
    assert equal(gradients(pickle.loads(pickle.dumps(model)), x, t), want)
    twin = copy.deepcopy(nybble.convert(nn.Sequential(Block()), "fp32", activations="4bit"))
    twin(torch.randn(2, 4, 32)).sum().backward()
    assert isinstance(pickle.loads(pickle.dumps(twin))[0].attention, Attention)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self, body, on):
            super().__init__()
            self.body, self.on = body, on

        def forward(self, x):
            x = self.body.relu1(self.body.bn1(self.body.conv1(x)))
            for block in self.body.stages:
                x = checkpoint(block, x, use_reentrant=reentrant) if self.on else block(x)
            return self.body.fc(self.body.pool(x).flatten(1))

    x, t = batch(4, 8)
    runs = []
    for on in (False, True):
        model = nybble.convert(Checkpointed(small(), on), "fp32", activations="4bit")
        runs.append(gradients(model, x, t))
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_autocast():
    model = nybble.convert(small(), "sun2020", activations="4bit")
    x, t = batch(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), t)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_save_and_load(tmp_path):
    model = nybble.convert(small(), "sun2020", activations="4bit")
    x, t = batch(4, 8)
    want = gradients(model, x, t)
    nybble.save(model, tmp_path / "m.safetensors")
    twin = nybble.convert(small(), "sun2020", activations="4bit")
    nybble.load(twin, tmp_path / "m.safetensors")
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert len(want) > 10


def test_what_cannot_be_joined():
    bn, relu = nn.BatchNorm1d(4), nn.ReLU()
    twice = nybble.convert(nn.Sequential(bn, relu, bn, relu), "fp32", activations="4bit")
    assert not twice[0]._nybble_memory_fused
    hooked = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
    seen = []
    hooked[1].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    nybble.convert(hooked, "fp32", activations="4bit")
    hooked(torch.randn(8, 4))
    assert bool((seen[0] < 0).any())
    later = nybble.convert(
        nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), "fp32", activations=ActivationMemory()
    )
    later[0].register_forward_hook(lambda m, args, out: seen.append(out))
    later(torch.randn(8, 4))
    assert bool((seen[1] < 0).any())


@pytest.mark.parametrize("name", ["unsigned", "5bit", 4])
def test_unknown_options(name):
    with pytest.raises(nybble.errors.UserError):
        nybble.convert(small(), "sun2020", activations=name)


def test_summary_lists_what_is_kept():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return F.silu(self.fc(x))

    model = nn.Sequential(Functional(), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    nybble.convert(model, "sun2020", activations="4bit")
    found = nybble.summary(model, torch.randn(64, 8))
    kept = {entry.module: entry for entry in found.kept}
    assert kept["0"].keeps == "" and kept["0"].saved >= 64 * 8 * 4
    assert "mask" in kept["1"].keeps and kept["1"].bits < 8
    assert kept["2"].saved == 0
    assert "0 (Functional): 2,048 bytes; not compressed" in str(found)
    plain = nybble.summary(nybble.revert(model), torch.randn(64, 8))
    assert "beside these layers" not in str(plain)


def test_what_cannot_be_traced_is_said():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.relu = nn.BatchNorm1d(4), nn.ReLU()

        def forward(self, x):
            return self.relu(self.bn(x)) if x.sum() > 0 else self.relu(self.bn(-x))

    model = nybble.convert(
        nn.Sequential(nn.Linear(4, 4), Branch(), nn.Linear(4, 4)), "sun2020", activations="4bit"
    )
    assert "1's own forward, which cannot be traced" in str(
        nybble.summary(model, torch.randn(16, 4))
    )


@pytest.mark.parametrize("recipe", ["fp32", "sun2020"])
def test_the_training_configuration_reaches_convert(recipe):
    from nybble.training.config import TrainConfig
    from nybble.training.prepare import build_model

    class Task:
        def model(self):
            return small()

    model, _ = build_model(TrainConfig(recipe=recipe, activations="4bit"), Task())
    assert len(list(memory_layers(model))) > 10
    with pytest.raises(nybble.errors.UserError):
        TrainConfig(activations="5bit")
