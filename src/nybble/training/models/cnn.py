"""A small convolutional network: three 3x3 convolutions (16, 32, 64) and a linear classifier.

23,900 weights for one input channel; any image of at least 4 x 4 pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from nybble.training.models.init import he_init


class SmallCNN(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for index, out in enumerate((width, 2 * width, 4 * width)):
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            if index < 2:
                layers.append(nn.MaxPool2d(2))
            channels = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.pool(self.features(x))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def cnn(num_classes: int = 10, in_channels: int = 3) -> SmallCNN:
    """Build the small CNN."""
    return SmallCNN(num_classes, in_channels)
