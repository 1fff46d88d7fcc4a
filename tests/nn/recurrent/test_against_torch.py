"""With every slot in float32 a converted recurrent layer is torch's own, up to rounding."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import nybble
from nybble.nn.recurrent import attach_gemm, gemm_names
from nybble.ops.reference.gates import sigmoid, tanh
from nybble.ops.spec import LayerSpec

KINDS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "projected": (nn.LSTM, {"proj_size": 3}),
}


def in_float(module: nn.Module) -> nn.Module:
    """The converted form of `module` with six float32 slots in every Gemm."""
    for index, part in enumerate(gemm_names(module)):
        attach_gemm(module, part).attach_(
            LayerSpec(),
            name=part,
            rule="test",
            backend="reference",
            accumulate="fast",
            seed=0,
            index=index,
            inputs=None,
        )
    return module


def pair(kind: str, **options) -> tuple[nn.Module, nn.Module]:
    cls, extra = KINDS[kind]
    torch.manual_seed(0)
    own = cls(5, 7, **extra, **options)
    return own, in_float(copy.deepcopy(own))


def tensors(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data]
    return [t for part in result for t in tensors(part)]  # type: ignore[attr-defined]


def check(own: nn.Module, ours: nn.Module, inputs: list[Tensor], call) -> None:
    """Results and all gradients of `call(module, *inputs)` agree."""
    found = []
    for module in (own, ours):
        leaves = [x.clone().requires_grad_() for x in inputs]
        torch.manual_seed(3)  # dropout
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's on projections
            results = tensors(call(module, *leaves))
        torch.manual_seed(4)
        sum((r * torch.randn_like(r)).sum() for r in results).backward()
        found.append([*results, *(p.grad for p in [*leaves, *module.parameters()])])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_directions_dropout_and_bias(kind: str, bidirectional: bool, bias: bool) -> None:
    own, ours = pair(kind, num_layers=2, bidirectional=bidirectional, bias=bias, dropout=0.4)
    x = torch.randn(6, 4, 5)
    check(own, ours, [x], lambda net, x: net(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 6, 5), (6, 5), (1, 1, 5), (1, 6, 5)])
def test_batch_first_unbatched_and_given_states(kind: str, shape: tuple[int, ...]) -> None:
    own, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    batch = shape[:1] if len(shape) == 3 else ()
    hidden = 3 if kind == "projected" else 7
    states = [torch.randn(4, *batch, hidden)]
    if kind in ("lstm", "projected"):
        states.append(torch.randn(4, *batch, 7))

    def call(net, x, *states):
        return net(x, states if len(states) > 1 else states[0])

    check(own, ours, [torch.randn(shape), *states], call)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [2, 5, 1, 4], [4], [1, 1, 1]])
def test_packed_sequences(kind: str, bidirectional: bool, lengths: list[int]) -> None:
    own, ours = pair(kind, num_layers=2, bidirectional=bidirectional)
    hidden, many = 3 if kind == "projected" else 7, 4 if bidirectional else 2
    states = [torch.randn(many, len(lengths), hidden)]
    if kind in ("lstm", "projected"):
        states.append(torch.randn(many, len(lengths), 7))

    def call(net, x, *states):
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        out, last = net(packed, states if len(states) > 1 else states[0])
        return pad_packed_sequence(out)[0], last

    check(own, ours, [torch.randn(max(lengths), len(lengths), 5), *states], call)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("shape", [(4, 5), (5,)])
def test_cells(cell: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    own = cell(5, 7)
    ours = in_float(copy.deepcopy(own))

    def call(net, x):
        state = net(x)
        return net(x, state), state

    check(own, ours, [torch.randn(shape)], call)


def test_only_the_last_state_is_used() -> None:
    own, ours = pair("gru")
    check(own, ours, [torch.randn(3, 2, 5)], lambda net, x: net(x)[1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda net: net(torch.randn(0, 2, 5)), RuntimeError, "length"),
        (lambda net: net(torch.randn(3, 2, 4)), RuntimeError, "input_size"),
        (lambda net: net(torch.randn(3, 2, 2, 5)), ValueError, "2D or 3D"),
        (lambda net: net(torch.randn(3, 2, 5), torch.randn(2, 7)), RuntimeError, "3-D"),
        (lambda net: net(torch.randn(3, 5), torch.randn(1, 2, 7)), RuntimeError, "2-D"),
        (lambda net: net(torch.randn(3, 2, 5), torch.randn(1, 3, 7)), RuntimeError, "hidden size"),
        (lambda net: net(torch.randn(3, 2, 5).double()), ValueError, "dtype"),
    ],
)
def test_what_torch_refuses_is_refused(call, error: type[Exception], words: str) -> None:
    own, ours = pair("gru")
    for net in (own, ours):
        with pytest.raises(error, match=words):
            call(net)
    with pytest.raises(RuntimeError, match="greater than 0"):
        pack_padded_sequence(torch.zeros(3, 2, 5), torch.tensor([3, 0]))


def test_gates_are_tanh_and_sigmoid_to_4e_7() -> None:
    x = torch.cat([torch.linspace(-30, 30, 400_001), 10.0 ** torch.linspace(-30, 2, 10_001)])
    x = torch.cat([x, -x, torch.tensor([float("inf"), -float("inf"), 0.0])])
    assert float((tanh(x).double() - x.double().tanh()).abs().max()) < 4e-7
    assert float((sigmoid(x).double() - x.double().sigmoid()).abs().max()) < 4e-7
    assert float(tanh(x).abs().max()) == 1.0
    assert bool(tanh(torch.tensor([float("nan")])).isnan())


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_float64_goes_through_as_through_a_linear_layer(
    kind: type[nn.RNNBase], backend: str
) -> None:
    """Parameters and states of float64 are rounded to float32; the result is float64 again."""
    torch.manual_seed(0)
    net = nybble.convert(nn.Sequential(kind(5, 4)), "sun2020", backend=backend).double()
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    y, _ = net(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == net[0].weight_hh_l0.grad.dtype == torch.float64
