"""Models of transformers, unmodified: every Gemm converted, trained natively, saved and loaded."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from torch import nn

import nybble
from nybble.nn.attention_transformers import NAME, attention_forward
from nybble.ops import native
from nybble.training.models import hf

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

FULL = "sun2020:first_last=int4+attention=yes+embedding=yes"
CORE, MISSING = native.core()
# Learned positions and class tokens that are added, in modules of their own.
ADDED = {"vit": {"vit.embeddings"}}


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(1)  # dropout
    loss = model(**batch).loss
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", hf.MODELS)
def test_every_layer_of_every_model_works_and_files_go_round(name, tmp_path):
    model, batch = hf.build(name)
    keys, cls = set(model.state_dict()), type(model)
    attention = model.config._attn_implementation
    accepted = {layer: None for layer in ADDED.get(name, ())}
    tables = {
        layer: None
        for layer, module in model.named_modules()
        if isinstance(module, nn.Embedding) and type(module) is not nn.Embedding
    }
    nybble.convert(model, FULL, {**accepted, **tables}, strict=True)
    assert bool(step(model, batch).isfinite())
    for layer_name, layer in nybble.quantized_layers(model):
        if layer_name.endswith("shared"):
            continue  # only holds the table that encoder and decoder look up
        assert int(layer.nybble_calls) == 1, f"{layer_name} was not called"
    assert not any(
        isinstance(m, nn.Linear | nn.Conv1d) and type(m).__module__.startswith("torch")
        for m in model.modules()
    )
    assert set(model.state_dict()) >= keys
    model.save_pretrained(tmp_path)
    twin, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(".nybble_" in key for key in info["unexpected_keys"])
    assert twin.config._attn_implementation == attention
    own, ours = twin.state_dict(), model.state_dict()
    assert set(own) == keys and all(torch.equal(v, ours[k]) for k, v in own.items())
    nybble.convert(twin, FULL, {**accepted, **tables})
    twin.load_state_dict(ours)
    with torch.no_grad():
        assert torch.equal(twin.eval()(**batch).loss, model.eval()(**batch).loss)
    nybble.revert(model)
    assert set(model.state_dict()) == keys and model.config._attn_implementation == attention
    with torch.no_grad():
        assert bool(model(**batch).loss.isfinite())


@pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "wav2vec2-ctc"])
def test_native_is_the_reference_over_whole_models(name):
    results = []
    for backend in ("reference", "native"):
        model, batch = hf.build(name)
        nybble.convert(model, FULL, backend=backend, accumulate="exact")
        losses = [step(model, batch), step(model, batch)]
        results.append([*losses, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 10
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "name", ["resnet", "vit", "bert", "gpt2", "llama", "whisper", "wav2vec2-ctc"]
)
def test_losses_fall(name):
    model, batch = hf.build(name)
    nybble.convert(model, "sun2020:attention=yes+embedding=yes")
    optimizer = torch.optim.AdamW(nybble.param_groups(model, lr=3e-3))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(float(step(model, batch)))
        optimizer.step()
    assert losses[-1] < 0.85 * losses[0], losses


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "bart", "whisper"])
def test_attention_with_float_products_is_eager_attention(name):
    """Masks, shared heads, position biases and cross-attention are those of transformers."""
    model, batch = hf.build(name)
    model.eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**batch)
    nybble.convert(model, "fp32", {n: "bf16" for n in _products(model)})
    assert model.config._attn_implementation == NAME
    calls = []
    for layer_name, layer in list(nybble.quantized_layers(model)):
        layer.register_forward_hook(lambda *_, n=layer_name: calls.append(n))
    with torch.no_grad():
        near = model(**batch)
    assert sorted(calls) == sorted(n for n, _ in nybble.quantized_layers(model))
    torch.testing.assert_close(near.logits, expected.logits, rtol=0.02, atol=0.02)
    for parent, part in (n.rpartition(".")[::2] for n in calls):
        delattr(model.get_submodule(parent), part)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expected.logits, rtol=1e-4, atol=1e-5)


def _products(model: nn.Module) -> list[str]:
    from nybble.nn.parts import targets

    return [target.name for target in targets(model) if "attention" in target.types]


def test_other_models_keep_their_attention():
    model, _ = hf.build("bert")
    other, _ = hf.build("bert")
    before = other.config._attn_implementation
    nybble.convert(model, FULL)
    assert model.config._attn_implementation == NAME != before
    assert other.config._attn_implementation == before
    nybble.convert(other, "sun2020")
    assert other.config._attn_implementation == before


def test_generation_with_a_cache_uses_the_converted_products():
    model, _ = hf.build("gpt2")
    nybble.convert(model, FULL).eval()
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        model(ids, labels=ids)  # the first batch sets the clips
        out = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert out.shape == (1, 12)


def test_what_the_products_cannot_do_is_refused_by_name():
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(nybble.UserError, match="attention with softcap"):
        attention_forward(nn.Linear(2, 2), q, q, q, None, softcap=30.0)


def test_unknown_names_and_a_missing_package_are_one_clear_line(monkeypatch):
    with pytest.raises(nybble.UserError, match="Did you mean 'bert'"):
        hf.build("hf:brt")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(nybble.UserError, match=r"pip install 'nybble\[tasks\]'"):
        hf.build("hf:bert")


@pytest.mark.parametrize("name", ["mobilenetv2", "marian"])
def test_the_summary_lists_every_gemm_with_its_bits(name):
    model, batch = hf.build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nybble.convert(model, "sun2020:attention=yes")
    summary = nybble.summary(model, batch)
    assert summary.other_macs == 0 and not summary.unconverted
    layers = {row.layer for row in summary.rows}
    assert layers == {n for n, _ in nybble.quantized_layers(model)}
    assert {row.gemm for row in summary.rows} == {"output", "grad_input", "grad_weight"}
    assert sum(row.share for row in summary.rows) == pytest.approx(1.0)
    assert summary.share_of(4) > 0.5
