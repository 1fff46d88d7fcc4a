"""Networks without shortcuts, for small images: VGG-like and AlexNet-like.

    vgg11     configuration A of Simonyan and Zisserman 2015 with batch norm and one linear layer:
              3x3 convolutions 64 M 128 M 256 256 M 512 512 M 512 512 M (M: 2x2 maximum)
    alexnet   the five convolutions of Krizhevsky et al. 2012 (5x5, 5x5, 3x3, 3x3, 3x3, in one
              group, 64 to 384 channels) without the first one's stride, batch norm in place of
              response normalisation, two linear layers of 1024 (there 4096), each after dropout 1/2

Any image of at least 16 x 16 pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from nybble.training.models.init import he_init

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class VGG(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]; `plan`: channels, or "M" for a maximum."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        plan: tuple[int | str, ...] = VGG11,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in plan:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 28 -> 14 -> 7 -> 4 -> 2 -> 1
                continue
            out = int(entry * width)
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)]
            layers.append(nn.ReLU())
            channels = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


class AlexNet(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]."""

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, hidden: int = 1024, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(in_channels, 64, 5),
            nn.MaxPool2d(3, 2, 1),
            *_convolution(64, 192, 5),
            nn.MaxPool2d(3, 2, 1),
            *_convolution(192, 384, 3),
            *_convolution(384, 256, 3),
            *_convolution(256, 256, 3),
            nn.MaxPool2d(3, 2, 1),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * 256, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _convolution(channels: int, out: int, size: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, out, size, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(out), nn.ReLU()


def vgg11(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """VGG-11 with batch norm, for small images."""
    return VGG(num_classes, in_channels)


def alexnet(num_classes: int = 10, in_channels: int = 3) -> AlexNet:
    """AlexNet-like, for small images."""
    return AlexNet(num_classes, in_channels)
