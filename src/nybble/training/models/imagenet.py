"""Networks in their full size, for images of 224 x 224: what the paper trains on ImageNet.

    imagenet-resnet18, -resnet50   He et al. 2016: 7x7 stem of stride 2 and a maximum, four stages;
                                   bottleneck blocks have their stride in the 3x3 convolution
    imagenet-mobilenetv2           mobilenet.py, with the paper's strides and dropout 0.2
    imagenet-alexnet               Krizhevsky 2014 ("one weird trick", one group), batch norm behind
                                   the convolutions, as low-precision training has used it

18: 11.7, 50: 25.6, MobileNetV2: 3.5, AlexNet: 61.1 million weights for 1000 classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from nybble.training.models.init import he_init
from nybble.training.models.mobilenet import MobileNetV2
from nybble.training.models.resnet import BasicBlock

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and the shortcut. [N, C, H, W] -> [N, 4 width, H/s, W/s]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu3 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += self.shortcut(x)
        out: Tensor = self.relu3(y)
        return out


class ImageNetResNet(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]; `blocks[i]` blocks in stage i."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        bottleneck: bool,
        num_classes: int = 1000,
        in_channels: int = 3,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu1 = nn.ReLU(inplace=True)
        self.maximum = nn.MaxPool2d(3, 2, 1)
        channels = 64
        stages = []
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            made: list[nn.Module] = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                if bottleneck:
                    made.append(Bottleneck(channels, width, stride))
                    channels = width * EXPANSION
                else:
                    made.append(BasicBlock(channels, width, stride, "projection"))
                    channels = width
            stages.append(nn.Sequential(*made))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_init(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)
                elif isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maximum(self.relu1(self.bn1(self.conv1(x))))
        for stage in self.stages:  # a call of nn.Sequential would hold its input to the end
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class ImageNetAlexNet(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]; made for 224 x 224."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        plan = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False),
                (256, 3, 1, 1, False), (256, 3, 1, 1, True))  # fmt: skip
        layers: list[nn.Module] = []
        channels = in_channels
        for out, size, stride, padding, maximum in plan:
            conv = nn.Conv2d(channels, out, size, stride, padding, bias=False)
            layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
            if maximum:
                layers.append(nn.MaxPool2d(3, 2))
            channels = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(36 * channels, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def resnet18(num_classes: int = 1000, in_channels: int = 3, **options: bool) -> ImageNetResNet:
    """ResNet-18 for ImageNet."""
    return ImageNetResNet((2, 2, 2, 2), False, num_classes, in_channels, **options)


def resnet50(num_classes: int = 1000, in_channels: int = 3, **options: bool) -> ImageNetResNet:
    """ResNet-50 for ImageNet."""
    return ImageNetResNet((3, 4, 6, 3), True, num_classes, in_channels, **options)


def mobilenetv2(num_classes: int = 1000, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 for ImageNet."""
    return MobileNetV2(num_classes, in_channels, small=False, dropout=0.2)


def alexnet(num_classes: int = 1000, in_channels: int = 3) -> ImageNetAlexNet:
    """AlexNet for ImageNet."""
    return ImageNetAlexNet(num_classes, in_channels)
