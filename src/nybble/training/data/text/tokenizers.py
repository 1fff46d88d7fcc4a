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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

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

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready, for `restore_tokenizer`."""
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
        return WordTokenizer.trained(texts, size, specials)
    if kind == "char":
        return CharTokenizer.trained(texts, size, specials)
    if kind == "bpe":
        return BpeTokenizer.trained(texts, size, specials)
    raise UserError(f"Unknown tokens '{kind}'; choose one of {', '.join(KINDS)}.")


def restore_tokenizer(record: Mapping[str, Any], specials: tuple[str, ...]) -> Tokenizer:
    """The tokenizer whose `to_dict` gave `record`.

    >>> words = train_tokenizer("word", ["a b a"], 4, ("<unk>", "<eos>"))
    >>> restore_tokenizer(words.to_dict(), ("<unk>", "<eos>")).encode("b a c")
    [3, 2, 0]
    """
    if record["kind"] == "bpe":
        return BpeTokenizer(_engine(str(record["engine"])), specials)
    if record["kind"] == "char":
        return CharTokenizer(list(record["tokens"]), specials)
    return WordTokenizer(list(record["tokens"]), specials)


class WordTokenizer:
    """Words between spaces."""

    kind = "word"

    @classmethod
    def trained(cls, texts: Sequence[str], size: int, specials: tuple[str, ...]) -> Self:
        """The most frequent words of the texts."""
        counts = Counter(word for text in texts for word in text.split())
        for special in specials:
            counts.pop(special, None)
        return cls([*specials, *_most_frequent(counts, size - len(specials))], specials)

    def __init__(self, tokens: list[str], specials: tuple[str, ...]) -> None:
        self.specials = specials
        self.tokens = tokens
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

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokens": self.tokens}


class CharTokenizer:
    """Single characters."""

    kind = "char"

    @classmethod
    def trained(cls, texts: Sequence[str], size: int, specials: tuple[str, ...]) -> Self:
        """The most frequent characters of the texts."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return cls([*specials, *_most_frequent(counts, size - len(specials))], specials)

    def __init__(self, tokens: list[str], specials: tuple[str, ...]) -> None:
        self.specials = specials
        self.tokens = tokens
        self.size = len(self.tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens) if i >= len(specials)}
        self._unknown = specials.index(UNKNOWN)

    def encode(self, text: str) -> list[int]:
        unknown = self._unknown
        get = self._ids.get
        return [get(character, unknown) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(_spoken(self.tokens, self.specials, ids))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokens": self.tokens}


class BpeTokenizer:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2), trained by `tokenizers`."""

    kind = "bpe"

    @classmethod
    def trained(cls, texts: Sequence[str], size: int, specials: tuple[str, ...]) -> Self:
        """Merges learned from the texts."""
        _need_library()
        from tokenizers import Tokenizer as Engine
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if size < len(specials) + 257:
            raise UserError(
                f"A vocabulary of {size} is too small for BPE: it holds all 256 bytes and "
                f"{len(specials)} special tokens."
            )
        engine: Any = Engine(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(specials),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        engine.train_from_iterator(texts, trainer)
        return cls(engine, specials)

    def __init__(self, engine: Any, specials: tuple[str, ...]) -> None:
        # Special tokens are kept out of the library, which would find them inside texts.
        self.specials = specials
        self._engine = engine
        self.size = len(specials) + engine.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        first = len(self.specials)
        return [first + index for index in self._engine.encode(text).ids]

    def decode(self, ids: Iterable[int]) -> str:
        first = len(self.specials)
        text: str = self._engine.decode([index - first for index in ids if index >= first])
        return text.strip()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "engine": self._engine.to_str()}


def _need_library() -> None:
    if importlib.util.find_spec("tokenizers") is None:
        raise UserError(f"BPE needs the tokenizers library. Install it with: {INSTALL}")


def _engine(text: str) -> Any:
    _need_library()
    from tokenizers import Tokenizer as Engine

    return Engine.from_str(text)


def _most_frequent(counts: Counter[str], size: int) -> list[str]:
    if size < 1:
        raise UserError("The vocabulary is too small: it must hold more than the special tokens.")
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [token for token, _ in ordered[:size]]


def _spoken(tokens: list[str], specials: tuple[str, ...], ids: Iterable[int]) -> list[str]:
    silent = {index for index, token in enumerate(specials) if token != UNKNOWN}
    return [tokens[index] for index in ids if index not in silent]
