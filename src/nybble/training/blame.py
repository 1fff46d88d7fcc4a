"""Whose error is it? What the user's own model raises while it trains is bad input, not a bug.

The message is one line; the traceback, which the author of the model needs, goes to log.txt. Of the
built-in models only what a batch that is too small for batch norm raises is the user's to change.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from nybble.errors import NybbleError, UserError

_SMALL_BATCH = "Expected more than 1 value per channel when training"


class ModelError(UserError):
    """The model that is trained raised an error of its own."""


def described(error: BaseException) -> str:
    """An error as the log shows it: nybble's own in one line, others with their traceback."""
    if isinstance(error, NybbleError | OSError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def raise_if_the_models(error: BaseException, model: str, when: str, folder: Path) -> None:
    """Raise a ModelError if `error` is to be blamed on the model named `model`; else return."""
    if isinstance(error, NybbleError | OSError):
        return
    small = isinstance(error, ValueError) and str(error).startswith(_SMALL_BATCH)
    if small or ":" in model:
        hint = " A larger --batch-size helps." if small else ""
        raise ModelError(
            f"The model '{model}' raised {type(error).__name__} at {when}: {error} (traceback in "
            f"{folder / 'log.txt'}).{hint}"
        ) from error
