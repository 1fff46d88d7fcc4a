"""Replaced tokens, at test time.

A share of the tokens that a model reads is replaced by other ones, each drawn with equal
probability from the vocabulary without its special tokens. The targets stay: a language model's
perplexity is that of the true text, given contexts with errors; a text's class and a translation's
reference are those of the text before.

    language       the context, position by position
    text           the text's tokens; padding stays
    translation    the source sentence; the target that the loss is computed on stays

A token is replaced where u < share, u uniform and the same at every share, so what is replaced at
1 % is replaced at 10 % too; u and the new tokens are functions of (run's seed, batch).

Not done: errors that keyboards or recognisers make; insertions and deletions.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nybble.errors import UserError
from nybble.studies.measures.trained import Trained, first, load_trained, whole
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nybble.training.tasks.base import Inputs

SHARES = (0.01, 0.05, 0.1, 0.2)


def token_corruption(folder: Path, config: TrainConfig) -> dict[str, float]:
    """The metric at each of `SHARES`, of the finished run in `folder`.

    Raises:
        UserError: the model reads no tokens.
    """
    return with_tokens_replaced(load_trained(folder, config))


def with_tokens_replaced(run: Trained, shares: tuple[float, ...] = SHARES) -> dict[str, float]:
    """{"5%": metric, ...}."""
    size, special = vocabulary(run)

    def change(share: float, inputs: Inputs, index: int) -> Inputs:
        tokens, rest = first(inputs)
        return whole(replaced(tokens, share, size, special, run.draws("tokens", index)), rest)

    return {f"{100 * share:g}%": run.metric(partial(change, share)) for share in shares}


def vocabulary(run: Trained) -> tuple[int, int]:
    """Size of the vocabulary, and how many special tokens it begins with.

    Raises:
        UserError: there is none, or it has fewer than two ordinary tokens.
    """
    import sys

    tokenizer = getattr(run.task, "tokenizer", None)
    specials = getattr(sys.modules[type(run.task).__module__], "SPECIALS", None)
    if tokenizer is None or specials is None:
        raise UserError(f"token-corruption: the models of the task {run.config.task} read no text.")
    size = int(tokenizer.size)
    if size < len(specials) + 2:
        raise UserError(
            f"token-corruption: the vocabulary has {size} tokens, of which {len(specials)} are "
            "special; two others are needed."
        )
    return size, len(specials)


def replaced(
    tokens: Tensor, share: float, size: int, special: int, random: torch.Generator
) -> Tensor:
    """`tokens` with a share of the ordinary ones replaced, each by another ordinary one.

    >>> import torch
    >>> tokens = torch.full((1000,), 5)
    >>> new = replaced(tokens, 0.1, 20, 2, torch.Generator().manual_seed(0))
    >>> changed = new != tokens
    >>> int(new.min()) >= 2, 70 < int(changed.sum()) < 130
    (True, True)
    """
    import torch

    chance = torch.rand(tokens.shape, generator=random)
    # A step of 1 .. n - 1 round the ring of the n ordinary tokens leads to each other one.
    ordinary = size - special
    step = torch.randint(1, ordinary, tokens.shape, generator=random)
    other = (tokens - special + step) % ordinary + special
    return torch.where((chance < share) & (tokens >= special), other, tokens)
