"""The measurement itself, as small as it can be: clocks, layers, rows, and one whole check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.hardware.comparison import Traced
from nybble.hardware.cpu import probe_gemms, shapes, validate
from nybble.hardware.cpu.kernels import kernel_of
from nybble.hardware.cpu.probe_gemms import Rate, merged
from nybble.hardware.cpu.probes import Probed, probe
from nybble.hardware.cpu.timing import BACKWARD, Timing, call_of, copies, time_layer, time_passes
from nybble.hardware.cpu.validate import NETWORKS, Checked
from nybble.hardware.networks import get_network
from nybble.ops.native import available
from nybble.reports.hardware_validate import plain

QUICK = Timing(repeats=1, floor=0.0)
needs_kernels = pytest.mark.skipif(not available(), reason="no native kernels here")


def test_the_median_of_the_samples_is_taken() -> None:
    spent = iter([9.0, 1.0, 5.0, 2.0])  # the first is warming up
    assert Timing(repeats=3, floor=0.0).seconds(lambda: (next(spent), 1)) == 2.0


def test_a_sample_repeats_its_call_until_the_floor() -> None:
    calls: list[int] = []

    def part() -> tuple[float, int]:
        calls.append(1)
        return 0.3, 1

    assert Timing(repeats=1, floor=1.0).seconds(part) == pytest.approx(0.3)
    assert len(calls) == 1 + 4


def test_longer_work_takes_longer() -> None:
    x = torch.ones(1 << 20)
    once = QUICK.seconds(call_of(lambda: torch.exp(x)))
    often = QUICK.seconds(call_of(lambda: [torch.exp(x) for _ in range(8)]))
    assert often > 3 * once


def test_copies_do_not_fit_the_cache_together() -> None:
    assert copies(1 << 20) << 20 >= 1 << 25
    assert copies(1 << 30) == 1
    assert copies(1) == 256 and copies(1, most=3) == 3


def test_a_layer_is_timed_in_the_settings_that_it_says() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    class Watched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                bias = self.bias.requires_grad
                seen.append((input.requires_grad, self.weight.requires_grad, bias))
            return super().forward(input)

    layer = Watched(4, 4)
    layer.bias.requires_grad_(False)
    for which, setting in (
        ("output", (True, True, True)),
        ("grad_input", (True, False, False)),
        ("grad_weight", (False, True, False)),
        (BACKWARD, (True, True, True)),
    ):
        seen.clear()
        time_layer(layer, torch.ones(2, 4), QUICK, (which,))
        assert set(seen) == {setting}
    assert not layer.bias.requires_grad and layer.weight.requires_grad
    assert layer.weight.grad is None


def test_a_function_may_write_over_what_it_owns() -> None:
    x = torch.ones(8)
    time_passes(lambda value: value.mul_(2.0), x, QUICK, owned=True)
    assert torch.equal(x, torch.ones(8))
    with pytest.raises(RuntimeError, match="leaf"):
        time_passes(lambda value: value.mul_(2.0), x, QUICK, owned=False)


# ---- shapes -------------------------------------------------------------------------------------


def test_no_probed_shape_is_a_layer_of_a_checked_network() -> None:
    probed = {
        (t.gemm.kernel, t.gemm.count, t.gemm.m, t.gemm.n, t.gemm.k)
        for shape in (*shapes.CONVS, *shapes.SEPARABLE)
        for which in ("output", "grad_input", "grad_weight")
        if (t := probe_gemms._conv_task(shape, which)).gemm
    }
    probed |= {
        ("matmul", 1, t.gemm.m, t.gemm.n, t.gemm.k)
        for shape in (*shapes.PRODUCTS, *shapes.WIDE_PRODUCTS)
        for which in ("output", "grad_input", "grad_weight")
        if (t := probe_gemms._product_task(shape, which)).gemm
    }
    channels = {shape[1:3] for shape in shapes.SEPARABLE if shape[4] == 1}
    for checked in NETWORKS:
        for task in Traced(get_network(checked.name)).workload("fp32", checked.batch, 32).tasks:
            gemm = task.gemm
            if gemm is None:
                continue
            key = (gemm.kernel, gemm.count, gemm.m, gemm.n, gemm.k)
            assert key not in probed, f"{checked.name} {task.layer}"
            if gemm.kernel == "conv1x1" and gemm.which == "output":
                assert (gemm.k, gemm.n) not in channels


def test_rows_of_one_size_are_merged_and_others_are_not() -> None:
    a = Rate("torch", "conv", "output", 100.0, 1e9, 1.0)
    near = Rate("torch", "conv", "output", 105.0, 4e9, 1.0)
    far = Rate("torch", "conv", "output", 200.0, 1e9, 1.0)
    other = Rate("torch", "conv", "grad_input", 101.0, 1e9, 1.0)
    found = merged([far, near, a, other])
    assert [(r.gemm, round(r.size), round(r.gmacs, 6)) for r in found] == [
        ("grad_input", 101, 1.0),
        ("output", 102, 2.0),
        ("output", 200, 1.0),
    ]


def test_quantisation_and_calls_are_taken_from_a_layers_time() -> None:
    tasks = {"output": probe_gemms._product_task((10, 20, 32), "output")}
    quantise: Callable[[str, float], float] = lambda name, elements: 1e-3 * elements  # noqa: E731
    call = {("native", "forward"): 0.05, ("native", "backward"): 9.0}
    spec = probe_gemms.get_recipe("sun2020").spec
    (rate,) = probe_gemms._rates("native", tasks, {"output": 1.25}, quantise, call, spec, False)
    assert rate.seconds == pytest.approx(1.25 - 0.05 - 0.2 - 0.64)
    assert (rate.left, rate.right, rate.kernel) == ("int4", "int4", "matmul")
    (rate,) = probe_gemms._rates("native", tasks, {"output": 0.8}, quantise, call, spec, False)
    assert rate.seconds == pytest.approx(probe_gemms.LEAST * 0.8)


# ---- a whole run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed() -> Probed:
    threads = torch.get_num_threads()
    found = probe(timing=QUICK, few=1)
    assert torch.get_num_threads() == threads
    return found


@needs_kernels
def test_a_small_probe_has_rows_of_every_kind(probed: Probed) -> None:
    kinds = {(row.side, row.name, row.gemm) for row in probed.rows}
    assert ("torch", "call forward", "") in kinds and ("native", "call backward", "") in kinds
    assert {("native", "conv", "grad_weight"), ("torch", "recurrent", "output")} <= kinds
    assert {("native", "sgd", ""), ("native", "BatchNorm2d.forward", "")} <= kinds
    assert ("native", "int4_sym·sawb(ibm15)", "") in kinds
    assert all(row.value.value > 0 for row in probed.rows)
    assert min(probed.peaks.values()) > 0


@needs_kernels
def test_predictions_are_kept_beside_what_was_measured(
    probed: Probed, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real: Any = validate._measure

    def measured(*args: Any) -> Any:
        order.append("measure")
        return real(*args)

    monkeypatch.setattr(validate, "_measure", measured)
    monkeypatch.setattr(validate, "keep_memory", lambda: "")
    found = validate.run(
        lambda what, done, total: order.append(what),
        rounds=1,
        networks=(Checked("cpu:cnn", 4),),
        timing=QUICK,
        probed=probed,
        few=1,
    )
    assert order.index("predicting cpu:cnn") < order.index("measure")
    assert found["predictions"]["at"] <= found["measured_from"]
    assert [row["side"] for row in found["steps"]] == ["torch", "native"]
    for row in found["steps"]:
        kept = found["predictions"]["networks"]["cpu:cnn"][row["side"]]
        assert kept["ms"] == row["predicted_ms"]
        assert row["error"] == pytest.approx(row["predicted_ms"] / row["measured_ms"] - 1)
        assert row["within"] == (abs(row["error"]) <= 0.2)
    assert {row["gemm"] for row in found["gemms"]} == {"output", "grad_input", "grad_weight"}
    assert len(found["rows"]) == len(probed.rows)
    json.dumps(found)
    assert "fewer than the 15" in plain(found)


def test_no_rounds_and_no_network_are_refused() -> None:
    with pytest.raises(UserError, match="rounds must be at least 1"):
        validate.run(rounds=0)
    with pytest.raises(UserError, match="no network"):
        validate.run(networks=())


def test_kernels_of_small_images_are_apart() -> None:
    small = probe_gemms._conv_task((1, 8, 8, 2, 3, 1, 8), "grad_weight")
    large = probe_gemms._conv_task((1, 8, 8, 3, 3, 1, 8), "grad_weight")
    halved = probe_gemms._conv_task((1, 8, 8, 4, 3, 2, 8), "grad_weight")
    names = [kernel_of(task) for task in (small, large, halved)]
    assert names == ["depthwise_small", "depthwise", "depthwise_stride"]


def test_rows_of_a_result_that_begin_inside_a_vector_are_apart() -> None:
    names = [
        kernel_of(probe_gemms._product_task((8, 16, 10), which))
        for which in ("output", "grad_input", "grad_weight")
    ]
    assert names == ["matmul_odd", "matmul", "matmul"]
