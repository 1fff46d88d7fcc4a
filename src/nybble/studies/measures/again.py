"""The test of the finished model once more: what the others are compared with, and an example.

Numbers: the metric by its name (shares in per cent, as reports show them) and `loss`. They equal
what the run itself recorded at the end of training, bit for bit on one machine.
"""

from __future__ import annotations

from pathlib import Path

from nybble.training.config import TrainConfig


def again(folder: Path, config: TrainConfig) -> dict[str, float]:
    """Test the run in `folder` again."""
    from nybble.studies.measures.trained import load_trained

    run = load_trained(folder, config)
    tested = run.test()
    return {run.task.metric: run.shown(tested.metric), "loss": tested.loss}
