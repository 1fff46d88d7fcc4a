"""Training: data, models, tasks, the loop, checkpoints and the record of a run.

from nybble.training import TrainConfig, train
record = train(TrainConfig(data="mnist5k", model="resnet8", recipe="sun2020", epochs=3))
"""

from __future__ import annotations

from nybble.training.config import TrainConfig
from nybble.training.loop import NonFiniteError, train
from nybble.training.signals import Interrupted

__all__ = ["Interrupted", "NonFiniteError", "TrainConfig", "train"]
