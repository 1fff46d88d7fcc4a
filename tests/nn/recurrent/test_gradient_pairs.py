"""Recurrent layers under recipes whose gradients are sampled, paired or remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.recurrent.test_backends import KINDS, compare, states_of
from torch import nn

import nybble
from nybble.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="needs the compiled module")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(
    "recipe",
    [
        "luq:first_last=same",
        "luq:first_last=same+samples=2+scale=hindsight",
        "luq:first_last=same+inputs=pact+scale=hindsight",
        "int8:first_last=same",
        "miyashita2016",
        "sun2020:first_last=int4+phases=random",
        "sun2020:first_last=int4+phases=average",
        "sun2020:first_last=int4+scope=global",
        "sun2020:first_last=int4+gradients=base3",
    ],
)
def test_backends_are_equal_bit_for_bit(recipe: str, kind: str) -> None:
    torch.manual_seed(0)
    cls, extra = KINDS[kind]
    net = cls(9, 12, **extra)
    compare(net, recipe, torch.randn(5, 3, 9), states_of(net, 3))


def test_a_random_phase_changes_from_call_to_call() -> None:
    """The loop's own Gemm and the weight's take the phase of the call."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 6)
    found = {}
    for phases in ("even-even", "odd-odd", "random"):
        torch.manual_seed(1)
        net = nybble.convert(nn.GRU(6, 6), f"sun2020:first_last=int4+phases={phases}")
        found[phases] = []
        for _ in range(8):
            net.zero_grad()
            net(x)[0].square().sum().backward()
            found[phases].append(net.weight_hh_l0.grad.clone())
    drawn = found["random"]
    assert len({tuple(g.flatten().tolist()) for g in drawn}) > 1
    assert len({tuple(g.flatten().tolist()) for g in found["even-even"][2:]}) == 1


def test_summary_says_where_a_loop_runs() -> None:
    def rows_of(recipe: str) -> dict[tuple[str, str], Any]:
        net = nybble.convert(nn.LSTM(6, 8), f"{recipe}first_last=same", backend="native")
        return {(r.layer, r.gemm): r for r in nybble.summary(net, torch.randn(4, 2, 6)).rows}

    rows = rows_of("luq:scale=hindsight+")
    assert rows["hh_l0", "output"].backend.startswith("native")
    assert "in each step" in rows["hh_l0", "grad_input"].fallback
    assert rows["hh_l0", "grad_weight"].backend.startswith("native")
    assert all(
        rows["ih_l0", gemm].backend.startswith("native") for gemm in ("output", "grad_input")
    )
    rows = rows_of("luq:")
    assert not any(row.fallback for row in rows.values())
