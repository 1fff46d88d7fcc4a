"""Watch for dead layers: weights that got no gradient for a whole epoch.

A recipe that rounds every gradient to zero still "learns" through its float32 layers and passes
accuracy tests, so the gradients themselves are watched: on sampled steps the share of non-zero
entries of every parameter's gradient, and on every step whether a weight that had none so far in
this epoch has one now.
"""

from __future__ import annotations

import torch
from torch import nn

SAMPLES_PER_EPOCH = 16


class GradientWatch:
    """Counts per parameter since the epoch began.

    state: {name: [samples, sum of non-zero shares, alive (0 or 1)]}, JSON-ready and saved with the
    checkpoint, so that a resumed epoch reports what an uninterrupted one reports.
    """

    def __init__(self, model: nn.Module, steps_per_epoch: int) -> None:
        self._parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._stride = max(1, steps_per_epoch // SAMPLES_PER_EPOCH)
        self.state: dict[str, list[float]] = {}
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        self.state = {name: [0, 0.0, 0] for name, _ in self._parameters}

    def observe(self, step: int) -> None:
        """Look at the gradients of a step, after backward."""
        sampled = step % self._stride == 0
        for name, parameter in self._parameters:
            entry = self.state[name]
            if not sampled and entry[2]:
                continue
            gradient = parameter.grad
            share = 0.0
            if gradient is not None and gradient.numel():
                share = int(torch.count_nonzero(gradient)) / gradient.numel()
            if sampled:
                entry[0] += 1
                entry[1] += share
            if share > 0:
                entry[2] = 1

    def report(self) -> tuple[dict[str, float], list[str]]:
        """(mean share of non-zero entries of every parameter, weights without any gradient)."""
        nonzero = {name: entry[1] / max(1, entry[0]) for name, entry in self.state.items()}
        # Without a sample (steps whose gradients overflowed are not looked at) nothing is known.
        dead = [
            name
            for name, parameter in self._parameters
            if parameter.dim() > 1 and self.state[name][0] and not self.state[name][2]
        ]
        return nonzero, dead
