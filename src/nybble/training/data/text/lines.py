"""A folder of running text: `text:DIR` with train.txt, valid.txt and test.txt.

The format of the Penn Treebank language model: a sentence a line, words separated by spaces, rare
words already written `<unk>`; empty lines are passed over. The text is taken as it is: for a word
model it should be in tokens, for characters and BPE it may be ordinary text. valid.txt is optional.
"""

from __future__ import annotations

from pathlib import Path

from nybble.errors import UserError
from nybble.training.data.base import Found, Source
from nybble.training.data.text.base import TextData, refuse_split
from nybble.training.data.text.files import read_lines

FILES = ("train.txt", "valid.txt", "test.txt")


def load(argument: str, options: object = None) -> TextData:
    """Read the folder; UserError naming the file that is missing or cannot be used."""
    refuse_split(f"text:{argument}", options)
    folder = Path(argument)
    if not folder.is_dir():
        raise UserError(f"The folder {folder} of text:{argument} does not exist.")
    parts: list[tuple[str, ...]] = []
    for name in FILES:
        path = folder / name
        if name == "valid.txt" and not path.exists():
            parts.append(())
            continue
        if not path.is_file():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
            raise UserError(
                f"{folder} has no {name} (it holds {there}); it needs train.txt and test.txt."
            )
        lines = (" ".join(line.split()) for line in read_lines(path))
        parts.append(tuple(line for line in lines if line))
    return TextData(f"text:{folder.name}", *parts)


SOURCE = Source(
    name="text",
    usage="text:DIR",
    summary="your text: DIR/train.txt, valid.txt, test.txt, a sentence a line",
    install="write train.txt and test.txt into a folder: nybble train language --data text:DIR",
    load=load,
    find=lambda: Found(None),
    tasks=("language",),
    argument="required",
    licence="yours",
)
