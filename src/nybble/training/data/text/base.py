"""What a set of texts is: lines for a language model, pairs for translation, labelled texts.

Each holds Python strings in three parts (training, validation, test); tokens are made of them by
`tokenizers.py`, once, when a task is made. `notes` say what a reader of the result should know: how
the set was split, what was left out and how many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from nybble.errors import UserError


@dataclass(frozen=True)
class TextOptions:
    """How a loader of running text splits it: "" is the set's own way; docs/language.md has the
    others, of sets that have them."""

    split: str = ""


def refuse_split(name: str, options: object) -> None:
    """UserError where another split than the set's own is asked for, and there is none."""
    split = options.split if isinstance(options, TextOptions) else ""
    if split not in ("", "official"):
        raise UserError(f"{name} has no split '{split}'; it has one: official.")


@dataclass(frozen=True)
class TextData:
    """Running text: every entry is one line (a sentence), words separated by spaces."""

    name: str
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairData:
    """Pairs (source text, target text)."""

    name: str
    train: tuple[tuple[str, str], ...]
    valid: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    languages: tuple[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelData:
    """Texts with one of `classes` each: (text, index of the class)."""

    name: str
    train: tuple[tuple[str, int], ...]
    valid: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def require_parts(name: str, **parts: object) -> None:
    """UserError when one of the named parts is empty."""
    for part, content in parts.items():
        if not content:
            raise UserError(f"{name}: the {part} set holds no text.")


def fingerprint(*parts: Iterable[object]) -> str:
    """SHA-256 of every text and label of all parts, so that a changed data set is noticed.

    >>> fingerprint(["a", "b"], ["c"]) == fingerprint(["a"], ["b", "c"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        for entry in part:
            digest.update(repr(entry).encode())
        digest.update(b"\n")
    return digest.hexdigest()
