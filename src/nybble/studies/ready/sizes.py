"""The tasks of the ready studies, in two sizes; the subsets stand in the records too.

What a step of float32 costs was measured on one thread of an AMD EPYC (CPU seconds): vision 0.14,
LSTM 0.14, GPT 0.23, digits 0.31; a test of 1,000 lines of the LSTM 2. A cell in emulated 4 bits
takes two to three times that, and every cell five seconds to begin. From these the sizes follow:

             quick                            full
    vision   2 epochs of MNIST 5k (62 steps)  7 epochs of 12,800 of Fashion-MNIST (700 steps)
    lstm     60 steps                         250 steps, ten seeds
    gpt      40 steps                         400 steps
    digits   1 epoch (42 steps)               5 epochs (210 steps)

so that seventeen recipes take about an hour (three seeds), or less than twelve hours (five seeds),
on two cores. None of these runs is trained to convergence: they compare recipes, they do not say
what a network can reach.
"""

from __future__ import annotations

from nybble.studies.study.grid import StudyTask
from nybble.training.config import TrainConfig

POINTS = 0.25
"""Margin of equivalence of accuracies, in points."""
PER_CENT = 0.5
"""Margin of equivalence of perplexities, in per cent."""
LSTM_SEEDS = tuple(range(10))
"""The LSTM's runs differ more from seed to seed than the others'."""


def vision(quick: bool) -> StudyTask:
    """ResNet-8 on MNIST 5k, which comes from PyPI, or on part of Fashion-MNIST."""
    if quick:
        config = TrainConfig(data="mnist5k", model="resnet8", epochs=2, threads=1)
    else:
        config = TrainConfig(
            data="fashion-mnist",
            model="resnet8",
            epochs=7,
            limit_train=12800,
            limit_test=5000,
            threads=1,
        )
    return StudyTask("vision", config, margin=POINTS)


def lstm(quick: bool, seeds: tuple[int, ...] | None = None) -> StudyTask:
    """LSTM language model of two layers of 128 on the Brown corpus, words."""
    config = TrainConfig(
        task="language",
        data="brown",
        model="lstm",
        task_options=(("steps", "60" if quick else "250"),),
        limit_test=1000 if quick else None,
        threads=1,
    )
    return StudyTask("lstm", config, seeds=seeds, margin=PER_CENT)


def gpt(quick: bool) -> StudyTask:
    """GPT of four layers of 128 on the Brown corpus, characters."""
    config = TrainConfig(
        task="language",
        data="brown",
        model="gpt",
        task_options=(("steps", "40" if quick else "400"),),
        limit_test=300 if quick else 1000,
        threads=1,
    )
    return StudyTask("gpt", config, margin=PER_CENT)


def digits(quick: bool) -> StudyTask:
    """Two bidirectional LSTM layers of 128 on spoken digits (fsdd, its own split)."""
    config = TrainConfig(
        task="speech", data="fsdd", model="lstm", epochs=1 if quick else 5, threads=1
    )
    return StudyTask("digits", config, margin=POINTS)
