"""Models for speech: from log-mel frames (or samples) to class scores, or to characters over time.

    lstm      frames in pairs -> linear + ReLU -> 2 bidirectional LSTM layers, 128 a direction ->
              mean over time -> classes
    swb300    the paper's speech model in its shape: 4 bidirectional LSTM layers of 512 a direction.
              Its 256 wide linear bottleneck is that of IBM's acoustic models of the time; the paper
              trains on 300 hours of Switchboard to tell the 32,000 states of an acoustic model
              apart, here it is the classes of the data.
    cnn       four 3x3 convolutions with batch norm over frames x bands, mean over both
    resnet20  the vision models' ResNet-20 on the picture of frames x bands, frames averaged in
              pairs: deep, so most of its memory is what is kept for backward
    wav2vec2  transformers' Wav2Vec2ForSequenceClassification, small, from samples, from scratch

    ctc       two 3x3 convolutions that halve time -> 2 bidirectional LSTM layers -> characters
    wav2vec2  transformers' Wav2Vec2ForCTC, small

A classifier is called with inputs [N, T, bands] (of "waveform" models: [N, T]) and returns
[N, classes]. A recogniser is called with (inputs, lengths), lengths int64 [N], and returns
[N, T', characters]; `output_lengths(lengths)` says how many of the T' belong to each, all if the
method is missing. A model of your own is `module:function`, called with `num_classes` and `bands`
if it takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nybble.errors import UserError, suggest
from nybble.training.models import resnet
from nybble.training.models.init import he_init
from nybble.training.models.registry import call_user_function


class LSTMClassifier(nn.Module):
    """[N, T, bands] -> [N, num_classes]; `stack` neighbouring frames are one step of the LSTM.

    >>> LSTMClassifier(10, 40, hidden=8)(torch.zeros(2, 98, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int, bands: int, hidden: int = 128, layers: int = 2, stack: int = 2
    ) -> None:
        super().__init__()
        self.stack = stack
        self.front = nn.Sequential(nn.Linear(stack * bands, 2 * hidden), nn.ReLU())
        self.lstm = nn.LSTM(2 * hidden, hidden, layers, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        count, frames, bands = x.shape
        rest = -frames % self.stack  # the last step may be short of frames: zeros, the mean
        x = nn.functional.pad(x, (0, 0, 0, rest))
        steps = x.reshape(count, (frames + rest) // self.stack, self.stack * bands)
        states, _ = self.lstm(self.front(steps))
        logits: Tensor = self.classifier(states.mean(1))
        return logits


class SWB300(nn.Module):
    """[N, T, bands] -> [N, num_classes]; 4 bidirectional LSTM layers, bottleneck, classifier."""

    def __init__(
        self, num_classes: int, bands: int, hidden: int = 512, layers: int = 4, width: int = 256
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(bands, hidden, layers, batch_first=True, bidirectional=True)
        self.bottleneck = nn.Linear(2 * hidden, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        logits: Tensor = self.classifier(self.bottleneck(states).mean(1))
        return logits


class SpeechCNN(nn.Module):
    """[N, T, bands] -> [N, num_classes]; T and bands at least 8.

    >>> SpeechCNN(10)(torch.zeros(2, 98, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for index, out in enumerate((width, 2 * width, 4 * width, 4 * width)):
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            if index < 3:
                layers.append(nn.MaxPool2d(2))
            channels = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(self.features(x.unsqueeze(1)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


class SpeechResNet(nn.Module):
    """[N, T, bands] -> [N, num_classes]; T at least 2."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d((2, 1))
        self.net = resnet.resnet20(num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.pool(x.unsqueeze(1)))
        return logits


class CTCNet(nn.Module):
    """(inputs [N, T, bands], lengths [N]) -> [N, ceil(T / 2), num_classes].

    What lies behind a recording's end changes none of its outputs (in eval mode): the convolutions
    see zeros there, and the LSTM runs over packed sequences.
    """

    def __init__(
        self, num_classes: int, bands: int, hidden: int = 128, layers: int = 2, width: int = 32
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=(1, 2), padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        he_init(self)
        half = (bands + 1) // 2
        self.lstm = nn.LSTM(
            width * ((half + 1) // 2), hidden, layers, batch_first=True, bidirectional=True
        )
        self.classifier = nn.Linear(2 * hidden, num_classes)

    @staticmethod
    def output_lengths(lengths: Tensor) -> Tensor:
        """Output frames of so many input frames."""
        return (lengths + 1) // 2

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        lengths = self.output_lengths(lengths)
        y = self.relu1(self.norm1(self.conv1(x.unsqueeze(1))))
        inside = torch.arange(y.shape[2]) < lengths.view(-1, 1)
        y = y * inside[:, None, :, None]
        y = self.relu2(self.norm2(self.conv2(y)))
        steps = y.permute(0, 2, 1, 3).flatten(2)
        packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=y.shape[2]
        )
        logits: Tensor = self.classifier(states)
        return logits


def _wav2vec2(kind: str, num_classes: int) -> nn.Module:
    """A Wav2Vec2 of 2 layers of width 96 (transformers' base model: 12 of 768), random weights."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            "The model wav2vec2 needs the package transformers. Install it with: "
            "pip install transformers"
        ) from None
    config = transformers.Wav2Vec2Config(
        vocab_size=num_classes,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        conv_dim=(32,) * 5,
        conv_kernel=(10, 3, 3, 3, 2),
        conv_stride=(5, 2, 2, 2, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=96,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        pad_token_id=0,
        ctc_loss_reduction="mean",
    )
    config.num_labels = num_classes
    model: nn.Module = getattr(transformers, f"Wav2Vec2For{kind}")(config)
    return model


@dataclass(frozen=True)
class SpeechModel:
    """A built-in model: its builder, what it hears ("log-mel" or "waveform"), training defaults."""

    build: Callable[[int, int], nn.Module]
    summary: str
    defaults: dict[str, Any]
    hears: str = "log-mel"


MODELS: dict[str, SpeechModel] = {
    "lstm": SpeechModel(
        lambda classes, bands: LSTMClassifier(classes, bands),
        "2 bidirectional LSTM layers of 128",
        {"lr": 3e-3},
    ),
    "swb300": SpeechModel(
        lambda classes, bands: SWB300(classes, bands),
        "the paper's shape: 4 bidirectional LSTM layers of 512",
        {"lr": 1e-3},
    ),
    "cnn": SpeechModel(
        lambda classes, bands: SpeechCNN(classes), "four convolutions", {"lr": 3e-3}
    ),
    "resnet20": SpeechModel(
        lambda classes, bands: SpeechResNet(classes),
        "ResNet-20, 272 thousand weights",
        {"lr": 3e-3},
    ),
    "wav2vec2": SpeechModel(
        lambda classes, bands: _wav2vec2("SequenceClassification", classes),
        "transformers' Wav2Vec2, small",
        {"lr": 1e-3},
        hears="waveform",
    ),
}
"""Classifiers."""

CTC_MODELS: dict[str, SpeechModel] = {
    "ctc": SpeechModel(
        lambda classes, bands: CTCNet(classes, bands),
        "2 convolutions and 2 bidirectional LSTM layers of 128",
        {"lr": 3e-3},
    ),
    "wav2vec2": SpeechModel(
        lambda classes, bands: _wav2vec2("CTC", classes),
        "transformers' Wav2Vec2, small",
        {"lr": 1e-3},
        hears="waveform",
    ),
}
"""Recognisers."""


def find_model(name: str, models: dict[str, SpeechModel]) -> SpeechModel | None:
    """The built-in model `name`, or None for a user's `module:function`; UserError otherwise."""
    if name in models:
        return models[name]
    if ":" in name:
        return None
    raise UserError(
        f"Unknown model '{name}'; choose one of {', '.join(models)}, or your own as "
        f"module:function.{suggest(name, models)}"
    )


def build_speech_model(
    name: str, models: dict[str, SpeechModel], num_classes: int, bands: int
) -> nn.Module:
    """Build the model with initial weights from torch's global generator."""
    known = find_model(name, models)
    if known is not None:
        return known.build(num_classes, bands)
    model = call_user_function(name, {"num_classes": num_classes, "bands": bands})
    if not isinstance(model, nn.Module):
        raise UserError(
            f"The model '{name}' must return a torch.nn.Module; it returned {type(model).__name__}."
        )
    return model
