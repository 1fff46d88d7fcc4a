"""Residual networks for small images (He et al. 2016, "Deep residual learning", section 4.2).

ResNet-(6n+2): a 3x3 stem, three stages of n basic blocks with widths w, 2w, 4w (w = 16), the
second and third stage halve the image; global average, linear classifier. ResNet-18 in the form
usual for CIFAR: four stages of two blocks, width 64, a 3x3 stem without pooling.
Shortcuts that change the shape are 1x1 convolutions with batch norm ("projection", option B; the
default, so that 1x1 convolutions take part) or a strided slice padded with zero channels ("pad",
option A, what the paper used on CIFAR). `zero_init_residual` starts every block as the identity
(Goyal et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.models.init import he_init


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and the shortcut. [N, C, H, W] -> [N, O, H/s, W/s]."""

    def __init__(self, channels: int, out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module
        if stride == 1 and channels == out:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
        else:
            self.shortcut = PadShortcut(out - channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)  # in place: one activation fewer at the peak
        out: Tensor = self.relu2(y)
        return out


class ResNet(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]; `blocks[i]` basic blocks in stage i."""

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        shortcut: str = "projection",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if shortcut not in ("projection", "pad"):
            raise UserError(f"shortcut must be 'projection' or 'pad', not '{shortcut}'.")
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        channels = width
        stages = []
        for stage, count in enumerate(blocks):
            out = width << stage
            stage_blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stage_blocks.append(BasicBlock(channels, out, stride, shortcut))
                channels = out
            stages.append(nn.Sequential(*stage_blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_init(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        for stage in self.stages:  # a call of nn.Sequential would hold its input to the end
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def resnet8(num_classes: int = 10, in_channels: int = 3, **options: object) -> ResNet:
    """ResNet-8: one block a stage."""
    return ResNet((1, 1, 1), num_classes, in_channels, **options)  # type: ignore[arg-type]


def resnet8x4(num_classes: int = 10, in_channels: int = 3, **options: object) -> ResNet:
    """ResNet-8 with four times the channels: 64, 128, 256."""
    return ResNet((1, 1, 1), num_classes, in_channels, width=64, **options)  # type: ignore[arg-type]


def resnet14(num_classes: int = 10, in_channels: int = 3, **options: object) -> ResNet:
    """ResNet-14: two blocks a stage."""
    return ResNet((2, 2, 2), num_classes, in_channels, **options)  # type: ignore[arg-type]


def resnet20(num_classes: int = 10, in_channels: int = 3, **options: object) -> ResNet:
    """ResNet-20: three blocks a stage."""
    return ResNet((3, 3, 3), num_classes, in_channels, **options)  # type: ignore[arg-type]


def resnet18(num_classes: int = 10, in_channels: int = 3, **options: object) -> ResNet:
    """ResNet-18 in its CIFAR form: four stages of two blocks, width 64."""
    return ResNet((2, 2, 2, 2), num_classes, in_channels, width=64, **options)  # type: ignore[arg-type]
