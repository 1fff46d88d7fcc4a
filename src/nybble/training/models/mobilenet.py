"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2): inverted residuals with depthwise
convolutions, ReLU6, linear bottlenecks.

    block    1x1 to t times the channels, 3x3 depthwise (stride s), 1x1 down; each with batch norm,
             ReLU6 behind the first two; added to its input where the shape is the same
    stages   (t, c, n, s): factor, channels, blocks, stride of the first block

The form for small images (CIFAR, digits) differs from the paper's in the stride of the stem alone,
which is 1: 32x32 ends as 2x2 and not as 1x1.
"""

from __future__ import annotations

from torch import Tensor, nn

from nybble.training.models.init import he_init

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
HEAD = 1280


class InvertedResidual(nn.Module):
    """One block. [N, C, H, W] -> [N, out, H/s, W/s]."""

    def __init__(self, channels: int, out: int, stride: int, factor: int) -> None:
        super().__init__()
        hidden = channels * factor
        layers: list[nn.Module] = []
        if factor != 1:
            layers += convolution(channels, hidden, 1)
        layers += convolution(hidden, hidden, 3, stride, groups=hidden)
        layers += [nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes].

    width: channels in proportion, rounded to multiples of 8. small: the stem keeps the size.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        small: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = scaled(32, width)
        layers: list[nn.Module] = [*convolution(in_channels, channels, 3, 1 if small else 2)]
        for factor, wide, count, stride in STAGES:
            out = scaled(wide, width)
            for block in range(count):
                layers.append(InvertedResidual(channels, out, stride if block == 0 else 1, factor))
                channels = out
        last = scaled(HEAD, max(1.0, width))
        layers += convolution(channels, last, 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x)).flatten(1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def convolution(
    channels: int, out: int, size: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    """A convolution with batch norm and ReLU6."""
    conv = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out), nn.ReLU6()


def scaled(channels: int, width: float) -> int:
    """`channels * width` to a multiple of 8, at least nine tenths of it.

    >>> scaled(32, 1.0), scaled(24, 0.5), scaled(24, 0.35)
    (32, 16, 8)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def mobilenetv2(num_classes: int = 10, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 for small images, width 1."""
    return MobileNetV2(num_classes, in_channels)


def mobilenetv2x05(num_classes: int = 10, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 for small images, width 1/2."""
    return MobileNetV2(num_classes, in_channels, width=0.5)
