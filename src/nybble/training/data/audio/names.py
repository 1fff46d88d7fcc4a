"""File names that carry the labels: `{label}_{speaker}_{index}.wav`, as the Free Spoken Digit
Dataset and many small sets have them. A label may hold underscores, speaker and index may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NameParts:
    """What a file's name says."""

    label: str
    speaker: str
    index: int


def parse_name(path: Path) -> NameParts | None:
    """The parts of the file's name, or None if it has not this form.

    >>> parse_name(Path("turn_left_anna_12.wav"))
    NameParts(label='turn_left', speaker='anna', index=12)
    >>> parse_name(Path("anna.wav")) is None
    True
    """
    parts = path.stem.rsplit("_", 2)
    if len(parts) != 3 or not all(parts) or not (parts[2].isascii() and parts[2].isdigit()):
        return None
    return NameParts(parts[0], parts[1], int(parts[2]))
