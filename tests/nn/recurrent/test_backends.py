"""The native time loop gives the reference's bits, with exact sums, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import nybble
from nybble.formats import Stochastic, get_format
from nybble.ops import native
from nybble.ops.native.recurrent import why_not_native
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, AbsMax, GradScale, Quantizer, Unit

pytestmark = pytest.mark.skipif(not native.available(), reason="needs the compiled module")

KINDS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
}
RECIPE = "sun2020:first_last=int4"


@pytest.fixture(autouse=True)
def restore():
    module = native.core()[0]
    before = module.active_isa(), torch.get_num_threads()
    yield
    module.use_isa(before[0])
    torch.set_num_threads(before[1])


def bits(x: Tensor) -> Tensor:
    return torch.nan_to_num(x.float(), nan=-7.0).contiguous().view(torch.int32)


def run(net: nn.Module, x, states, steps: int = 3) -> list[Tensor]:
    """Outputs, gradients and all parameters and state of a few steps of training."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    found: list[Tensor] = []
    for step in range(steps):
        leaves = [s.clone().requires_grad_() for s in states]
        out, last = net(x, tuple(leaves) if len(leaves) > 1 else leaves[0])
        out = out.data if isinstance(out, nn.utils.rnn.PackedSequence) else out
        results = [out, *(last if isinstance(last, tuple) else (last,))]
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum((r * torch.randn_like(r)).sum() for r in results).backward()
        found += [r.detach().clone() for r in results]
        found += [p.grad.clone() for p in [*net.parameters(), *leaves] if p.grad is not None]
        optimizer.step()
    return found + [v.clone() for v in net.state_dict().values()]


def compare(
    net: nn.Module, recipe, x, states, *, threads: int = 1, isa: str = "", steps: int = 3
) -> None:
    one, two = copy.deepcopy(net), net
    nybble.convert(one, recipe, backend="reference", accumulate="exact")
    nybble.convert(two, recipe, backend="native")
    expected = run(one, x, states, steps)
    native.core()[0].use_isa(isa)
    torch.set_num_threads(threads)
    got = run(two, x, states, steps)
    names = list(one.state_dict())
    assert len(expected) == len(got)
    for i, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert torch.equal(bits(a), bits(b)), (i, names, a, b)


def states_of(net: nn.RNNBase, batch: int) -> list[Tensor]:
    many = net.num_layers * (2 if net.bidirectional else 1)
    found = [torch.randn(many, batch, net.proj_size or net.hidden_size)]
    return found + ([torch.randn(many, batch, net.hidden_size)] if net.mode == "LSTM" else [])


@settings(max_examples=12)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 2)),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    signed=st.sampled_from(["symmetric", "two_sided", "sawb"]),
    threads=st.integers(1, 3),
    isa=st.sampled_from(["", "generic"]),
)
def test_training_is_equal_bit_for_bit(
    kind: str, sizes, lengths, bidirectional, bias, signed, threads, isa
) -> None:
    torch.manual_seed(0)
    cls, extra = KINDS[kind]
    inputs, hidden, layers = sizes
    net = cls(inputs, hidden, layers, bidirectional=bidirectional, bias=bias, **extra)
    x = torch.randn(max(lengths), len(lengths), inputs)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    states = states_of(net, len(lengths))
    recipe = f"{RECIPE}+signed={signed}"
    compare(net, recipe, packed, states, threads=threads, isa=isa, steps=2)  # the scale moves once


@pytest.mark.parametrize(
    "switches",
    [
        "sawb_channel=yes",
        "factor=stochastic",
        "gradients=radix2",
        "underflow=half",
        "factor=1.848",
        "gradscale=fit",
        "gradscale=immediate",
        "gradscale_start=one",
        "phases=odd-even",
        "ste=clip",
        "accumulator=chunked",
    ],
)
def test_every_switch_of_the_recipe(switches: str) -> None:
    torch.manual_seed(1)
    net = nn.LSTM(9, 20, 2)
    compare(net, f"{RECIPE}+{switches}", torch.randn(4, 5, 9), states_of(net, 5))


@pytest.mark.parametrize(
    "recipe",
    ["hfp8", "bf16", "sun2020", "sun2020-strict", "int8", "int8:recurrent=hidden"],
)
def test_other_recipes_and_projections(recipe: str) -> None:
    torch.manual_seed(1)
    net = nn.LSTM(9, 20, 2, proj_size=7, bidirectional=True)
    compare(net, recipe, torch.randn(4, 5, 9), states_of(net, 5))


BY_STEP = (
    "luq",
    "luq:inputs=pact",
    "luq:pair=each",
    "luq:samples=2",
    "nybble4",
    "nybble4:weights=int4",
    "nybble4:recurrent=hidden",
)


@settings(max_examples=24)
@given(
    recipe=st.sampled_from(BY_STEP),
    kind=st.sampled_from(sorted(KINDS)),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 2)),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    bidirectional=st.booleans(),
    threads=st.integers(1, 3),
    isa=st.sampled_from(["", "generic"]),
)
def test_scales_of_steps_and_rows(
    recipe: str, kind: str, sizes, lengths, bidirectional, threads, isa
) -> None:
    torch.manual_seed(5)
    cls, extra = KINDS[kind]
    inputs, hidden, layers = sizes
    net = cls(inputs, hidden, layers, bidirectional=bidirectional, **extra)
    x = torch.randn(max(lengths), len(lengths), inputs)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    compare(net, same(recipe), packed, states_of(net, len(lengths)), threads=threads, isa=isa)


def same(recipe: str) -> str:
    """The recipe with its few bits in the first and last layer too."""
    return recipe + ("+" if ":" in recipe else ":") + "first_last=same"


@pytest.mark.parametrize("recipe", BY_STEP)
def test_loops_of_other_recipes_run_in_cpp(recipe: str) -> None:
    net = nybble.convert(nn.LSTM(4, 8), same(recipe), strict=True)
    net(torch.randn(3, 2, 4))
    spec = net.hh_l0._resolved_spec()
    assert why_not_native(spec, "output") is None
    assert why_not_native(spec, "grad_input") is None


@pytest.mark.parametrize("what", [float("nan"), float("inf"), 3e38, 1e-42])
@pytest.mark.parametrize("recipe", ["luq", "nybble4", "nybble4:recurrent=hidden"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bad_numbers_in_fitted_steps(kind: str, recipe: str, what: float) -> None:
    torch.manual_seed(3)
    cls, extra = KINDS[kind]
    net = cls(6, 11, **extra)
    states = states_of(net, 3)
    states[0][0, 1, 2] = what
    compare(net, same(recipe), torch.randn(5, 3, 6), states)


def test_large_steps_on_two_threads() -> None:
    torch.manual_seed(2)
    net = nn.LSTM(64, 200)
    compare(net, RECIPE, torch.randn(3, 70, 64), states_of(net, 70), threads=2, steps=2)


def test_many_columns_take_several_pieces_of_the_contraction() -> None:
    torch.manual_seed(2)
    net = nn.RNN(8, 2100)  # more bytes than one piece, in both Gemms
    compare(net, RECIPE, torch.randn(2, 3, 8), states_of(net, 3), steps=1)


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bad_numbers_go_the_same_way(kind: str, what: float) -> None:
    torch.manual_seed(3)
    cls, extra = KINDS[kind]
    net = cls(6, 11, **extra)
    x, states = torch.randn(5, 3, 6), states_of(net, 3)
    states[0][0, 1, 2] = what
    compare(net, RECIPE, x, states)


def test_fifty_steps_of_training_end_in_equal_weights() -> None:
    ends = []
    for backend in ("reference", "native"):
        torch.manual_seed(4)
        net = nn.Sequential(nn.LSTM(6, 24, 2, batch_first=True))
        nybble.convert(net, RECIPE, backend=backend, accumulate="exact")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(50):
            x = torch.randn(8, 9, 6)
            optimizer.zero_grad()
            (net(x)[0][:, :, :6] - x.roll(1, 1)).square().mean().backward()
            optimizer.step()
        ends.append(net.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("kind", [*sorted(KINDS), "projected"])
def test_inference_gives_the_bits_of_training_and_keeps_nothing(kind: str, backend: str) -> None:
    torch.manual_seed(6)
    cls, extra = KINDS.get(kind, (nn.LSTM, {"proj_size": 5}))
    net = nybble.convert(cls(6, 11, **extra), RECIPE, backend=backend, accumulate="exact")
    x = torch.randn(5, 3, 6)
    net(x)
    calls = [layer.nybble_calls.clone() for _, layer in nybble.quantized_layers(net)]
    expected = net.eval()(x)
    with torch.no_grad():
        found = net(x)
    assert torch.equal(found[0], expected[0]) and not found[0].requires_grad
    now = [layer.nybble_calls - 1 for _, layer in nybble.quantized_layers(net)]
    assert now == calls, "inference does not advance the call counter"


def test_the_loop_of_the_paper_runs_in_cpp_and_falls_back_by_name() -> None:
    net = nybble.convert(nn.LSTM(4, 8), RECIPE)
    net(torch.randn(3, 2, 4))
    spec = net.hh_l0._resolved_spec()
    assert why_not_native(spec, "output") is None
    assert why_not_native(spec, "grad_input") is None
    assert "projection" in why_not_native(spec, "output", True).text
    rounded_up = Quantizer(get_format("int4_sym"), AbsMax(power_of_two=True))
    fitted = LayerSpec(output_input=rounded_up, output_weight=rounded_up)
    assert "scale of output_input in each step" in why_not_native(fitted, "output").text
    wide = Quantizer(get_format("fp16"), Unit())
    assert why_not_native(LayerSpec(wide, wide), "output").by_recipe
    drawn = Quantizer(get_format("int4_sym"), AbsMax(), Stochastic())
    random = LayerSpec(output_input=drawn, output_weight=drawn)
    assert "at random in each step" in why_not_native(random, "output").text
    with pytest.raises(nybble.UserError, match="projection inside the time loop"):
        nybble.convert(nn.LSTM(4, 8, proj_size=2), RECIPE, strict=True)


@pytest.mark.parametrize(
    "spec",
    [
        LayerSpec(
            output_input=Quantizer(get_format("int4_sym"), AbsMax()),
            output_weight=Quantizer(get_format("int4_sym"), AbsMax()),
            grad_input_grad=Quantizer(get_format("fp4_e2m1"), GradScale()),
            grad_weight_grad=Quantizer(get_format("fp4_e2m1"), GradScale()),
        ),
        LayerSpec(
            output_input=Quantizer(get_format("int4_sym"), PACT("symmetric")),
            output_weight=Quantizer(get_format("int4_sym"), AbsMax()),
            grad_input_grad=Quantizer(get_format("fp4_e2m1"), GradScale()),
            grad_weight_grad=None,
            grad_weight_input=None,
        ),
        LayerSpec(
            output_input=Quantizer(get_format("int4_sym"), PACT("symmetric")),
            output_weight=None,
            grad_input_weight=Quantizer(get_format("int4_sym"), AbsMax()),
            grad_input_grad=Quantizer(get_format("int4_sym"), AbsMax()),
            grad_weight_grad=Quantizer(get_format("int4_sym"), AbsMax()),
        ),
    ],
)
def test_specs_of_ones_own(spec: LayerSpec) -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.GRU(5, 13))
    x = torch.randn(4, 3, 5)
    one, two = copy.deepcopy(net), net
    nybble.convert(one, "sun2020", rules={"0": spec}, backend="reference", accumulate="exact")
    nybble.convert(two, "sun2020", rules={"0": spec}, backend="native")
    states = states_of(net[0], 3)
    for a, b in zip(run(one[0], x, states), run(two[0], x, states), strict=True):
        assert torch.equal(bits(a), bits(b))
