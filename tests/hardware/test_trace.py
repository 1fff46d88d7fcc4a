"""Every piece of a step is seen, with its layer, product and size; views cost nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.hardware.trace import Trace, trace_step


def traced(make: Callable[[], nn.Module], *shape: int, **kinds: torch.dtype) -> Trace:
    def build() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        x = torch.zeros(*shape, requires_grad=True)
        return make(), lambda model: model(x).square().mean()

    return trace_step(build)


def gemms(trace: Trace) -> list[tuple[str, str, int, int, int, int]]:
    found = [(op.layer, op.gemm) for op in trace.ops if op.gemm]
    return [(layer, g.which, g.count, g.m, g.n, g.k) for layer, g in found if g]


def test_a_linear_layer_has_three_products() -> None:
    found = gemms(traced(lambda: nn.Linear(24, 40), 16, 24))
    assert found == [
        ("", "output", 1, 16, 40, 24),
        ("", "grad_input", 1, 16, 24, 40),
        ("", "grad_weight", 1, 40, 24, 16),
    ]


@pytest.mark.parametrize("features", [16, 24])
def test_square_shapes_do_not_confuse_the_products(features: int) -> None:
    """With M = N = K only the operands tell grad_input from grad_weight."""
    found = gemms(traced(lambda: nn.Linear(features, features), features, features))
    assert [which for _, which, *_ in found] == ["output", "grad_input", "grad_weight"]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2)
)
def test_a_convolutions_macs_are_those_of_its_definition(
    batch: int, ins: int, outs: int, groups: int, stride: int
) -> None:
    side, kernel = 7, 3
    conv = nn.Conv2d(ins * groups, outs * groups, kernel, stride, padding=1, groups=groups)
    found = traced(lambda: conv.to("meta"), batch, ins * groups, side, side)
    out = (side + 2 - kernel) // stride + 1
    macs = batch * out * out * outs * groups * ins * kernel * kernel
    products = [op.gemm for op in found.ops if op.gemm]
    assert [g.macs for g in products if g] == [macs] * 3
    assert products[0] is not None
    assert products[0].left.elements == batch * ins * groups * side * side
    assert products[0].right.elements == conv.weight.numel()


def test_transposed_convolutions_swap_their_products() -> None:
    found = traced(lambda: nn.ConvTranspose2d(4, 6, 2, 2), 3, 4, 5, 5)
    macs = 3 * 25 * 4 * 6 * 4
    assert [op.gemm.macs for op in found.ops if op.gemm] == [macs] * 3


def test_the_first_layer_of_a_network_needs_no_grad_input() -> None:
    def build() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        return model, lambda model: model(torch.zeros(4, 8)).sum()

    names = Counter(f"{layer} {which}" for layer, which, *_ in gemms(trace_step(build)))
    assert names == {f"2 {w}": 1 for w in ("output", "grad_input", "grad_weight")} | {
        "0 output": 1,
        "0 grad_weight": 1,
    }


class Twice(nn.Module):
    """A layer used twice, attention, and a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.inner(x))
        z = F.scaled_dot_product_attention(y, y, y)
        return z @ z.transpose(-1, -2)


def test_shared_layers_and_attention_are_counted_each_time() -> None:
    found = Counter(f"{layer} {which}" for layer, which, *_ in gemms(traced(Twice, 2, 8, 8)))
    assert found["inner output"] == found["inner grad_weight"] == 2
    assert found["inner grad_input"] == 2
    assert found[" output"] == 3
    assert found[" grad_input"] + found[" grad_weight"] == 6


def test_recurrent_and_attention_parameters_name_their_products() -> None:
    trace = traced(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, 4, 8)
    assert {"self_attn.in_proj_weight", "self_attn.out_proj", "linear1"} <= {
        op.layer for op in trace.ops if op.gemm
    }

    def build() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        return nn.LSTM(8, 8), lambda model: model(torch.zeros(3, 2, 8))[0].sum()

    assert {op.layer for op in trace_step(build).ops if op.gemm} == {"weight_ih_l0", "weight_hh_l0"}


class Tied(nn.Module):
    """A head that shares its weight with the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x)
        return found


def test_a_tied_weight_belongs_to_the_layer_that_multiplies_it() -> None:
    assert {op.layer for op in traced(Tied, 4, 8).ops if op.gemm} == {"head"}


def test_views_cost_nothing_and_copies_do() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            y = (x * self.w).transpose(0, 1).unsqueeze(0).expand(3, 6, 4)
            return y.contiguous()

    names = [op.name for op in traced(Turned, 4, 6).ops if op.phase == "forward"]
    assert names == ["mul", "clone", "pow", "mean"]


def test_a_relu_keeps_one_bit_an_element_for_backward() -> None:
    trace = traced(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()), 4, 8)
    forward = next(op for op in trace.ops if op.name == "relu")
    backward = next(op for op in trace.ops if op.name == "threshold_backward")
    assert [a.bits for a in forward.writes] == [None, 1]
    assert [a.bits for a in backward.reads] == [None, 1]
    assert trace.signs[forward.writes[0].storage] == "positive"


def test_the_optimizer_touches_every_parameter_that_learns() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        model[0].weight.requires_grad_(False)
        return model

    steps = [op for op in traced(make, 4, 8).ops if op.phase == "step"]
    assert [op.elements for op in steps] == [8, 16, 2]


class Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y * 2 if float(y.sum()) > 0 else y


def test_a_model_that_looks_at_values_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"cannot be followed.*must not look at") as error:
        traced(Looks, 2, 4)
    assert "\n" not in str(error.value)


def test_nothing_learns() -> None:
    def build() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        model = nn.Linear(4, 4).requires_grad_(False)
        return model, lambda model: model(torch.zeros(2, 4)).sum()

    with pytest.raises(UserError, match="nothing in it learns"):
        trace_step(build)


def test_two_traces_are_equal() -> None:
    first = traced(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, 4, 8)
    second = traced(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, 4, 8)
    assert first.ops == second.ops
