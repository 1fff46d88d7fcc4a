"""The models of the language tasks, by task and name, each with the settings that suit it.

    language      tokens [N, T] -> logits [N, T, vocabulary]; a recurrent one also takes and gives
                  its state: (tokens, state) -> (logits, state)
    translation   (source [N, S], target so far [N, T]) -> logits [N, T, vocabulary]
    text          (tokens [N, T], mask [N, T]) -> logits [N, classes]

`hf:NAME` are the classes of the transformers library from a configuration of the same size. A
model of your own is `module:function`, imported from the current folder too, and is called with
those of `vocabulary`, `length`, `width`, `layers`, `heads`, `hidden`, `dropout`, `classes`, `pad`,
`bos`, `eos` that it accepts. A new model is one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nybble.errors import UserError, suggest
from nybble.training.models import hf_language
from nybble.training.models.encoder import EncoderClassifier
from nybble.training.models.gpt import GPT
from nybble.training.models.lstm import LSTMLanguageModel
from nybble.training.models.registry import call_user_function
from nybble.training.models.seq2seq import TranslationTransformer

Shape = dict[str, Any]
SHAPE = ("width", "layers", "heads", "hidden", "dropout")
"""What a user may set of a model; hidden None is four times the width."""


@dataclass(frozen=True)
class LanguageModel:
    """A model: how it is built from a shape, and what it is trained with.

    settings: options of the task and the model (tokens, vocabulary, length, steps, width, ...).
    training: fields of TrainConfig. carried: whether it takes and gives a state.
    """

    build: Callable[[Shape], nn.Module]
    summary: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    carried: bool = False


def _lstm(narrow: bool) -> Callable[[Shape], nn.Module]:
    def build(shape: Shape) -> nn.Module:
        sizes = (shape["vocabulary"], shape["width"], shape["layers"])
        return LSTMLanguageModel(*sizes, shape["dropout"], narrow)

    return build


def _transformer(kind: type[nn.Module], *more: str) -> Callable[[Shape], nn.Module]:
    """A builder of nybble's own Transformers, whose arguments have the names of the shape."""

    def build(shape: Shape) -> nn.Module:
        names = ("vocabulary", "length", "width", "layers", "heads", "hidden", *more)
        arguments = {name: shape[name] for name in names}
        return kind(**arguments, dropout_share=shape["dropout"])

    return build


def _hf(build: Callable[[str, Shape], nn.Module], name: str) -> Callable[[Shape], nn.Module]:
    return lambda shape: build(name, shape)


_SMALL = {"width": 128, "layers": 4, "heads": 4, "hidden": None, "dropout": 0.0}
_ADAM: Mapping[str, Any] = {
    "optimizer": "adamw",
    "betas": (0.9, 0.98),
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "schedule": "onecycle",
    "warmup": 0.1,
}

_WORDS = {"tokens": "word", "vocabulary": 10000, "length": 35}
_CHARS = {"tokens": "char", "vocabulary": 256, "length": 128, "steps": 1000}
_GPT_TRAINING = {**_ADAM, "epochs": 1, "batch_size": 16, "lr": 2e-3}
_PAIRS = {"tokens": "bpe", "vocabulary": 2000, "length": 64, "steps": 500}
_PAIRS_TRAINING = {
    **_ADAM,
    "epochs": 2,
    "batch_size": 64,
    "lr": 2e-3,
    "label_smoothing": 0.1,
}
_LABELS = {"tokens": "word", "vocabulary": 10000, "length": 128}
_LABELS_TRAINING = {**_ADAM, "epochs": 4, "batch_size": 32, "lr": 1e-3}

LANGUAGE: dict[str, LanguageModel] = {
    "lstm": LanguageModel(
        _lstm(narrow=False),
        "LSTM of 2 layers of 128, words: 2.8 million weights",
        {**_SMALL, **_WORDS, "layers": 2},
        {**_ADAM, "epochs": 1, "batch_size": 20, "lr": 5e-3},
        carried=True,
    ),
    "lstm-ptb": LanguageModel(
        _lstm(narrow=True),
        "LSTM of 2 layers of 650, words, the Penn Treebank's shape: 20 million weights",
        {**_SMALL, **_WORDS, "width": 650, "layers": 2, "dropout": 0.5},
        {
            "optimizer": "sgd",
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "lr": 1.0,
            "clip_norm": 5.0,
            "schedule": "decay",
            "warmup": 6 / 39,
            "epochs": 39,
            "batch_size": 20,
        },
        carried=True,
    ),
    "gpt": LanguageModel(
        _transformer(GPT),
        "decoder of 4 blocks of width 128, characters: 0.8 million weights",
        {**_SMALL, **_CHARS},
        _GPT_TRAINING,
    ),
    "gpt-bpe": LanguageModel(
        _transformer(GPT),
        "the same on byte pairs: 1.9 million weights",
        {**_SMALL, **_CHARS, "tokens": "bpe", "vocabulary": 4096, "steps": 500},
        _GPT_TRAINING,
    ),
    **{
        f"hf:{name}": LanguageModel(
            _hf(hf_language.causal, name),
            f"{name} of transformers, characters, the size of gpt",
            {**_SMALL, **_CHARS},
            _GPT_TRAINING,
        )
        for name in ("gpt2", "opt", "llama")
    },
}
TRANSLATION: dict[str, LanguageModel] = {
    "transformer": LanguageModel(
        _transformer(TranslationTransformer, "pad"),
        "encoder and decoder of 2 blocks of width 128",
        {**_SMALL, **_PAIRS, "layers": 2, "dropout": 0.1},
        _PAIRS_TRAINING,
    ),
    "transformer-base": LanguageModel(
        _transformer(TranslationTransformer, "pad"),
        "encoder and decoder of 6 blocks of width 512 (Vaswani et al. 2017)",
        {
            **_SMALL,
            **_PAIRS,
            "width": 512,
            "layers": 6,
            "heads": 8,
            "hidden": 2048,
            "dropout": 0.1,
            "vocabulary": 37000,
            "length": 256,
        },
        {**_PAIRS_TRAINING, "lr": 7e-4, "clip_norm": 0.0, "schedule": "inverse-sqrt"},
    ),
    **{
        f"hf:{name}": LanguageModel(
            _hf(hf_language.translation, name),
            f"{name} of transformers, the size of transformer",
            {**_SMALL, **_PAIRS, "layers": 2, "dropout": 0.1},
            _PAIRS_TRAINING,
        )
        for name in ("marian", "bart", "t5")
    },
}
TEXT: dict[str, LanguageModel] = {
    "encoder": LanguageModel(
        _transformer(EncoderClassifier, "classes"),
        "bidirectional encoder of 2 blocks of width 128, words",
        {**_SMALL, **_LABELS, "layers": 2, "dropout": 0.1},
        _LABELS_TRAINING,
    ),
    **{
        f"hf:{name}": LanguageModel(
            _hf(hf_language.classifier, name),
            f"{name} of transformers, the size of encoder",
            {**_SMALL, **_LABELS, "layers": 2, "dropout": 0.1},
            _LABELS_TRAINING,
        )
        for name in ("bert", "distilbert")
    },
}
MODELS: dict[str, dict[str, LanguageModel]] = {
    "language": LANGUAGE,
    "translation": TRANSLATION,
    "text": TEXT,
}
_LIKE = {"language": "gpt", "translation": "transformer", "text": "encoder"}
"""The model whose settings a user's own model of the task begins with."""


def find_model(task: str, name: str) -> LanguageModel:
    """The entry of the registry, or one for `module:function`; UserError for an unknown name.

    >>> find_model("language", "lstm").settings["tokens"]
    'word'
    """
    models = MODELS[task]
    if name in models:
        return models[name]
    if ":" not in name or name.startswith("hf:"):
        raise UserError(
            f"Unknown model '{name}' of the task {task}; choose one of {', '.join(models)}, or "
            f"your own as module:function.{suggest(name, models)}"
        )
    like = models[_LIKE[task]]
    return LanguageModel(lambda shape: _user_model(name, shape), "", like.settings, like.training)


def _user_model(name: str, shape: Shape) -> nn.Module:
    model = call_user_function(name, shape)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"The model '{name}' must return a torch.nn.Module; it returned {type(model).__name__}."
        )
    return model
