"""What PyTorch users do with layers: checkpointing, accumulation, ties, casts, autocast."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nybble

FOUR_BIT = "sun2020:first_last=int4"


def mlp(recipe: str = FOUR_BIT, **options: object) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    return nybble.convert(model, recipe, **options)


def batch(n: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left, right)


def test_first_batch_sets_kind_and_clip():
    model = mlp()
    assert model[0].nybble_alpha.item() == 0.0
    model(batch())
    assert model[0].nybble_input_kind.item() == 2  # the input has negative values
    assert model[2].nybble_input_kind.item() == 1  # behind a ReLU
    assert model[0].nybble_alpha.item() == 0.0  # signed: SAWB, nothing to learn
    for i in (2, 4):
        assert model[i].nybble_alpha.item() > 0
    alpha = model[2].nybble_alpha.item()
    model(10 * batch(seed=2))
    assert model[2].nybble_alpha.item() == alpha  # only the first batch


def test_inputs_argument_decides_without_data():
    model = mlp(inputs="signed")
    model(batch())
    assert all(model[i].nybble_input_kind.item() == 2 for i in (0, 2, 4))
    y = mlp(inputs="unsigned")
    y(batch())
    assert all(y[i].nybble_input_kind.item() == 1 for i in (0, 2, 4))


def test_two_sided_clips_learn_both_ends():
    model = mlp(FOUR_BIT + "+signed=two_sided")
    model(batch())
    alpha = model[0].nybble_alpha
    assert alpha.shape == (2,) and (alpha > 0).all()
    with torch.no_grad():
        alpha.copy_(torch.tensor([0.4, 0.3]))
    model(batch()).square().sum().backward()
    assert (alpha.grad != 0).all()
    assert model[2].nybble_alpha.grad[1] == 0  # unsigned: the second clip is not used


@pytest.mark.parametrize("sawb", ["ibm15", "ibm16", "luq"])
def test_signed_inputs_by_sawb_take_the_weights_levels_and_coefficients(sawb):
    layer = mlp(f"{FOUR_BIT}+signed=sawb+sawb={sawb}")[0]
    layer(batch())
    spec = layer._resolved_spec()
    assert spec.output_input.scale.coefficients == sawb
    assert spec.output_input.format == spec.output_weight.format


@pytest.mark.parametrize("recipe", [FOUR_BIT, FOUR_BIT + "+signed=sawb"])
def test_signed_inputs_by_sawb_learn_no_clip(recipe):
    model = mlp(recipe)
    model(batch()).square().sum().backward()
    assert model[0].nybble_alpha.item() == 0.0 and model[2].nybble_alpha.item() > 0
    assert not model[0].nybble_alpha.grad or not model[0].nybble_alpha.grad.any()
    assert model[2].nybble_alpha.grad is not None


def test_grad_scale_may_start_at_one():
    layer = nybble.convert(nn.Linear(4, 4), FOUR_BIT + "+gradscale_start=one")
    x = torch.randn(3, 4)
    found = []
    for _ in range(4):
        layer.zero_grad()
        (layer(x) * 2.0**-14).sum().backward()
        found.append(layer.nybble_grad_scale.item())
    assert found == [1.0, 2.0, 4.0, 8.0]
    assert not layer.weight.grad.any()  # far from the format's range: every code is 0


def test_a_clip_that_training_pushed_below_zero_is_not_set_again(tmp_path):
    model = mlp()
    model(batch())
    with torch.no_grad():
        model[2].nybble_alpha.fill_(-0.5)
    twin = mlp()
    twin.load_state_dict(model.state_dict())
    twin(batch())
    assert twin[2].nybble_alpha.item() == -0.5


@pytest.mark.parametrize("recipe", [FOUR_BIT, "sun2020-strict", "hfp8", "fp16", "bf16"])
@pytest.mark.parametrize("accumulate", ["fast", "exact"])
def test_every_recipe_learns_and_no_layer_is_dead(recipe, accumulate):
    model = mlp(recipe, accumulate=accumulate)
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.1), lr=0.1)
    x = batch(64)
    target = x[:, :4].argmax(1)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        for _, layer in nybble.quantized_layers(model):
            assert layer.weight.grad.abs().sum() > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_chunked_accumulation_runs_and_differs():
    torch.manual_seed(0)
    exact = nn.Linear(512, 8)
    chunked = copy.deepcopy(exact)
    nybble.convert(exact, FOUR_BIT)
    nybble.convert(chunked, FOUR_BIT + "+accumulator=chunked")
    x = torch.rand(64, 512)
    a, b = exact(x), chunked(x)
    assert not torch.equal(a, b)  # sums beyond 2^10 meet DLFLOAT16's nine mantissa bits
    torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)
    for y in (a, b):
        y.square().sum().backward()
    error = (chunked.weight.grad - exact.weight.grad).norm() / exact.weight.grad.norm()
    assert 0 < error < 0.02


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("recipe", [FOUR_BIT, FOUR_BIT + "+factor=stochastic"])
def test_gradient_checkpointing_gives_the_same_bits(reentrant, recipe):
    plain, saved = mlp(recipe, seed=0), mlp(recipe, seed=0)
    for step in range(3):
        x = batch(seed=step)
        plain.zero_grad()
        plain(x).square().sum().backward()
        saved.zero_grad()
        head = checkpoint(saved[:3], x.requires_grad_(), use_reentrant=reentrant)
        saved[3:](head).square().sum().backward()
        assert_same(gradients(plain), gradients(saved))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name


def test_checkpointing_a_layer_used_twice_reuses_each_call():
    def build():
        torch.manual_seed(0)
        return nybble.convert(nn.Linear(6, 6), FOUR_BIT + "+factor=stochastic")

    plain, saved = build(), build()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    plain(plain(x).relu()).square().sum().backward()
    inner = checkpoint(saved, x, use_reentrant=False)
    checkpoint(saved, inner.relu(), use_reentrant=False).square().sum().backward()
    assert torch.equal(plain.weight.grad, saved.weight.grad)
    assert plain.nybble_calls.item() == saved.nybble_calls.item() == 2


def test_stochastic_rounding_is_a_function_of_seed_and_call():
    recipe = FOUR_BIT + "+factor=stochastic"

    def run(seed, threads=1):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model = mlp(recipe, seed=seed)
            result = []
            for _ in range(2):
                model.zero_grad()
                model(batch()).square().sum().backward()
                result.append(model[2].weight.grad.clone())
        finally:
            torch.set_num_threads(before)
        return result

    first, second = run(0), run(0, threads=2)
    assert_same(first, second)
    assert not torch.equal(first[0], first[1])  # the call advances
    assert not torch.equal(first[0], run(1)[0])


def test_double_use_and_accumulation_move_the_scale_once():
    torch.manual_seed(0)
    layer = nybble.convert(nn.Linear(6, 6), FOUR_BIT)
    x = torch.randn(5, 6)
    (layer(x) + layer(2 * x)).sum().backward()
    scale = layer.nybble_grad_scale.item()
    assert scale > 0
    for _ in range(2):  # two micro-batches whose gradients are 2^-10 times smaller
        ((layer(x) + layer(2 * x)).sum() * 2.0**-10).backward()
    layer(x)
    assert layer.nybble_grad_scale.item() == 4 * scale  # one step a forward-backward round


def test_an_immediate_scale_is_not_held_by_a_zero_gradient():
    """Used twice; the use that is differentiated first has no gradient."""
    torch.manual_seed(0)
    layer = nybble.convert(nn.Linear(6, 6), f"{FOUR_BIT}+gradscale=immediate")
    x, scales = torch.randn(5, 6), []
    for factor in (1.0, 2.0**-10, 2.0**-10, 2.0**-10):
        (layer(x).sum() * factor + layer(2 * x).sum() * 0.0).backward()
        scales.append(layer.nybble_grad_scale.item())
    assert scales == [scales[0], 2 * scales[0], 4 * scales[0], 8 * scales[0]]


def test_an_empty_batch_under_stochastic_rounding():
    layer = nybble.convert(nn.Linear(6, 6), f"{FOUR_BIT}+factor=stochastic")
    layer(torch.randn(4, 6)).sum().backward()
    layer(torch.zeros(0, 6)).sum().backward()
    assert layer.nybble_calls.item() == 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_in_eval_mode_repeats_its_bits(reentrant):
    torch.manual_seed(0)
    layer = nybble.convert(nn.Linear(6, 6), "sun2020:first_last=int4+factor=stochastic").eval()
    plain = copy.deepcopy(layer)
    weighting = torch.randn(64, 6)
    for module in (layer, plain):
        module.train()
        module(torch.ones(2, 6)).sum().backward()
        module.zero_grad()
        module.eval()
    x = torch.randn(64, 6, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=reentrant)
    (y * weighting).sum().backward()
    if not reentrant:  # a reentrant one's first forward has no gradients: it is inference, call 0
        (plain(x.detach()) * weighting).sum().backward()
        assert torch.equal(layer.weight.grad, plain.weight.grad)
    assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.any()


def test_immediate_moves_once_an_iteration_too():
    torch.manual_seed(0)
    layer = nybble.convert(nn.Linear(6, 6), f"{FOUR_BIT}+gradscale=immediate")
    x = torch.randn(5, 6)
    (layer(x) + layer(2 * x)).sum().backward()
    scale = layer.nybble_grad_scale.item()
    ((layer(x) + layer(2 * x)).sum() * 2.0**-10).backward()
    assert layer.nybble_grad_scale.item() == 2 * scale  # two gradients, one move
    (layer(x).sum() * 2.0**-10).backward()
    assert layer.nybble_grad_scale.item() == 4 * scale


def test_grad_scale_follows_and_ignores_zero_and_infinite_gradients():
    layer = nybble.convert(nn.Linear(4, 4), FOUR_BIT)
    x = torch.randn(3, 4)

    def step(factor):
        layer.zero_grad()
        (layer(x) * factor).sum().backward()
        return layer.nybble_grad_scale.item()

    assert step(0.0) == 0.0  # an all-zero gradient fits nothing
    assert not layer.weight.grad.any()
    assert step(1.0) == 64.0
    assert step(0.25) == 64.0  # delayed: this one is noted, not used
    assert step(0.25) == 128.0
    assert step(float("inf")) == 256.0
    assert torch.isnan(layer.weight.grad).all()
    assert step(0.0) == 256.0
    assert step(64.0) == 256.0
    assert step(64.0) == 128.0


@pytest.mark.parametrize(("mode", "expected"), [("immediate", 128.0), ("fit", 2.0**16)])
def test_grad_scale_modes(mode, expected):
    layer = nybble.convert(nn.Linear(4, 4), f"{FOUR_BIT}+gradscale={mode}")
    x = torch.randn(3, 4)
    layer(x).sum().backward()
    (layer(x) * 2.0**-10).sum().backward()
    assert layer.nybble_grad_scale.item() == expected


def test_frozen_weights_get_no_gradient_but_pass_one_on():
    model = mlp()
    model[2].weight.requires_grad_(False)
    x = batch().requires_grad_()
    model(x).sum().backward()
    assert model[2].weight.grad is None and x.grad.abs().sum() > 0
    assert model[0].weight.grad.abs().sum() > 0


def test_tied_weights_stay_tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    nybble.convert(model, FOUR_BIT)
    assert model[2].weight is model[0].weight
    model(torch.randn(3, 6)).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert copy.deepcopy(model)[2].weight is not model[0].weight


def test_a_shared_layer_is_converted_once():
    layer = nn.Linear(6, 6)
    model = nybble.convert(nn.Sequential(layer, nn.ReLU(), layer), FOUR_BIT)
    assert len(list(nybble.quantized_layers(model))) == 1
    model(torch.randn(3, 6)).sum().backward()
    assert layer.nybble_calls.item() == 2


def test_no_grad_saves_nothing_and_eval_moves_nothing():
    model = mlp()
    model(batch())
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.no_grad(),
    ):
        model(batch())
    assert not kept
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model(batch())
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_training_in_eval_mode_moves_scales_and_draws_fresh_bits():
    """Fine-tuning with frozen batch statistics calls eval() and then trains."""
    torch.manual_seed(0)
    layer = nybble.convert(nn.Linear(6, 6), f"{FOUR_BIT}+factor=stochastic").eval()
    x = torch.randn(64, 6, requires_grad=True)
    weighting = torch.randn(64, 6)
    seen = []
    for factor in (1.0, 2.0**-3, 2.0**-3, 2.0**-3, 2.0**-3):
        layer.zero_grad()
        (layer(x) * weighting * factor).sum().backward()
        seen.append(layer.weight.grad.clone())
    assert layer.nybble_grad_scale.item() > layer.nybble_grad_amax.item() > 0
    assert not torch.equal(seen[1], seen[2])  # other random bits
    scale = layer.nybble_grad_scale.item()
    layer(x)
    assert layer.nybble_grad_scale.item() in (scale, 2 * scale)
    assert 16 < scale * (weighting.abs().max().item() * 2.0**-3) <= 64


def test_saved_bytes_are_packed():
    """Half a byte an input element and a mask bit; weights half a byte; no float copy of either."""
    layer = nybble.convert(nn.Linear(256, 128), FOUR_BIT)
    x = torch.randn(64, 256)
    layer(x)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    total = sum(t.untyped_storage().nbytes() for t in kept)
    assert total < 64 * 256 * 0.625 + 128 * 256 * 0.5 + 200


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_their_dtype_and_float32_state(dtype):
    model = mlp().to(dtype)
    x = batch().to(dtype)
    y = model(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    layer = model[2]
    assert layer.weight.grad.dtype == dtype
    assert layer.nybble_alpha.dtype == torch.float32
    assert layer.nybble_grad_scale.dtype == torch.float32
    assert layer.nybble_calls.dtype == torch.int64


def test_autocast_returns_its_dtype_and_computes_the_same_numbers():
    plain, cast = mlp(), mlp()
    x = batch()
    expected = plain[0](x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = cast[0](x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected.bfloat16())


def test_torch_grad_scaler_skips_infinite_steps():
    model = mlp()
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.1), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = batch()
    scaler.scale(model(x).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    weight = model[2].weight.detach().clone()
    optimizer.zero_grad()
    (scaler.scale(model(x).sum()) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model[2].weight, weight)
    assert scaler.get_scale() == 2.0**9


def test_param_groups_hold_every_parameter_once():
    model = mlp()
    groups = nybble.param_groups(model, lr=0.1, weight_decay=5e-4, alpha_lr=0.01)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    clips = groups[-1]
    assert clips["name"] == "clips" and clips["lr"] == 0.01 and clips["weight_decay"] == 5e-4
    assert len(clips["params"]) == 3


def test_an_optimizer_without_the_clips_is_reported():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nybble.convert(model, FOUR_BIT)
    with pytest.warns(UserWarning, match="2 PACT clips"):
        assert nybble.unheld_clips(model, optimizer) == ["0.nybble_alpha", "2.nybble_alpha"]
    model(torch.randn(8, 4))  # the first layer's inputs have both signs: it learns no clip
    with pytest.warns(UserWarning, match="1 PACT clips"):
        assert nybble.unheld_clips(model, optimizer) == ["2.nybble_alpha"]
    good = torch.optim.SGD(nybble.param_groups(model, lr=0.1), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nybble.unheld_clips(model, good) == []


def test_channels_last_changes_the_memory_format_and_nothing_else():
    """Exact sums do not depend on the order in memory; only PACT's float sums may."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2))
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for model in (plain, last):
        nybble.convert(model, FOUR_BIT, accumulate="exact")
    x = torch.randn(3, 4, 9, 10)
    y, z = plain(x), last(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(y, z) and z.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(y.shape)
    (y * weights).sum().backward()
    (z * weights).sum().backward()
    for (name, p), q in zip(plain.named_parameters(), last.parameters(), strict=True):
        if "bias" in name or "alpha" in name:
            torch.testing.assert_close(p.grad, q.grad)
        else:
            assert torch.equal(p.grad, q.grad), name


def test_a_clip_that_nobody_steps_is_reported_once_while_training():
    def train(groups):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.SGD(groups(model), lr=0.01)
        for _ in range(6):
            optimizer.zero_grad()
            model(3 * batch()).square().sum().backward()
            optimizer.step()

    def without_clips(model):
        return [p for name, p in model.named_parameters() if "alpha" not in name]

    with pytest.warns(UserWarning, match="no optimizer steps it") as caught:
        train(without_clips)
    assert len(caught) == 2 and "2.nybble_alpha" in str(caught[0].message)  # 0 learns none
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(lambda model: nybble.param_groups(model, lr=0.01))


def test_sawb_clip_stops_the_gradient_of_clipped_weights():
    passed, clipped = (nn.Linear(64, 4, bias=False) for _ in range(2))
    with torch.no_grad():
        passed.weight.normal_(generator=torch.Generator().manual_seed(0))
        passed.weight[0, 0] = 30.0
        clipped.weight.copy_(passed.weight)
    nybble.convert(passed, FOUR_BIT)
    nybble.convert(clipped, FOUR_BIT + "+ste=clip")
    x = torch.randn(8, 64)
    for layer in (passed, clipped):
        layer(x).square().sum().backward()
    assert passed.weight.grad[0, 0] != 0 and clipped.weight.grad[0, 0] == 0
    same = clipped.weight.grad != 0
    assert same.any() and torch.equal(passed.weight.grad[same], clipped.weight.grad[same])


def test_per_channel_weights_scale_each_output():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight[1] *= 100
    one = nybble.convert(copy.deepcopy(layer), FOUR_BIT)
    each = nybble.convert(layer, FOUR_BIT + "+sawb_channel=yes")
    x = torch.rand(2, 3, 8, 8)
    assert not one(x)[:, 0].any()  # the large channel's scale rounds the others to zero
    y = each(x)
    assert all(y[:, c].abs().sum() > 0 for c in range(4))
    y.sum().backward()
    assert each.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "recipe", ["luq:first_last=same", "sun2020:first_last=int4", "nvfp4:first_last=same"]
)
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_backward_inside_autocast_is_that_outside(recipe: str, backend: str) -> None:
    found = []
    for inside in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24))
        lstm = nn.LSTM(24, 16)
        for part in (net, lstm):
            nybble.convert(part, recipe, backend=backend, accumulate="exact")
        x = torch.randn(6, 5, 24, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [net(x), lstm(x)[0]]
            ones = [torch.ones_like(y) for y in outputs]
            if inside:
                torch.autograd.backward(outputs, ones)
        if not inside:
            torch.autograd.backward(outputs, ones)
        found.append([x.grad, *(p.grad for p in [*net.parameters(), *lstm.parameters()])])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_a_slice_of_columns_can_be_an_input_of_random_rounding() -> None:
    net = nybble.convert(nn.Sequential(nn.Linear(20, 8)), "luq:first_last=same")
    net(torch.randn(6, 40)[:, ::2]).sum().backward()
    assert net[0].weight.grad.isfinite().all()
