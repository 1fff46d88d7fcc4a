"""The tasks of the ready studies, in two sizes; the subsets stand in the records too."""

from __future__ import annotations

from nybble.studies.study.grid import StudyTask
from nybble.training.config import TrainConfig

POINTS = 0.25
"""Margin of equivalence of accuracies, in points."""
PER_CENT = 0.5
"""Margin of equivalence of perplexities, in per cent."""
LSTM_SEEDS = tuple(range(10))
"""The LSTM's runs differ more from seed to seed than the others'."""


def tasks(quick: bool) -> tuple[StudyTask, ...]:
    """Vision, LSTM, GPT and spoken digits."""
    return (vision(quick), lstm(quick), gpt(quick), digits(quick))


def vision(quick: bool) -> StudyTask:
    """ResNet-8: MNIST 5k (from PyPI) quick, or Fashion-MNIST."""
    data, epochs, train, test = (
        ("mnist5k", 3, None, None) if quick else ("fashion-mnist", 4, 12800, 5000)
    )
    config = TrainConfig(
        task="vision",
        data=data,
        model="resnet8",
        epochs=epochs,
        limit_train=train,
        limit_test=test,
        threads=1,
    )
    return StudyTask("vision", config, margin=POINTS)


def lstm(quick: bool) -> StudyTask:
    """LSTM language model of two layers of 128 on the Brown corpus, words."""
    steps = "100" if quick else "600"
    config = TrainConfig(
        task="language",
        data="brown",
        model="lstm",
        task_options=(("steps", steps),),
        limit_test=1000 if quick else None,
        threads=1,
    )
    return StudyTask("lstm", config, seeds=None if quick else LSTM_SEEDS, margin=PER_CENT)


def gpt(quick: bool) -> StudyTask:
    """GPT of four layers of 128 on the Brown corpus, characters."""
    steps = "100" if quick else "600"
    config = TrainConfig(
        task="language",
        data="brown",
        model="gpt",
        task_options=(("steps", steps),),
        limit_test=300 if quick else 1000,
        threads=1,
    )
    return StudyTask("gpt", config, margin=PER_CENT)


def digits(quick: bool) -> StudyTask:
    """Two bidirectional LSTM layers of 128 on spoken digits (fsdd)."""
    config = TrainConfig(
        task="speech",
        data="fsdd",
        model="lstm",
        epochs=2 if quick else 6,
        threads=1,
    )
    return StudyTask("digits", config, margin=POINTS)
