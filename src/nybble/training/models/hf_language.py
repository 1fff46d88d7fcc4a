"""Language models of the transformers library, from a configuration of this size, not pre-trained.

`hf:gpt2` and the like: the library's own classes, unmodified, inside a thin module that takes and
gives tensors. The sizes (vocabulary, width, layers, heads) are those of nybble's own models, so the
two can be compared; what the configuration does not say stays the library's default, but dropout.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.models.gpt import check_heads

INSTALL = "pip install 'nybble[tasks]'"


class CausalModel(nn.Module):
    """A decoder of transformers: tokens [N, T] -> logits [N, T, vocabulary]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


class ClassifierModel(nn.Module):
    """A classifier of transformers: tokens, mask [N, T] -> logits [N, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = None if mask is None else mask.long()
        logits: Tensor = self.model(input_ids=tokens, attention_mask=mask).logits
        return logits


class TranslationModel(nn.Module):
    """An encoder-decoder of transformers: source, target so far -> logits [N, T, vocabulary]."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, mask = self.encode(source)
        return self.decode(target, memory, mask)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        mask = (source != self.pad).long()
        encoder = self.model.get_encoder()  # type: ignore[operator]
        return encoder(input_ids=source, attention_mask=mask).last_hidden_state, mask

    def decode(self, target: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        output = self.model(
            encoder_outputs=(memory,),
            attention_mask=mask,
            decoder_input_ids=target,
            use_cache=False,
        )
        logits: Tensor = output.logits
        return logits


def causal(name: str, shape: dict[str, Any]) -> nn.Module:
    """`gpt2`, `opt` or `llama` as a language model."""
    transformers, width, hidden = _library(name, shape)
    layers, heads, drop = shape["layers"], shape["heads"], shape["dropout"]
    common = {"vocab_size": shape["vocabulary"], **_tokens(None)}
    if name == "gpt2":
        config = transformers.GPT2Config(
            n_positions=shape["length"],
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_inner=hidden,
            resid_pdrop=drop,
            embd_pdrop=drop,
            attn_pdrop=0.0,
            **common,
        )
        return CausalModel(transformers.GPT2LMHeadModel(config))
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": shape["length"],
    }
    if name == "opt":
        config = transformers.OPTConfig(
            ffn_dim=hidden, word_embed_proj_dim=width, dropout=drop, **sizes, **common
        )
        return CausalModel(transformers.OPTForCausalLM(config))
    config = transformers.LlamaConfig(intermediate_size=hidden, **sizes, **common)
    return CausalModel(transformers.LlamaForCausalLM(config))


def classifier(name: str, shape: dict[str, Any]) -> nn.Module:
    """`bert` or `distilbert` as a classifier of texts."""
    transformers, width, hidden = _library(name, shape)
    drop = shape["dropout"]
    common = {
        "vocab_size": shape["vocabulary"],
        "num_labels": shape["classes"],
        "max_position_embeddings": shape["length"],
        **_tokens(0),
    }
    if name == "bert":
        config = transformers.BertConfig(
            hidden_size=width,
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            intermediate_size=hidden,
            hidden_dropout_prob=drop,
            attention_probs_dropout_prob=0.0,
            **common,
        )
        return ClassifierModel(transformers.BertForSequenceClassification(config))
    config = transformers.DistilBertConfig(
        dim=width,
        n_layers=shape["layers"],
        n_heads=shape["heads"],
        hidden_dim=hidden,
        dropout=drop,
        attention_dropout=0.0,
        seq_classif_dropout=drop,
        **common,
    )
    return ClassifierModel(transformers.DistilBertForSequenceClassification(config))


def translation(name: str, shape: dict[str, Any]) -> nn.Module:
    """`marian`, `bart` or `t5` as an encoder-decoder."""
    transformers, width, hidden = _library(name, shape)
    layers, heads, drop = shape["layers"], shape["heads"], shape["dropout"]
    common = {
        "vocab_size": shape["vocabulary"],
        **_tokens(shape["pad"]),
        "bos_token_id": shape["bos"],
        "eos_token_id": shape["eos"],
        "decoder_start_token_id": shape["bos"],
    }
    if name == "t5":
        config = transformers.T5Config(
            d_model=width,
            d_kv=width // heads,
            d_ff=hidden,
            num_layers=layers,
            num_heads=heads,
            dropout_rate=drop,
            **common,
        )
        return TranslationModel(transformers.T5ForConditionalGeneration(config), shape["pad"])
    sizes = {
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": hidden,
        "decoder_ffn_dim": hidden,
        "max_position_embeddings": shape["length"],
        "dropout": drop,
    }
    if name == "marian":
        config = transformers.MarianConfig(**sizes, **common)
        return TranslationModel(transformers.MarianMTModel(config), shape["pad"])
    config = transformers.BartConfig(**sizes, **common)
    return TranslationModel(transformers.BartForConditionalGeneration(config), shape["pad"])


def _tokens(pad: int | None) -> dict[str, Any]:
    """Special tokens: none, but the padding's number."""
    return {"pad_token_id": pad, "bos_token_id": None, "eos_token_id": None}


def _library(name: str, shape: dict[str, Any]) -> tuple[Any, int, int]:
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"The model 'hf:{name}' needs transformers. Install it with: {INSTALL}")
    import transformers

    check_heads(shape["width"], shape["heads"])
    return transformers, shape["width"], shape["hidden"] or 4 * shape["width"]
