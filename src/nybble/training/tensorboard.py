"""Optional curves for TensorBoard, in OUT/tensorboard."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from nybble.errors import UserError


def check_tensorboard() -> None:
    """UserError with the command that installs it, when it is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard. Install it with: pip install tensorboard"
        )


def make_writer(folder: Path, step: int) -> Any:
    """A SummaryWriter that drops what an interrupted run wrote from `step` on."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)
