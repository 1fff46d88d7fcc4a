"""From the output of a recogniser to text, and its errors.

    greedy decoding      the likeliest character of every frame, repeats joined, blanks removed
    errors               word and character error rates through jiwer: (substitutions + deletions +
                         insertions) / length of the reference, over the whole test set

Not done: beam search, a language model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from nybble.errors import UserError

BLANK = 0
INSTALL = "pip install jiwer"


def need_jiwer() -> None:
    """UserError when jiwer is missing."""
    if importlib.util.find_spec("jiwer") is None:
        raise UserError(f"The word error rate needs the package jiwer. Install it with: {INSTALL}")


def greedy_decode(logits: Tensor, lengths: Tensor, alphabet: Sequence[str]) -> list[str]:
    """Texts of logits [N, T, 1 + len(alphabet)], class 0 being the blank.

    >>> path = torch.tensor([[1, 1, 0, 1, 2, 0, 0]])
    >>> greedy_decode(torch.nn.functional.one_hot(path, 3), torch.tensor([6]), "ab")
    ['aab']
    """
    texts = []
    for row, length in zip(logits.argmax(2), lengths.tolist(), strict=True):
        path = torch.unique_consecutive(row[:length])
        texts.append("".join(alphabet[k - 1] for k in path.tolist() if k != BLANK).strip())
    return texts


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int, int, int]:
    """(word errors, words, character errors, characters) over all pairs."""
    import jiwer

    words = jiwer.process_words(list(references), list(hypotheses))
    chars = jiwer.process_characters(list(references), list(hypotheses))
    return (*_counts(words), *_counts(chars))


def _counts(found: object) -> tuple[int, int]:
    hits, substitutions, deletions, insertions = (
        int(getattr(found, name)) for name in ("hits", "substitutions", "deletions", "insertions")
    )
    return substitutions + deletions + insertions, hits + substitutions + deletions


class Alphabet:
    """Characters and their classes; class 0 is the blank of CTC.

    >>> alphabet = Alphabet(["ab", "a c"])
    >>> alphabet.characters, alphabet.encode("cab").tolist(), len(alphabet)
    (' abc', [4, 2, 3], 5)
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.characters = "".join(sorted(set("".join(texts))))
        self._class = {c: k for k, c in enumerate(self.characters, start=1)}

    def __len__(self) -> int:
        return len(self.characters) + 1

    def within(self, trained: str, name: str) -> Alphabet:
        """The alphabet `trained` of a model, if it has every character of this one."""
        if other := sorted(set(self.characters) - set(trained)):
            raise UserError(
                f"The transcripts of {name} have the character '{other[0]}', which the model was "
                f"not trained on; it knows '{trained}'."
            )
        return Alphabet([trained])

    def encode(self, text: str) -> Tensor:
        """int64 classes of the text; characters that were not trained on are left out."""
        return torch.tensor([self._class[c] for c in text if c in self._class], dtype=torch.int64)

    def unknown(self, text: str) -> str:
        """The characters of `text` that the alphabet does not have."""
        return "".join(sorted(set(text) - set(self.characters)))


def frames_needed(classes: Tensor) -> int:
    """How many frames CTC needs at least: one a character, one more between two equal ones.

    >>> frames_needed(torch.tensor([3, 3, 1]))
    4
    """
    return len(classes) + int((classes[1:] == classes[:-1]).sum())
