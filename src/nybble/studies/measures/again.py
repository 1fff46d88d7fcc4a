"""The test of the finished model once more: what the others are compared with, and an example.

Numbers: the metric by its name (shares in per cent, as reports show them) and `loss`. They equal
what the run itself recorded at the end of training, bit for bit on one machine.
"""

from __future__ import annotations

from pathlib import Path

from nybble.training.config import TrainConfig


def again(folder: Path, config: TrainConfig) -> dict[str, float]:
    """Test the run in `folder` again."""
    from nybble.studies.measures.finished import evaluate, finished

    model, task = finished(folder, config)
    loss, metric, _ = evaluate(model, task)
    return {task.metric: metric * (100.0 if task.unit == "%" else 1.0), "loss": loss}
