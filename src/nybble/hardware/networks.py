"""The networks that an estimate is asked for by name, in their full size, without memory.

    resnet18, resnet50, mobilenetv2, alexnet, vgg16   images of 224 x 224, 1000 classes
    lstm            2 layers of 650 units, 35 words of a vocabulary of 10,000 (Zaremba et al. 2014)
    bilstm          4 bidirectional layers of 512 on 21 frames of 260 features, 32,000 states
    transformer     base: 6 + 6 blocks of 512, 8 heads, 2048 hidden, 37,000 words, 64 tokens a side
                    (Vaswani et al. 2017)
    bert            base: 12 blocks of 768, 12 heads, 3072 hidden, 30,522 words, 128 tokens
                    (Devlin et al. 2019)
    decoder7b       32 blocks of 4096, 32 heads, gated hidden layer of 11,008, 32,000 words, 2048
                    tokens (the shape of LLaMA 7B, Touvron et al. 2023)

and every model that `nybble bench step` measures, or the user's `module:function`. A network is a
builder that runs under `torch.device("meta")`; sequence lengths are part of it, batches are not.
The sizes of the speech network are chosen here, after those of IBM's published acoustic models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError, suggest
from nybble.hardware.trace import Step
from nybble.studies.speed.workload import NAMES as MEASURED
from nybble.studies.speed.workload import make_workload
from nybble.training.models import imagenet
from nybble.training.models.seq2seq import TranslationTransformer

__all__ = ["NETWORKS", "Network", "check_network", "get_network", "network_names"]


@dataclass(frozen=True)
class Network:
    """`build(batch)` makes the step; `batch` is the usual one; `rules` what it is converted with
    beside its recipe; `optimizer` "sgd" or "adamw"."""

    name: str
    title: str
    build: Callable[[int], Step]
    batch: int
    optimizer: str = "sgd"
    rules: dict[str, str | None] = field(default_factory=dict)


def _images(make: Callable[..., nn.Module]) -> Callable[[int], Step]:
    def build(batch: int) -> Step:
        model = make()
        x, y = torch.zeros(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.long)
        return model, lambda model: F.cross_entropy(model(x), y)

    return build


def _vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head: list[nn.Module] = [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU()]
    head += [nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, *head)


class _Words(nn.Module):
    """Embedding, recurrent layers, head."""

    def __init__(self, words: int, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(self.tokens(x))[0])
        return y


class _Frames(nn.Module):
    """Bidirectional layers on frames of features, and a state for each frame."""

    def __init__(self, features: int, width: int, layers: int, states: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, layers, batch_first=True, bidirectional=True)
        self.bottleneck = nn.Linear(2 * width, 256)
        self.head = nn.Linear(256, states)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.bottleneck(self.lstm(x)[0]))
        return y


class _Decoder(nn.Module):
    """A decoder of LLaMA's shape: RMS norm, rotary positions, SiLU-gated hidden layer."""

    def __init__(self, words: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(_DecoderBlock(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(x)
        for block in self.blocks:
            y = block(y)
        logits: Tensor = self.head(self.norm(y))
        return logits


class _DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        n, length, width = y.shape
        q, k, v = (
            part(y).view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        q, k = _rotate(q), _rotate(k)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(found.transpose(1, 2).reshape(n, length, width))
        y = self.norm2(x)
        out: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return out


def _rotate(x: Tensor) -> Tensor:
    """Rotary positions; the angles are one table for all layers."""
    length, width = x.shape[-2:]
    cosine = x.new_zeros(length, width)
    sine = x.new_zeros(length, width)
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat((-second, first), -1) * sine


def _bert() -> nn.Module:
    from nybble.training.models.blocks import Block

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(30522, 768), nn.Embedding(512, 768)
            self.norm = nn.LayerNorm(768)
            self.blocks = nn.ModuleList(
                Block(768, 12, 3072, causal=False, drop=0.1) for _ in range(12)
            )
            self.transform = nn.Linear(768, 768)
            self.act, self.last = nn.GELU(), nn.LayerNorm(768)
            self.head = nn.Linear(768, 30522)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.tokens(x) + self.positions(torch.arange(x.shape[1])))
            for block in self.blocks:
                y = block(y)
            logits: Tensor = self.head(self.last(self.act(self.transform(y))))
            return logits

    return Encoder()


def _tokens(make: Callable[[], nn.Module], length: int, words: int) -> Callable[[int], Step]:
    def build(batch: int) -> Step:
        x = torch.zeros(batch, length, dtype=torch.long)
        y = torch.zeros(batch * length, dtype=torch.long)
        return make(), lambda model: F.cross_entropy(model(x).view(-1, words), y)

    return build


def _translation(batch: int) -> Step:
    model = TranslationTransformer(37000, 256, 512, 6, 8, 2048, 0.1)
    source = torch.ones(batch, 64, dtype=torch.long)
    target, labels = source.clone(), torch.zeros(batch * 64, dtype=torch.long)
    return model, lambda model: F.cross_entropy(model(source, target).view(-1, 37000), labels)


def _speech(batch: int) -> Step:
    x, y = torch.zeros(batch, 21, 260), torch.zeros(batch * 21, dtype=torch.long)
    return _Frames(260, 512, 4, 32000), lambda m: F.cross_entropy(m(x).view(-1, 32000), y)


def _lstm(batch: int) -> Step:
    return _tokens(lambda: _Words(10000, 650, 2), 35, 10000)(batch)


# Behind an embedding no matrix product is the first layer: the recipe holds for it too.
_INNER: Final[dict[str, str | None]] = {r"re:^(blocks|encoder|decoder|lstm)\.": "recipe"}


def _decoder(batch: int) -> Step:
    return _tokens(lambda: _Decoder(32000, 4096, 32, 32, 11008), 2048, 32000)(batch)


NETWORKS: Final[dict[str, Network]] = {
    network.name: network
    for network in (
        Network("resnet18", "ResNet-18, ImageNet", _images(imagenet.resnet18), 256),
        Network("resnet50", "ResNet-50, ImageNet", _images(imagenet.resnet50), 256),
        Network("mobilenetv2", "MobileNetV2, ImageNet", _images(imagenet.mobilenetv2), 256),
        Network("alexnet", "AlexNet, ImageNet", _images(imagenet.alexnet), 256),
        Network("vgg16", "VGG-16, ImageNet", _images(_vgg16), 256),
        Network("lstm", "2-layer LSTM, words", _lstm, 128, rules=_INNER),
        Network("bilstm", "4-layer bidirectional LSTM, speech", _speech, 128, rules=_INNER),
        Network("transformer", "Transformer-base", _translation, 64, "adamw", _INNER),
        Network("bert", "BERT-base", _tokens(_bert, 128, 30522), 64, "adamw", _INNER),
        Network("decoder7b", "decoder of 7 billion weights", _decoder, 8, "adamw", _INNER),
    )
}


def network_names() -> tuple[str, ...]:
    """Every name: full-size networks, then `cpu:NAME` for what is measured on this machine.

    >>> network_names()[:2]
    ('resnet18', 'resnet50')
    """
    return (*NETWORKS, *(f"cpu:{name}" for name in MEASURED))


def check_network(name: str) -> None:
    """UserError where `name` is neither a network nor `module:function`."""
    if name not in network_names() and (":" not in name or name.startswith("cpu:")):
        raise UserError(
            f"Unknown network '{name}'; choose one of {', '.join(network_names())}, or your own as "
            f"module:function.{suggest(name, network_names())}"
        )


def get_network(name: str, size: int = 32, channels: int = 3) -> Network:
    """The network `name`; `cpu:NAME` and `module:function` are those of `nybble bench step`, with
    images of `size` pixels and `channels`.

    Raises:
        UserError: an unknown name.
    """
    check_network(name)
    if name in NETWORKS:
        return NETWORKS[name]
    for what, value in (("size", size), ("channels", channels)):
        if value < 1:
            raise UserError(f"--{what} must be at least 1, not {value}.")

    def build(batch: int) -> Step:
        made = make_workload(name.removeprefix("cpu:"), batch, size, channels)
        found = {x.shape[0] for x in made.tensors if x.dim()}
        if found and batch not in found:
            raise UserError(
                f"{name} brings an example of {max(found)}, but each chip is to have {batch}: let "
                "the function take an argument `batch`, or give --batch as many as its example "
                "times the chips."
            )
        return made.model, made.run  # the rules are asked for below

    with torch.device("meta"):
        rules: Any = make_workload(name.removeprefix("cpu:"), 1, size, channels).rules
    return Network(name, name, build, 32, rules=dict(rules))
