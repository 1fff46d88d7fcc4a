"""The learning rate as a pure function of the step: nothing to save, nothing to resume.

factor(step) in [0, 1], step = 0 .. total - 1, w = warm-up share of the run
onecycle   linear from 1/25 up to 1 over the first w, then linear down to 0
           (the triangle of Smith & Topin 2018, one leg down to zero)
cosine     linear from 0 up to 1 over w, then (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017)
step       warm-up as cosine, then 1, 0.1 after half of the run, 0.01 after three quarters
           (He et al. 2016 on CIFAR)
thirds     warm-up as cosine, then 1, 0.1 after a third of the run, 0.01 after two thirds
           (He et al. 2016 on ImageNet: 30, 60 of 90 epochs)
constant   warm-up, then 1
decay      1 for the first w, then down in equal ratios to 1/400 at the end (Zaremba et al. 2014:
           6 of 39 epochs, then divided by 1.2 after each)
inverse-sqrt  linear from 0 up to 1 over w, then sqrt(w total / step) (Vaswani et al. 2017)
"""

from __future__ import annotations

import math


def factor(schedule: str, step: int, total: int, warmup: float) -> float:
    """The multiple of the peak learning rate at `step` of `total`.

    >>> [round(factor("onecycle", s, 10, 0.2), 3) for s in (0, 1, 2, 6, 9)]
    [0.04, 0.52, 1.0, 0.5, 0.125]
    """
    rise = warmup * total
    if schedule == "decay":
        return 1.0 if step < rise else 400.0 ** -((step - rise) / max(1e-12, total - rise))
    floor = 1 / 25 if schedule == "onecycle" else 0.0
    if step < rise:
        position = step if schedule == "onecycle" else step + 1
        return floor + (1 - floor) * min(1.0, position / rise)
    done = (step - rise) / max(1e-12, total - rise)
    if schedule == "onecycle":
        return 1 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "step":
        return 1.0 if step < total / 2 else 0.1 if step < 3 * total / 4 else 0.01
    if schedule == "thirds":
        return 1.0 if step < total / 3 else 0.1 if step < 2 * total / 3 else 0.01
    if schedule == "inverse-sqrt":
        return math.sqrt(max(1.0, rise) / (step + 1))
    return 1.0


def triangle(step: int, total: int) -> float:
    """Linear from 0 up to 1 in the middle of `total` steps, and back to 0 (FNT of LUQ, ICLR 2023).

    >>> [triangle(s, 4) for s in range(4)]
    [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    position, middle = step + 1, (total + 1) // 2
    if position <= middle:
        return position / middle
    return (total + 1 - position) / (total + 1 - middle)
