"""Models of transformers by name, from tiny random configurations: `nybble summary hf:bert`.

Each entry is the class of the model, its configuration's class with the few sizes that make it
tiny, and a batch of inputs; weights are random and nothing is downloaded. The shapes of the layers
are the real ones' in kind, not in size. A new model is one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError, suggest

PREFIX = "hf:"
_WORDS = 99
_BATCH, _LENGTH = 2, 8


@dataclass(frozen=True)
class Entry:
    """A model: names in the `transformers` module, sizes, and inputs with labels."""

    model: str
    config: str
    inputs: Callable[[], dict[str, Tensor]]
    sizes: Mapping[str, Any] = field(default_factory=dict)


def _ids(low: int = 3) -> Tensor:
    return torch.arange(_BATCH * _LENGTH).view(_BATCH, _LENGTH) % (_WORDS - low) + low


def _image() -> dict[str, Tensor]:
    pixels = torch.linspace(-1, 1, _BATCH * 3 * 32 * 32).sin().view(_BATCH, 3, 32, 32)
    return {"pixel_values": pixels, "labels": torch.arange(_BATCH)}


def _classify() -> dict[str, Tensor]:
    mask = torch.ones(_BATCH, _LENGTH, dtype=torch.int64)
    mask[1, -2:] = 0
    return {"input_ids": _ids(), "attention_mask": mask, "labels": torch.arange(_BATCH)}


def _generate() -> dict[str, Tensor]:
    return {"input_ids": _ids(), "labels": _ids()}


def _sound(labels: Tensor) -> dict[str, Tensor]:
    wave = torch.linspace(0, 300, _BATCH * 800).sin().view(_BATCH, 800)
    return {"input_values": wave, "labels": labels}


def _mel() -> dict[str, Tensor]:
    return {
        "input_features": torch.linspace(-1, 1, _BATCH * 8 * 32).view(_BATCH, 8, 32),
        "labels": _ids(),
    }


_BODY = {
    "vocab_size": _WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_SEQ2SEQ = {
    "vocab_size": _WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_WAVES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
    "classifier_proj_size": 32,
}

MODELS: dict[str, Entry] = {
    "resnet": Entry(
        "ResNetForImageClassification",
        "ResNetConfig",
        _image,
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    ),
    "mobilenetv2": Entry(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        _image,
        {"image_size": 32, "depth_multiplier": 0.25},
    ),
    "vit": Entry(
        "ViTForImageClassification",
        "ViTConfig",
        _image,
        {
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        },
    ),
    "bert": Entry("BertForSequenceClassification", "BertConfig", _classify, _BODY),
    "distilbert": Entry(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _classify,
        {"vocab_size": _WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    ),
    "gpt2": Entry(
        "GPT2LMHeadModel",
        "GPT2Config",
        _generate,
        {
            "vocab_size": _WORDS,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "llama": Entry(
        "LlamaForCausalLM", "LlamaConfig", _generate, {**_BODY, "num_key_value_heads": 2}
    ),
    "opt": Entry(
        "OPTForCausalLM",
        "OPTConfig",
        _generate,
        {
            "vocab_size": _WORDS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "wav2vec2": Entry(
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        lambda: _sound(torch.arange(_BATCH)),
        _WAVES,
    ),
    "wav2vec2-ctc": Entry(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        lambda: _sound(torch.arange(1, 1 + 2 * _BATCH).view(_BATCH, 2)),
        {**_WAVES, "ctc_loss_reduction": "mean", "ctc_zero_infinity": True},
    ),
    "whisper": Entry(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _mel,
        {
            **{key: value for key, value in _SEQ2SEQ.items() if key != "max_position_embeddings"},
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
        },
    ),
    "marian": Entry("MarianMTModel", "MarianConfig", _generate, _SEQ2SEQ),
    "t5": Entry(
        "T5ForConditionalGeneration",
        "T5Config",
        _generate,
        {
            "vocab_size": _WORDS,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": Entry("BartForConditionalGeneration", "BartConfig", _generate, _SEQ2SEQ),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """(model in training mode, a batch of inputs with labels) of `hf:NAME` or `NAME`.

    Raises UserError for an unknown name, and where transformers is not installed.

    >>> try:
    ...     build("hf:berd")
    ... except UserError as error:
    ...     print(str(error)[:26])
    unknown model 'hf:berd': t
    """
    short = name.removeprefix(PREFIX)
    if short not in MODELS:
        known = ", ".join(PREFIX + key for key in MODELS)
        raise UserError(
            f"unknown model '{name}': the models of transformers are {known}."
            f"{suggest(short, MODELS)}"
        )
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{name} needs transformers, which is not installed: pip install 'nybble[tasks]'"
        ) from error
    entry = MODELS[short]
    config = getattr(transformers, entry.config)(**entry.sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = getattr(transformers, entry.model)(config)
    return model.train(), entry.inputs()
