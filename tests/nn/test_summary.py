"""summary: what really runs, observed on a copy of the model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import nybble
from nybble.ops import native


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * 64, 10),
    )


def test_rows_macs_and_shares():
    model = nybble.convert(net(), "sun2020")
    summary = nybble.summary(model, torch.randn(2, 3, 8, 8))
    rows = {(r.layer, r.gemm): r for r in summary.rows}
    assert len(rows) == 9
    middle = rows["3", "grad_weight"]
    assert (middle.left, middle.right) == ("fp4_radix4_odd", "int4_sym")
    assert middle.bits == (4, 4)
    isa = native.active_isa()
    assert middle.backend == ("reference" if isa == "none" else f"native {isa}")
    assert rows["0", "output"].backend == "reference" and not rows["0", "output"].fallback
    assert middle.macs == 2 * 16 * 64 * 8 * 9
    assert rows["0", "output"].bits == (16, 16)
    assert rows["6", "output"].macs == 2 * 10 * 1024
    assert sum(r.share for r in summary.rows) == pytest.approx(1.0)
    first, middle_macs, last = 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 8 * 16, 2 * 10 * 1024
    total = 2 * first + 3 * middle_macs + 3 * last  # an image has no gradient
    assert rows["0", "grad_input"].macs == 0 and rows["0", "grad_weight"].macs == first
    assert summary.share_of(4) == pytest.approx(3 * middle_macs / total)
    text = str(summary)
    assert "fp4_radix4_odd x int4_sym" in text and "param_groups" not in text  # SAWB: no clip
    learned = nybble.convert(net(), "sun2020:signed=symmetric")
    assert "1 PACT clip: nybble.param_groups" in str(
        nybble.summary(learned, torch.randn(2, 3, 8, 8))
    )
    lines = [line.split() for line in text.splitlines()]
    saved = {entry.layer: f"{entry.saved:,}" for entry in summary.layer_bytes}
    middle_line = next(line for line in lines if line[0] == "3")
    assert middle_line[3:9] == ["int4_sym", "x", "int4_sym", "4", "x", "4"]
    assert middle_line[-1] == saved["3"] != "0"
    assert "-" in next(line for line in lines if line[0] == "grad_input")
    assert sum("," in line[-1] or line[-1].isdigit() for line in lines[1:10]) == 3
    json.dumps(summary.to_dict())


@pytest.mark.skipif(not native.available(), reason="needs the compiled module")
def test_a_fall_back_is_shown():
    model = nybble.convert(net(), "sun2020:sawb_channel=yes", backend="native")
    text = str(nybble.summary(model, torch.randn(2, 3, 8, 8)))
    assert "falls back to the reference backend: 3" in text and "varies along the sum" in text
    model = nybble.convert(net(), "sun2020", backend="reference")
    text = str(nybble.summary(model, torch.randn(2, 3, 8, 8)))
    assert "falls back" not in text and "native" not in text


def test_saved_bytes_shrink_and_the_model_is_untouched():
    plain, model = net(), nybble.convert(net(), "sun2020")
    x = torch.randn(2, 3, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small = nybble.summary(model, x)
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name]), name
    large = nybble.summary(plain, x)
    layer = {b.layer: b.saved for b in small.layer_bytes}["3"]
    # half a byte and a mask bit an input element, half a byte a weight, a few scalars
    assert layer <= 2 * 8 * 64 * 0.625 + 16 * 8 * 9 * 0.5 + 128
    assert small.saved_bytes < large.saved_bytes
    assert not [r for r in large.rows if r.backend != "torch"]


def test_models_that_take_keywords_or_tuples():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x, scale=1.0):
            return {"y": self.a(x) * scale}

    model = nybble.convert(Two(), "bf16")
    for example in (torch.ones(2, 4), (torch.ones(2, 4), 2.0), {"x": torch.ones(2, 4)}):
        assert nybble.summary(model, example).rows[0].macs == 32


def test_a_model_without_gradients_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(nybble.UserError, match="requires a gradient"):
        nybble.summary(model, torch.ones(1, 2))


def test_a_frozen_weight_has_no_grad_weight_gemm():
    model = nybble.convert(net(), "sun2020")
    model[3].weight.requires_grad_(False)
    rows = {(r.layer, r.gemm): r.macs for r in nybble.summary(model, torch.ones(2, 3, 8, 8)).rows}
    assert rows["3", "grad_weight"] == 0 and rows["3", "grad_input"] == rows["3", "output"] > 0


class Mixed(nn.Module):
    """A converted layer, a convolution that is not, and products that belong to no layer."""

    class Conv(nn.Conv1d):
        pass

    def __init__(self) -> None:
        super().__init__()
        self.conv = self.Conv(4, 4, 3, padding=1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(self.conv(x).transpose(1, 2))
        return y @ y.transpose(1, 2)


def test_products_of_other_layers_count_as_float32():
    model = nybble.convert(Mixed(), "sun2020:first_last=int4")
    summary = nybble.summary(model, torch.randn(2, 4, 8))
    assert [name for name, _ in summary.unconverted] == ["conv"]
    linear = 3 * 2 * 8 * 4 * 4
    conv = 2 * (2 * 8 * 4 * 4 * 3)  # the input has no gradient
    attention = 3 * 2 * 8 * 8 * 4
    assert summary.other_macs == conv + attention
    assert summary.share_of(4) == pytest.approx(linear / (linear + conv + attention))
    assert "(other products)" in str(summary)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.linear(input=x).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_fused_attention_and_keyword_arguments_are_counted():
    x = torch.randn(2, 4, 16, 8, requires_grad=True)
    summary = nybble.summary(Attention(), x)
    assert summary.other_macs == 3 * (2 * (2 * 4 * 16 * 16 * 8))
    assert [row.macs for row in summary.rows] == [2 * 4 * 16 * 8 * 24] * 3


def test_products_without_gradients_have_no_backward():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.b(self.a(x).detach())
            with torch.no_grad():
                z = x @ x.transpose(-1, -2)
            return y @ y.transpose(-1, -2) + z

    assert nybble.summary(Model(), torch.randn(2, 16, 8)).other_macs == 4 * (2 * 16 * 16 * 8)


def test_depthwise_layers_leave_nothing_over():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 8, 3, groups=2))
    summary = nybble.summary(model, torch.randn(1, 8, 8, 8))
    assert summary.other_macs == 0
    rows = {(r.layer, r.gemm): r.macs for r in summary.rows}
    assert rows["1", "grad_input"] == rows["1", "output"] == 8 * 4 * 9 * 6 * 6
    assert [name for name, _ in summary.unconverted] == ["0", "1"]


def test_scales_inside_a_sum_are_no_exact_sum():
    model = nybble.convert(net(), "sun2020:sawb_channel=yes", accumulate="exact")
    rows = {(r.layer, r.gemm): r for r in nybble.summary(model, torch.randn(2, 3, 8, 8)).rows}
    sums = [rows["3", gemm].accumulator for gemm in ("output", "grad_input", "grad_weight")]
    assert sums == ["exact", "fp32", "exact"]


def test_float32_layers_are_not_counted_twice():
    summary = nybble.summary(net(), torch.randn(2, 3, 8, 8))
    assert summary.other_macs == 0
    assert sum(row.share for row in summary.rows) == pytest.approx(1.0)


def test_sums_are_named_as_they_are():
    model = nybble.convert(net(), "sun2020", accumulate="exact")
    rows = {r.layer: r for r in nybble.summary(model, torch.randn(2, 3, 8, 8)).rows}
    assert rows["3"].accumulator == "exact"
    assert rows["0"].accumulator == "fp32"  # FP16 operands have no integers to sum


def test_a_loss_scale_is_asked_for_where_layers_need_one():
    for recipe, scale in (("hfp8", 1024.0), ("sun2020:first_last=int4", 1.0), ("bf16", 1.0)):
        model = nybble.convert(net(), recipe)
        assert nybble.loss_scale(model) == scale
        said = "multiply the loss by 1024" in str(nybble.summary(model, torch.randn(2, 3, 8, 8)))
        assert said == (scale != 1)
    model = nybble.convert(net(), "sun2020:first_last=int4", {"3": "hfp8"})
    assert nybble.loss_scale(model) == 1024.0


def test_sums_shorter_than_a_block_are_named() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.ConvTranspose2d(32, 8, 1), nn.Conv2d(8, 16, 1),
    )  # fmt: skip
    x = torch.randn(2, 16, 5, 5)
    found = nybble.summary(nybble.convert(copy.deepcopy(layers), "ufp4:first_last=same"), x)
    assert dict(found.short_blocks) == {
        "1": "blocks of 1 element, not 16, in output and grad_input",
        "2": "blocks of 8 elements, not 16, in grad_input",
        "3": "blocks of 8 elements, not 16, in output",
    }
    assert "short sums: 1: blocks of 1 element" in str(found)
    assert "short sums" not in str(nybble.summary(nybble.convert(layers, "luq"), x))
