"""The language models: shapes, masks, causality, and what a state carried over is worth."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from nybble.errors import UserError
from nybble.training.models import language
from nybble.training.models.encoder import EncoderClassifier
from nybble.training.models.gpt import GPT
from nybble.training.models.language import MODELS, find_model
from nybble.training.models.lstm import LSTMLanguageModel
from nybble.training.models.seq2seq import TranslationTransformer, sinusoids

SHAPE = {
    "vocabulary": 50,
    "length": 16,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "hidden": None,
    "dropout": 0.1,
    "classes": 3,
    "pad": 0,
    "bos": 2,
    "eos": 3,
}
NAMES = [(task, name) for task, models in MODELS.items() for name in models]


@pytest.mark.parametrize(("task", "name"), NAMES, ids=[f"{t}-{n}" for t, n in NAMES])
def test_every_model_of_the_registry(task: str, name: str) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    entry = find_model(task, name)
    assert entry.summary and set(language.SHAPE) <= set(entry.settings)
    model = entry.build(dict(SHAPE)).eval()
    for parameter in model.parameters():  # so large that a change of the input shows
        if parameter.dim() > 1 and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(4, 50, (3, 10))
    if task == "language":
        output = model(tokens)
        logits, expected = (output[0] if entry.carried else output), [3, 10, 50]
        changed = tokens.clone()
        changed[:, 6:] = 5
        again = model(changed)[0] if entry.carried else model(changed)
        # a token sees what came before it, nothing after
        torch.testing.assert_close(again[:, :6], logits[:, :6], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(again[:, 6:], logits[:, 6:], atol=1e-3)
    elif task == "translation":
        logits, expected = model(tokens, tokens[:, :7]), [3, 7, 50]
        longer = torch.cat([tokens, torch.zeros(3, 4, dtype=torch.int64)], 1)
        torch.testing.assert_close(model(longer, tokens[:, :7]), logits, atol=1e-5, rtol=1e-4)
        other = torch.cat([tokens[:, :7], tokens[:, :3]], 1)
        torch.testing.assert_close(model(tokens, other)[:, :7], logits, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(model(tokens.flip(1), tokens[:, :7]), logits, atol=1e-3)
    else:
        mask = torch.ones(3, 10, dtype=torch.bool)
        logits, expected = model(tokens, mask), [3, 3]
        longer = torch.cat([tokens, torch.zeros(3, 4, dtype=torch.int64)], 1)
        padded = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
        torch.testing.assert_close(model(longer, padded), logits, atol=1e-5, rtol=1e-4)
    assert list(logits.shape) == expected and torch.isfinite(logits).all()
    trained = [p for p in model.parameters() if p.requires_grad]
    logits.sum().backward()
    assert trained and all(p.grad is not None for p in trained)


def test_the_papers_shapes() -> None:
    """Zaremba's medium model has 20 million weights, Transformer-base 65 million with tied weights
    (here the head has its own: 37,000 x 512 more)."""
    sizes = {
        ("language", "lstm-ptb"): 2 * 10000 * 650 + 10000 + 2 * 4 * (2 * 650 * 650 + 2 * 650),
        ("translation", "transformer-base"): 2 * 37000 * 512
        + 6 * (4 * 512 * 513 + 2 * 512 * 2048 + 2560 + 4 * 512)
        + 6 * (8 * 512 * 513 + 2 * 512 * 2048 + 2560 + 6 * 512)
        + 4 * 512,
    }
    with torch.device("meta"):
        for (task, name), expected in sizes.items():
            entry = find_model(task, name)
            shape = {**SHAPE, **{k: entry.settings[k] for k in (*language.SHAPE, "length")}}
            model = entry.build({**shape, "vocabulary": entry.settings["vocabulary"]})
            assert sum(p.numel() for p in model.parameters()) == expected


def test_an_lstm_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    model = LSTMLanguageModel(20, width=8, layers=2).eval()
    tokens = torch.randint(0, 20, (2, 12))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :5])
    second, _ = model(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert not torch.allclose(model(tokens[:, 5:])[0], second)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for narrow, bound in ((False, 0.1), (True, 0.05)):
        weights = nn.utils.parameters_to_vector(
            LSTMLanguageModel(50, 16, narrow=narrow).parameters()
        ).detach()
        assert 0.95 * bound < float(weights.abs().max()) <= bound
    gpt = GPT(50, width=64, layers=8)
    assert float(gpt.blocks[0].up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(gpt.blocks[0].down.weight.detach().std()) == pytest.approx(0.005, rel=0.05)
    assert torch.equal(sinusoids(3, 5)[2, 4], torch.sin(torch.tensor(2 * 10000 ** (-4 / 5))))


def test_an_encoder_without_a_mask_takes_every_place() -> None:
    torch.manual_seed(0)
    model = EncoderClassifier(20, 3, length=8, width=16, layers=1, heads=2).eval()
    tokens = torch.randint(0, 20, (2, 8))
    everything = model(tokens, torch.ones(2, 8, dtype=torch.bool))
    torch.testing.assert_close(model(tokens), everything)


def test_bad_names_and_shapes() -> None:
    with pytest.raises(UserError, match=r"Unknown model 'lst' of the task language.*mean 'lstm'"):
        find_model("language", "lst")
    with pytest.raises(UserError, match=r"Unknown model 'hf:bert' of the task translation"):
        find_model("translation", "hf:bert")
    for kind in (GPT, TranslationTransformer):
        with pytest.raises(UserError, match=r"width=30 is no multiple of heads=4"):
            kind(50, width=30, heads=4)
    with pytest.raises(UserError, match=r"must return a torch\.nn\.Module; it returned dict"):
        find_model("text", "builtins:dict").build(dict(SHAPE))


def test_a_model_of_transformers_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'hf:gpt2' needs transformers.*nybble\[tasks\]"):
        find_model("language", "hf:gpt2").build(dict(SHAPE))
