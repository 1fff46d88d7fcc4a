"""Pairs of texts for translation: `pairs:FILE,FILE` or `pairs:DIR`.

    pairs:A,B      two aligned files, line i of A translates to line i of B; of every twenty pairs
                   the first is test and the eleventh validation
    pairs:DIR      DIR/train.X and DIR/train.Y, DIR/test.X and DIR/test.Y, perhaps valid.X and
                   valid.Y, as in train.en and train.de; from the ending that comes first in the
                   alphabet to the other one

Files of different lengths are refused. A pair with an empty side is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nybble.errors import UserError
from nybble.training.data.base import Found, Source
from nybble.training.data.text.base import PairData, require_parts
from nybble.training.data.text.files import read_lines

Pairs = tuple[tuple[str, str], ...]


def load(argument: str, options: object = None) -> PairData:
    """Read two aligned files, or a folder of them."""
    first, comma, second = argument.partition(",")
    name = f"pairs:{argument}"
    if comma:
        pairs, left_out = align(Path(first), Path(second))
        languages = (_ending(first), _ending(second))
        data = split_pairs(name, pairs, languages, left_out)
        return data
    return _load_folder(Path(argument), name)


def align(first: Path, second: Path) -> tuple[Pairs, int]:
    """The pairs of two aligned files, and how many had an empty side."""
    a, b = read_lines(first), read_lines(second)
    if len(a) != len(b):
        raise UserError(
            f"{first} has {len(a)} lines and {second} has {len(b)}: line {min(len(a), len(b)) + 1} "
            "has no translation; the two files must be aligned line by line."
        )
    return without_empty(zip(a, b, strict=True))


def without_empty(pairs: object) -> tuple[Pairs, int]:
    """Pairs with single spaces; those with an empty side are left out and counted."""
    kept, left_out = [], 0
    for source, target in pairs:  # type: ignore[attr-defined]
        pair = " ".join(source.split()), " ".join(target.split())
        if all(pair):
            kept.append(pair)
        else:
            left_out += any(pair)
    return tuple(kept), left_out


def split_pairs(
    name: str, pairs: Sequence[tuple[str, str]], languages: tuple[str, str], left_out: int = 0
) -> PairData:
    """Of every twenty pairs the first is test, the eleventh validation, the others training."""
    test = tuple(pairs[0::20])
    valid = tuple(pairs[10::20])
    train = tuple(pair for index, pair in enumerate(pairs) if index % 10)
    require_parts(name, training=train, test=test)
    notes = ("of every twenty pairs the first is test, the eleventh validation",)
    return PairData(name, train, valid, test, languages, notes + note_left_out(left_out))


def note_left_out(count: int) -> tuple[str, ...]:
    """The note about pairs with an empty side; nothing if there were none."""
    return (f"{count} pairs with an empty side left out",) if count else ()


def _load_folder(folder: Path, name: str) -> PairData:
    if not folder.is_dir():
        raise UserError(
            f"{name}: {folder} is no folder; write pairs:FILE,FILE for two aligned files, or "
            "pairs:DIR with train.X, train.Y, test.X and test.Y."
        )
    endings = sorted({path.suffix for path in folder.glob("train.*") if path.is_file()})
    if len(endings) != 2:
        raise UserError(
            f"{name}: {folder} must hold two files train.*, one a language (train.en, train.de); "
            f"it holds {', '.join('train' + ending for ending in endings) or 'none'}."
        )
    parts: dict[str, Pairs] = {"valid": ()}
    left_out = 0
    for part in ("train", "valid", "test"):
        paths = [folder / f"{part}{ending}" for ending in endings]
        there = [path for path in paths if path.is_file()]
        if part == "valid" and not there:
            continue
        if len(there) != 2:
            missing = next(path for path in paths if path not in there)
            raise UserError(f"{name}: {missing} is missing.")
        parts[part], count = align(*paths)
        left_out += count
    require_parts(name, training=parts["train"], test=parts["test"])
    languages = (endings[0][1:], endings[1][1:])
    notes = note_left_out(left_out)
    return PairData(name, parts["train"], parts["valid"], parts["test"], languages, notes)


def _ending(name: str) -> str:
    return Path(name).suffix[1:] or Path(name).name


SOURCE = Source(
    name="pairs",
    usage="pairs:FILE,FILE",
    summary="your translations: two aligned files, or a folder with train.X, train.Y, test.X, ...",
    install="give two aligned files: nybble train translation --data pairs:FILE,FILE",
    load=load,
    find=lambda: Found(None),
    tasks=("translation",),
    argument="required",
    licence="yours",
)
