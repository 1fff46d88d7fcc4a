"""Attention: every product goes through its converted layer, with torch's masks and options."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nybble
from nybble.nn import ScaledDotProductAttention, scaled_dot_product_attention
from nybble.nn.attention import attend, causal, of_products
from nybble.nn.multihead import MultiheadAttention
from nybble.ops import native
from nybble.recipes import get_recipe

ATTENTION = "sun2020:first_last=int4+attention=yes"
PRODUCTS = ("qk_product", "pv_product")


def counted(model: nn.Module) -> Counter[str]:
    """How often each converted layer is called from now on."""
    calls: Counter[str] = Counter()
    for name, layer in nybble.quantized_layers(model):
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


def wide(model: nn.Module) -> nn.Module:
    """Converted with a format that is nearly float32, products included."""
    rules = {n: "bf16" for n, _ in model.named_modules() if isinstance(_, nn.MultiheadAttention)}
    named = {f"{n}.{p}" if n else p: "bf16" for n in rules for p in PRODUCTS}
    return nybble.convert(model, "bf16", named)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_self_attention_calls_its_layers_in_every_mode(training, gradients, need_weights):
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    model = nybble.convert(nn.ModuleList([layer]), ATTENTION).train(training)
    calls, x = counted(model), torch.randn(2, 5, 8)
    with torch.set_grad_enabled(gradients):
        y, weights = layer(x, x, x, need_weights=need_weights)
    assert type(layer) is MultiheadAttention and y.requires_grad == gradients
    assert (weights is not None) == need_weights
    assert calls == {f"0.{p}": 1 for p in ("in_proj", *PRODUCTS, "out_proj")}
    key = torch.randn(2, 3, 8)
    layer(x, key, key)
    assert calls["0.k_proj"] == 1 and calls["0.v_proj"] == 0 and calls["0.in_proj"] == 2
    layer(x, key, key.clone())
    assert calls["0.k_proj"] == 2 and calls["0.v_proj"] == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_transformers_layers_never_go_round(training, gradients):
    torch.manual_seed(0)
    parts = {
        "encoder": nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        "decoder": nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2),
        "both": nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    }
    model = nybble.convert(nn.ModuleDict(parts), ATTENTION).train(training)
    calls, x = counted(model), torch.randn(2, 5, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.set_grad_enabled(gradients):
        memory = model["encoder"](x, src_key_padding_mask=padding)
        model["decoder"](x, memory, tgt_mask=mask, tgt_is_causal=True)
        model["both"](x, x, src_key_padding_mask=padding)
    expected = {
        n for n, _ in nybble.quantized_layers(model) if not n.endswith(("v_proj", "k_proj"))
    }
    expected |= {n for n, _ in nybble.quantized_layers(model) if "multihead_attn.k_proj" in n}
    assert set(calls) == expected and set(calls.values()) == {1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bias": False},
        {"kdim": 6, "vdim": 10},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
)
@pytest.mark.parametrize("masked", ["", "float", "bool", "heads", "padding", "both"])
def test_multihead_attention_agrees_with_torch(options, masked):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, **options)
    twin = copy.deepcopy(layer)
    wide(twin)
    n, length, source = 3, 5, 4
    shapes = (
        (n, length, 8),
        (n, source, options.get("kdim", 8)),
        (n, source, options.get("vdim", 8)),
    )
    inputs = [
        torch.randn(s) if options.get("batch_first") else torch.randn(s[1], s[0], s[2])
        for s in shapes
    ]
    masks: dict[str, Tensor] = {}
    if masked in ("float", "both"):
        masks["attn_mask"] = torch.randn(length, source)
    elif masked == "bool":
        masks["attn_mask"] = ~causal(length, source, torch.device("cpu"))
    elif masked == "heads":
        masks["attn_mask"] = torch.randn(2 * n, length, source)
    if masked in ("padding", "both"):
        masks["key_padding_mask"] = torch.tensor(
            [[False] * 4, [True] + [False] * 3, [False] * 2 + [True] * 2]
        )
    if masked == "both":  # torch wants both of one kind
        bias = torch.zeros(n, source).masked_fill(masks["key_padding_mask"], -torch.inf)
        masks["key_padding_mask"] = bias
    for need in (True, False):
        theirs, weights = layer(*inputs, need_weights=need, average_attn_weights=False, **masks)
        ours, found = twin(*inputs, need_weights=need, average_attn_weights=False, **masks)
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
        assert (weights is None) == (found is None)
        if weights is not None:
            torch.testing.assert_close(found, weights, rtol=0.02, atol=0.01)


def test_unbatched_inputs_and_the_layout_of_batches():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2).eval()
    twin = wide(copy.deepcopy(layer)).eval()
    x = torch.randn(5, 8)
    for inputs in (x, torch.randn(5, 3, 8)):
        theirs, ours = layer(inputs, inputs, inputs), twin(inputs, inputs, inputs)
        assert ours[0].shape == theirs[0].shape and ours[1].shape == theirs[1].shape
        torch.testing.assert_close(ours[0], theirs[0], rtol=0.02, atol=0.02)


def test_parts_that_a_rule_leaves_out_are_torchs():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    expected = layer(x, x, x)[0]
    model = nybble.convert(
        nn.ModuleList([layer]), "sun2020", {"re:proj": None, "0.qk_product": None}
    )
    assert not list(nybble.quantized_layers(model)) and type(layer) is nn.MultiheadAttention
    nybble.convert(model, ATTENTION, {"0.in_proj": None, "re:_product": None, "0.out_proj": "bf16"})
    assert {n for n, _ in nybble.quantized_layers(model)} == {"0.k_proj", "0.v_proj", "0.out_proj"}
    torch.testing.assert_close(layer(x, x, x)[0], expected, rtol=0.02, atol=0.02)


def test_a_subclass_of_multihead_attention_is_named_and_left_alone():
    class Own(nn.MultiheadAttention):
        pass

    model = nn.ModuleList([Own(8, 2), nn.Linear(8, 8)])
    with pytest.raises(nybble.UserError, match=r"0 \(Own\), 0.out_proj"):
        nybble.convert(model, "sun2020", strict=True)
    nybble.convert(model, "sun2020")
    assert [n for n, _ in nybble.quantized_layers(model)] == ["1"]


def test_wrong_arguments_are_one_clear_line():
    layer = nybble.convert(nn.ModuleList([nn.MultiheadAttention(8, 2)]), ATTENTION)[0]
    x = torch.randn(5, 3, 8)
    with pytest.raises(nybble.UserError, match="give attn_mask as well"):
        layer(x, x, x, is_causal=True)
    with pytest.raises(nybble.UserError, match="shape of key is"):
        layer(x, x[..., :7], x)
    with pytest.raises(nybble.UserError, match="shape of attn_mask is"):
        layer(x, x, x, attn_mask=torch.zeros(4, 5))
    with pytest.raises(nybble.UserError, match="shape of key_padding_mask is"):
        layer(x, x, x, key_padding_mask=torch.zeros(4, 5))


@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"scale": 0.3}, {"mask": "bool"}, {"mask": "float"}]
)
@pytest.mark.parametrize("shared", [1, 2])
def test_scaled_dot_product_attention_agrees_with_torch(options, shared):
    torch.manual_seed(0)
    options = dict(options)
    q, k, v = (
        torch.randn(2, 4, 5, 8),
        torch.randn(2, 4 // shared, 6, 8),
        torch.randn(2, 4 // shared, 6, 3),
    )
    mask = options.pop("mask", None)
    if mask:
        options["attn_mask"] = torch.randn(5, 6) if mask == "float" else torch.rand(5, 6) > 0.3
        if mask == "bool":
            options["attn_mask"][1] = False  # a query that may look nowhere
    options["enable_gqa"] = shared > 1
    module = ScaledDotProductAttention()
    expected = module(q, k, v, **options)
    assert torch.equal(expected, F.scaled_dot_product_attention(q, k, v, **options))
    nybble.convert(nn.ModuleList([module]), "fp32", {f"0.{p}": "bf16" for p in PRODUCTS})
    inputs = [x.requires_grad_() for x in (q, k, v)]
    calls = counted(module)
    y = module(*inputs, **options)
    y.square().sum().backward()
    assert set(calls.values()) == {1} and len(calls) == 2
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.03)
    twins = [x.detach().clone().requires_grad_() for x in inputs]
    F.scaled_dot_product_attention(*twins, **options).square().sum().backward()
    for ours, theirs in zip(inputs, twins, strict=True):
        assert (ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max() < 0.05


def test_float_products_are_torchs_function():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8)
    y, weights = attend(None, None, q, k, v, causal(6, 6, q.device))
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    assert weights.shape == (2, 4, 6, 6)
    assert torch.equal(
        scaled_dot_product_attention(nn.Linear(2, 2), q, k, v),
        F.scaled_dot_product_attention(q, k, v),
    )


def test_dropout_leaves_out_whole_weights():
    module = nybble.convert(nn.ModuleList([ScaledDotProductAttention()]), ATTENTION)[0]
    seen = []
    module.pv_product.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    q = torch.randn(1, 2, 16, 8)
    module(q, q, q, dropout_p=0.5)
    share = float((seen[0] == 0).float().mean())
    assert 0.3 < share < 0.7
    with pytest.raises(nybble.UserError, match="not both"):
        module(q, q, q, causal(16, 16, q.device), is_causal=True)
    with pytest.raises(nybble.UserError, match="cannot share"):
        module(q, q.repeat(1, 2, 1, 1)[:, :3], q[:, :1], enable_gqa=True)


def test_probabilities_are_unsigned_and_queries_are_not():
    model = nybble.convert(nn.ModuleList([ScaledDotProductAttention()]), ATTENTION)
    q = torch.randn(1, 2, 16, 8, requires_grad=True)
    summary = nybble.summary(Caller(model), q)
    rows = {(r.layer.rpartition(".")[2], r.gemm): r for r in summary.rows}
    assert len(rows) == 6 and summary.other_macs == 0
    assert rows["qk_product", "output"].left == "int4_sym"
    assert rows["pv_product", "output"].left == "uint4"
    assert {r.macs for r in rows.values()} == {2 * 16 * 16 * 8}
    assert summary.share_of(4) == pytest.approx(1.0)
    if native.available():
        assert all(
            r.backend.startswith("native") and r.accumulator == "exact" for r in rows.values()
        )


class Caller(nn.Module):
    def __init__(self, inner: nn.ModuleList) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[0](x, x, x)


def test_a_copy_of_a_model_attends_with_its_own_weights(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    nybble.convert(model, ATTENTION)
    x = torch.randn(2, 5, 8)
    model(x).sum().backward()
    twin = copy.deepcopy(model).eval()
    assert twin.self_attn.in_proj._nybble_owner[0] is twin.self_attn
    with torch.no_grad():
        expected = model.eval()(x)
        twin.self_attn.in_proj_weight.zero_()
        assert torch.equal(model(x), expected) and not torch.equal(twin(x), expected)
    nybble.save(model, tmp_path / "model.safetensors")
    plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    again = nybble.load(plain, tmp_path / "model.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(x), expected)
    assert list(nybble.float_state_dict(again)) == list(
        nn.TransformerEncoderLayer(8, 2, 16).state_dict()
    )


@pytest.mark.parametrize("activations", ["exact", "4bit"])
def test_compressed_activations_go_together_with_converted_attention(activations):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    nybble.convert(model, "sun2020", activations=activations)
    calls, x = counted(model), torch.randn(2, 5, 8, requires_grad=True)
    model(x).square().sum().backward()
    assert calls["self_attn.in_proj"] == calls["self_attn.out_proj"] == 1
    assert bool(x.grad.isfinite().all())
    nybble.revert(model)
    assert type(model.self_attn) is nn.MultiheadAttention and type(model.norm1) is nn.LayerNorm


def test_a_product_in_eval_mode_trains_where_either_operand_learns():
    module = nybble.convert(nn.ModuleList([ScaledDotProductAttention()]), ATTENTION)[0].eval()
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8, requires_grad=True)
    module(q, k, q).sum().backward()
    assert int(module.qk_product.nybble_calls) == 1 and float(k.grad.abs().sum()) > 0
    module(q, k.detach(), q)
    assert int(module.qk_product.nybble_calls) == 1


def test_both_products_learn():
    """The clip of queries moves, and so do the weights on both sides of the products."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    nybble.convert(model, ATTENTION)
    x, target = torch.randn(4, 8, 16), torch.randn(4, 8, 16)
    optimizer = torch.optim.Adam(nybble.param_groups(model, lr=0.01))
    losses = []
    for _ in range(30):
        loss = F.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert float(model.self_attn.qk_product.nybble_grad_scale) > 0
    assert int(model.self_attn.pv_product.nybble_calls) == 30


def test_keys_and_values_take_no_slope_of_a_quantiser() -> None:
    """DGE is for parameters; products of attention have none."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 6, 16, requires_grad=True) for _ in range(3)]
    plain = nn.MultiheadAttention(16, 2, batch_first=True)
    grad = torch.randn(2, 6, 16)

    def gradients(model: nn.Module) -> list[Tensor]:
        for x in inputs:
            x.grad = None
        model(*inputs, need_weights=False)[0].backward(grad)
        return [x.grad.clone() for x in inputs]

    exact = gradients(plain)
    found = {
        dge: gradients(
            nybble.convert(copy.deepcopy(nn.Sequential(plain)), f"wang2025:attention=yes+{dge}")[0]
        )
        for dge in ("dge=none", "outliers=0.99")
    }
    for i in range(3):
        with_dge, without = (
            float(torch.nn.functional.cosine_similarity(g[i].flatten(), exact[i].flatten(), 0))
            for g in (found["outliers=0.99"], found["dge=none"])
        )
        assert with_dge > 0.9 * without


def test_tiles_are_blocks_along_the_sum_of_each_product() -> None:
    spec = get_recipe("nvfp4:attention=yes").spec
    inner = of_products(spec)
    assert spec.grad_input_weight == "same"
    assert inner.grad_input_weight == spec.output_weight
    blocks = get_recipe("nvfp4:attention=yes+weights=block").spec
    assert of_products(blocks) == blocks
    assert of_products(get_recipe("wang2025").spec).weight_gradient is None
