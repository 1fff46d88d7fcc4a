"""Text to integers: words, characters, or byte-pair encoding.

    word   split at spaces; the most frequent words of the training set (ties by the alphabet), all
           others are <unk>
    char   the characters of the training set; a character seen only later is <unk>
    bpe    byte-level BPE trained on the training set by the `tokenizers` library (an extra); every
           text can be written in it

The special tokens a task needs come first, so they have small fixed numbers; they are numbers only,
never recognised in a text (except <unk> in word files that were prepared with it, as the Penn
Treebank's are).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from nybble.errors import UserError

KINDS = ("word", "char", "bpe")
UNKNOWN = "<unk>"
INSTALL = "pip install 'nybble[language]'"


class Tokenizer(Protocol):
    """Encodes and decodes; `size` counts the special tokens too."""

    kind: str
    size: int

    def encode(self, text: str) -> list[int]:
        """The numbers of a text, without special tokens at its ends."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the numbers; special tokens but <unk> are left out."""
        ...


def train_tokenizer(
    kind: str, texts: Sequence[str], size: int, specials: tuple[str, ...]
) -> Tokenizer:
    """Make the tokenizer `kind` of at most `size` tokens from the training texts.

    >>> words = train_tokenizer("word", ["a b a", "c a b"], 4, ("<unk>", "<eos>"))
    >>> words.encode("b a c"), words.decode([2, 1, 0])
    ([3, 2, 0], 'a <unk>')
    """
    if kind == "word":
        return WordTokenizer(texts, size, specials)
    if kind == "char":
        return CharTokenizer(texts, size, specials)
    if kind == "bpe":
        return BpeTokenizer(texts, size, specials)
    raise UserError(f"Unknown tokens '{kind}'; choose one of {', '.join(KINDS)}.")


class WordTokenizer:
    """Words between spaces."""

    kind = "word"

    def __init__(self, texts: Sequence[str], size: int, specials: tuple[str, ...]) -> None:
        counts = Counter(word for text in texts for word in text.split())
        for special in specials:
            counts.pop(special, None)
        self.specials = specials
        self.tokens = [*specials, *_most_frequent(counts, size - len(specials))]
        self.size = len(self.tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        for special in specials:
            if special != UNKNOWN:
                del self._ids[special]
        self._unknown = specials.index(UNKNOWN)

    def encode(self, text: str) -> list[int]:
        unknown = self._unknown
        get = self._ids.get
        return [get(word, unknown) for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(_spoken(self.tokens, self.specials, ids))


class CharTokenizer:
    """Single characters."""

    kind = "char"

    def __init__(self, texts: Sequence[str], size: int, specials: tuple[str, ...]) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        self.specials = specials
        self.tokens = [*specials, *_most_frequent(counts, size - len(specials))]
        self.size = len(self.tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens) if i >= len(specials)}
        self._unknown = specials.index(UNKNOWN)

    def encode(self, text: str) -> list[int]:
        unknown = self._unknown
        get = self._ids.get
        return [get(character, unknown) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(_spoken(self.tokens, self.specials, ids))


class BpeTokenizer:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2), trained by `tokenizers`."""

    kind = "bpe"

    def __init__(self, texts: Sequence[str], size: int, specials: tuple[str, ...]) -> None:
        if importlib.util.find_spec("tokenizers") is None:
            raise UserError(f"BPE needs the tokenizers library. Install it with: {INSTALL}")
        from tokenizers import Tokenizer as Engine
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if size < len(specials) + 257:
            raise UserError(
                f"A vocabulary of {size} is too small for BPE: it holds all 256 bytes and "
                f"{len(specials)} special tokens."
            )
        # Special tokens are kept out of the library, which would find them inside texts.
        self.specials = specials
        self._engine: Any = Engine(models.BPE())
        self._engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        self._engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(specials),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        self._engine.train_from_iterator(texts, trainer)
        self.size = len(specials) + self._engine.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        first = len(self.specials)
        return [first + index for index in self._engine.encode(text).ids]

    def decode(self, ids: Iterable[int]) -> str:
        first = len(self.specials)
        text: str = self._engine.decode([index - first for index in ids if index >= first])
        return text.strip()


def _most_frequent(counts: Counter[str], size: int) -> list[str]:
    if size < 1:
        raise UserError("The vocabulary is too small: it must hold more than the special tokens.")
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [token for token, _ in ordered[:size]]


def _spoken(tokens: list[str], specials: tuple[str, ...], ids: Iterable[int]) -> list[str]:
    silent = {index for index, token in enumerate(specials) if token != UNKNOWN}
    return [tokens[index] for index in ids if index not in silent]
