"""Converted recurrent layers in a model: rules, state, files, summary, and what training does."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import nybble
from nybble.convert import convertible_layers
from nybble.nn.recurrent import RecurrentGemm
from nybble.ops.native import available
from nybble.ops.native.recurrent import why_not_native

FOUR = "sun2020:first_last=int4"


class Words(nn.Module):
    """Tokens through an embedding and an LSTM to a head, as a language model has it."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 16)
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True, **options)
        self.head = nn.Linear(self.lstm.proj_size or 24, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.table(tokens))[0])


def words(recipe: str = "sun2020", seed: int = 0, backend: str = "reference", **options) -> Words:
    torch.manual_seed(seed)
    return nybble.convert(Words(**options), recipe, backend=backend)


def rules_of(model: nn.Module) -> dict[str, str]:
    return {name: layer.nybble_rule for name, layer in nybble.quantized_layers(model)}


def test_an_lstm_behind_an_embedding_is_no_first_layer() -> None:
    found = rules_of(words())
    assert found.pop("head") == "sun2020: last layer"
    inputs = {"lstm.ih_l0": "sun2020", "lstm.ih_l1": "sun2020"}
    loop = "sun2020: time-loop layer"
    assert found == {**inputs, "lstm.hh_l0": loop, "lstm.hh_l1": loop}


def test_alone_its_first_input_and_its_top_layer_are_wide() -> None:
    net = nybble.convert(nn.GRU(4, 8, 3, bidirectional=True), "sun2020")
    found = rules_of(net)
    wide = {name for name, rule in found.items() if rule.endswith((" first layer", " last layer"))}
    assert wide == {"ih_l0", "ih_l0_reverse", *(n for n in found if "_l2" in n)}


def test_rules_by_name_type_and_part() -> None:
    net = nybble.convert(Words(), "sun2020", rules={"lstm": "hfp8", "head": None})
    assert set(rules_of(net).values()) == {"user rule lstm"}
    net = nybble.convert(Words(), FOUR, rules={"lstm.hh_l0": None})
    assert not net.lstm.hh_l0.nybble_spec.quantizes and net.lstm.ih_l0.nybble_spec.quantizes
    net = nybble.convert(Words(), FOUR, rules={"lstm": None})
    assert type(net.lstm) is nn.LSTM
    with pytest.raises(nybble.UserError, match=r"Did you mean 'lstm'"):
        nybble.convert(Words(), FOUR, rules={"lstmm": None})
    rule = nybble.recipes.recipe.Rule(None, type="recurrent")
    facts = [f for f, _ in convertible_layers(Words())]
    assert [rule.matches(f) for f in facts] == [False] + [True] * 4 + [False]
    rule = nybble.recipes.recipe.Rule(None, type="time-loop")
    assert [f.name for f in facts if rule.matches(f)] == ["lstm.hh_l0", "lstm.hh_l1"]


def test_signed_inputs_take_sawb_and_hidden_states_a_learned_clip() -> None:
    """A scale fitted in every step would take the loop out of C++."""
    net = words()
    net(torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))).sum().backward()
    scales = {
        name: (type(layer._resolved_spec().output_input.scale).__name__, layer.learns_clip)
        for name, layer in nybble.quantized_layers(net)
        if name != "head"
    }
    inputs, loop = ("SAWB", False), ("PACT", True)
    assert scales == {
        "lstm.ih_l0": inputs,
        "lstm.hh_l0": loop,
        "lstm.ih_l1": inputs,
        "lstm.hh_l1": loop,
    }
    spec = net.lstm.hh_l0._resolved_spec()
    assert all(why_not_native(spec, gemm) is None for gemm in ("output", "grad_input"))


@pytest.mark.parametrize(
    "rules", [{"lstm": "sun2020"}, {"re:.": "sun2020"}, {"lstm.hh_l0": "sun2020"}]
)
def test_a_rule_that_names_the_recipe_leaves_the_loop_in_cpp(rules: dict[str, str]) -> None:
    net = nybble.convert(Words(), "sun2020", rules=rules)
    net(torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))).sum().backward()
    spec = net.lstm.hh_l0._resolved_spec()
    assert why_not_native(spec, "output") is None
    assert net.lstm.hh_l0.nybble_rule.startswith("user rule")


def test_class_keys_and_revert() -> None:
    plain = Words()
    keys, parameters = list(plain.state_dict()), list(plain.parameters())
    net = nybble.convert(plain, FOUR)
    assert isinstance(net.lstm, nn.LSTM) and type(net.lstm) is not nn.LSTM
    assert set(keys) < set(net.state_dict())
    net.load_state_dict(Words().state_dict())  # strict: quantisation state may be missing
    nybble.revert(net)
    assert type(net.lstm) is nn.LSTM and list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    net(torch.zeros(1, 2, dtype=torch.int64))


def test_float_weights_start_the_state_afresh() -> None:
    net = words()
    step(net)
    layer = net.lstm.hh_l0
    assert float(layer.nybble_alpha) > 0 and float(layer.nybble_grad_scale) > 0
    net.load_state_dict(Words().state_dict())
    assert float(layer.nybble_alpha) == float(layer.nybble_grad_scale) == 0
    assert int(layer.nybble_input_kind) == 2  # a hidden state has both signs
    step(net)
    assert float(layer.nybble_alpha) > 0


def step(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> float:
    tokens = torch.randint(0, 11, (8, 13))
    logits = net(tokens)[:, 1:]
    loss = F.cross_entropy(logits.reshape(-1, 11), tokens[:, :-1].reshape(-1))
    net.zero_grad()
    loss.backward()
    if optimizer is not None:
        optimizer.step()
    return loss.item()


def test_save_load_and_go_on_training(tmp_path: Path) -> None:
    net = words(FOUR)
    for _ in range(2):
        step(net)
    nybble.save(net, tmp_path / "net.safetensors")
    twin = nybble.load(Words(), tmp_path / "net.safetensors")
    for _, layer in nybble.quantized_layers(twin):
        layer.nybble_backend = "reference"
    again = nybble.load(words(FOUR, seed=5), tmp_path / "net.safetensors")
    losses = []
    for model in (net, twin, again):
        torch.manual_seed(7)
        losses.append([step(model, torch.optim.SGD(model.parameters(), lr=0.1)) for _ in range(3)])
    assert losses[0] == losses[1] == losses[2]


def test_summary_lists_every_gemm_with_its_macs() -> None:
    net = words(FOUR, proj_size=8)
    rows = {(r.layer, r.gemm): r for r in nybble.summary(net, torch.zeros(3, 5).long()).rows}
    assert rows["lstm.hh_l1", "output"].macs == 15 * 96 * 8
    assert rows["lstm.hr_l1", "grad_weight"].macs == 15 * 8 * 24
    assert rows["lstm.ih_l0", "output"].macs == 15 * 96 * 16
    assert (
        rows["lstm.hh_l0", "output"].bits == (4, 4) and rows["lstm.hh_l0", "output"].type == "LSTM"
    )
    assert math.isclose(sum(r.share for r in rows.values()), 1.0)


def test_summary_counts_grad_input_where_a_gradient_goes_on() -> None:
    """Of the first layer's input nothing is asked; a state hands it on to the step before."""
    net = nybble.convert(nn.LSTM(4, 8), FOUR)
    x = torch.zeros(5, 3, 4)
    rows = {(r.layer, r.gemm): r.macs for r in nybble.summary(net, x).rows}
    assert rows["ih_l0", "grad_input"] == 0 and rows["ih_l0", "grad_weight"] == 15 * 32 * 4
    assert rows["hh_l0", "grad_input"] == rows["hh_l0", "output"] == 15 * 32 * 8
    net.weight_hh_l0.requires_grad_(False)
    rows = {(r.layer, r.gemm): r.macs for r in nybble.summary(net, x.requires_grad_()).rows}
    assert rows["ih_l0", "grad_input"] == 15 * 32 * 4 and rows["hh_l0", "grad_weight"] == 0


@pytest.mark.skipif(not available(), reason="needs the compiled module")
def test_summary_and_strict_name_the_fall_back_of_a_projection() -> None:
    text = str(nybble.summary(words(FOUR, backend="native", proj_size=8), torch.zeros(3, 5).long()))
    assert "a projection inside the time loop" in text
    whole = nybble.summary(words(FOUR, backend="native"), torch.zeros(3, 5).long())
    assert all(row.backend.startswith("native") and not row.fallback for row in whole.rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_modules_return_their_type(dtype: torch.dtype) -> None:
    net = nybble.convert(nn.LSTM(4, 8), FOUR).to(dtype)
    out, (h, c) = net(torch.randn(3, 2, 4, dtype=dtype))
    assert out.dtype == h.dtype == c.dtype == dtype
    out.float().square().sum().backward()
    assert net.weight_hh_l0.grad.dtype == dtype and bool((net.weight_hh_l0.grad != 0).any())
    assert net.hh_l0.nybble_grad_scale.dtype == torch.float32


def test_autocast_returns_its_type() -> None:
    net = nybble.convert(nn.GRU(4, 8), FOUR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(3, 2, 4))[0].dtype == torch.bfloat16


def test_copies_own_their_gemms() -> None:
    net = nybble.convert(nn.GRU(4, 8), FOUR)
    twin = copy.deepcopy(net)
    assert twin.hh_l0.weight is twin.weight_hh_l0 and twin.weight_hh_l0 is not net.weight_hh_l0
    assert twin.hh_l0.nybble_owner is twin


def test_recomputation_repeats_the_forward() -> None:
    torch.manual_seed(0)
    net = nybble.convert(nn.LSTM(4, 8), FOUR + "+factor=stochastic", backend="reference")
    x = torch.randn(5, 3, 4)
    net(x)[0].square().sum().backward()  # sets clips and scales
    grads = []
    for again in (False, True):
        twin = copy.deepcopy(net)
        twin.zero_grad()
        y = (
            checkpoint(lambda t, twin=twin: twin(t)[0], x, use_reentrant=False)
            if again
            else twin(x)[0]
        )
        y.square().sum().backward()
        grads.append([p.grad for p in twin.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_the_grad_scale_moves_once_an_iteration_and_does_not_thrash() -> None:
    """Counted over a run: moves, and gradients that end a factor of two or more off the range."""
    net = words(FOUR)
    optimizer = torch.optim.Adam(nybble.param_groups(net, lr=3e-3))
    layers = {n: m for n, m in nybble.quantized_layers(net) if isinstance(m, RecurrentGemm)}
    before: dict[str, float] = {}
    moves, underflows, overflows, steps = 0, 0, 0, 60
    for _ in range(steps):
        step(net, optimizer)
        for name, layer in layers.items():
            scale, amax = float(layer.nybble_grad_scale), float(layer.nybble_grad_amax)
            ratio = scale / before.get(name, scale)
            assert ratio in (0.5, 1.0, 2.0), "one step of the rule an iteration"
            moves += ratio != 1.0
            top = layer.nybble_spec.grad_scale[1]
            underflows += scale * amax <= top / 4
            overflows += scale * amax > 2 * top
            before[name] = scale
    total = steps * len(layers)
    assert moves < total / 2
    assert underflows + overflows < total / 20


def test_few_gradients_of_the_gates_become_zero() -> None:
    net = words(FOUR)
    optimizer = torch.optim.Adam(nybble.param_groups(net, lr=3e-3))
    for _ in range(10):
        step(net, optimizer)
    layer = net.lstm.hh_l0
    seen: list[Tensor] = []  # dz of every step, before it is rounded
    net.lstm.ih_l0.register_forward_hook(lambda m, a, y: y.register_hook(seen.append) and None)
    step(net)
    slot = layer.nybble_spec.grad_input_grad
    scaled = seen[0] * float(layer.nybble_grad_scale)
    zeros = slot.format.round_to_integers(scaled, slot.rounding, None) == 0
    assert float(zeros.float().mean()) < 0.5 and float(scaled.abs().max()) <= 128


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_small_task_is_learned_and_no_gemm_is_dead(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(kind(8, 32, batch_first=True))
    head = nn.Linear(32, 8)
    nybble.convert(net, FOUR)
    groups = [*nybble.param_groups(net, lr=5e-3), {"params": list(head.parameters()), "lr": 5e-3}]
    optimizer = torch.optim.Adam(groups)
    losses = []
    for _ in range(120):
        tokens = torch.randint(0, 8, (32, 10))
        logits = head(net(F.one_hot(tokens, 8).float())[0])[:, 1:]
        loss = F.cross_entropy(logits.reshape(-1, 8), tokens[:, :-1].reshape(-1))  # one step ago
        optimizer.zero_grad()
        loss.backward()
        for name, layer in nybble.quantized_layers(net):
            assert bool((layer.weight.grad != 0).any()), name
        optimizer.step()
        losses.append(float(loss))
    assert losses[0] > 1.9 and sum(losses[-5:]) / 5 < 0.9


def test_a_state_of_zeros_teaches_a_cell_nothing() -> None:
    cell = nybble.convert(nn.LSTMCell(4, 8), FOUR)
    state = cell(torch.randn(3, 4))
    assert float(cell.hh.nybble_alpha) == 0 and bool(state[0].isfinite().all())
    h, c = cell(torch.randn(3, 4), state)
    assert 0 < float(cell.hh.nybble_alpha) <= 1
    (h + c).sum().backward()
    assert bool((cell.weight_hh.grad != 0).any())


def test_the_loop_equals_linear_layers_one_step_after_the_other() -> None:
    """The hidden-hidden Gemm of a sequence is that of a converted Linear, called at every step."""
    torch.manual_seed(0)
    lstm = nybble.convert(nn.LSTM(6, 16), FOUR, backend="reference", accumulate="exact")
    x = torch.randn(7, 5, 6)
    lstm(x)
    y, (h_n, _) = lstm(x)
    linear = nn.Sequential(nn.Linear(16, 64, bias=False))
    linear[0].weight.data = lstm.weight_hh_l0.data
    learned = f"{FOUR}+signed=symmetric"
    nybble.convert(linear, learned, backend="reference", accumulate="exact", inputs="signed")
    with torch.no_grad():
        linear[0].nybble_alpha.copy_(lstm.hh_l0.nybble_alpha)
        gx = lstm.ih_l0(x.view(35, 6), lstm.bias_ih_l0 + lstm.bias_hh_l0).view(7, 5, 64)
        h, c = torch.zeros(5, 16), torch.zeros(5, 16)
        tanh, sigmoid = nybble.ops.reference.gates.tanh, nybble.ops.reference.gates.sigmoid
        for t in range(7):
            i, f, g, o = (gx[t] + linear(h)).chunk(4, 1)
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(c)
            assert torch.equal(h, y[t])
    assert torch.equal(h, h_n[0])


def test_training_watches_the_weights_of_recurrent_layers() -> None:
    from nybble.training.record import layers_of

    net = words()
    weights = [name for name, p in net.named_parameters() if p.dim() == 2]
    assert layers_of(net, weights, converted=True) == ["head", "lstm"]
