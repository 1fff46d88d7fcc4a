"""Train a small network in 4 bits with an ordinary loop, and see what ran in how many bits.

python examples/01_train_in_4_bits.py
"""

import torch
from torch import nn

import nybble


def main(steps: int = 60) -> float:
    """Learn to tell which quarter of a noisy image is bright; returns the last accuracy."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    nybble.convert(model, "sun2020")  # in place: INT4 forward, radix-4 FP4 gradients
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.05), lr=0.05, momentum=0.9)
    accuracy = 0.0
    for step in range(steps):
        labels = torch.randint(4, (64,))
        images = torch.rand(64, 1, 12, 12)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 6 * (label // 2), 6 * (label % 2)
            image[:, row : row + 6, column : column + 6] += 0.4
        optimizer.zero_grad()
        output = model(images)
        nn.functional.cross_entropy(output, labels).backward()
        optimizer.step()
        accuracy = (output.argmax(1) == labels).float().mean().item()
        if step % 20 == 19:
            print(f"step {step + 1}: accuracy {accuracy:.2f}")
    print(nybble.summary(model, images))
    return accuracy


if __name__ == "__main__":
    main()
