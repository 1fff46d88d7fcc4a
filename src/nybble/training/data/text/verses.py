"""Verse pairs, English to Spanish: the King James Version and the Reina-Valera 1909.

Carried by the Debian packages sword-text-kjv and sword-text-sparv, two SWORD modules (`sword.py`)
of one versification, 31,000 aligned verses; both are in the public domain, and both are archaic.
Looked for in /usr/share/sword, ~/.sword and the folders of SWORD_PATH; `verses:DIR` names another
folder, one that holds modules/. Of every twenty verses the first is test, the eleventh validation.
Everything is in lower case. `verses-short` is the part of at most 16 words a side, split in the
same way: what a small model learns something of within minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

from nybble.errors import UserError
from nybble.training.data.base import Found, Source
from nybble.training.data.text.base import PairData
from nybble.training.data.text.pairs import split_pairs, without_empty
from nybble.training.data.text.sword import read_module

INSTALL = "apt-get install sword-text-kjv sword-text-sparv"
SHORT = 16
"""Words a side that `verses-short` allows."""
_TEXTS = Path("modules", "texts", "ztext")
MODULES = ("engKJV2006eb", "spaRV1909eb")


def find() -> Found:
    """Look where Debian and the SWORD library put modules."""
    places = [Path("/usr/share/sword"), Path.home() / ".sword"]
    places += [Path(p) for p in os.environ.get("SWORD_PATH", "").split(os.pathsep) if p]
    there = next((place for place in places if _complete(place)), None)
    return Found(
        str(there) if there else None,
        tuple(str(place / _TEXTS) for place in places),
    )


def load(argument: str = "", options: object = None, words: int | None = None) -> PairData:
    """Read and align both modules; with `words`, only pairs of at most that many words a side."""
    folder = argument or find().path
    if folder is None:
        raise UserError(f"The data set verses is not installed. Install it with: {INSTALL}")
    if not _complete(Path(folder)):
        raise UserError(
            f"{folder} does not hold both {_TEXTS / MODULES[0]} and {_TEXTS / MODULES[1]}. "
            f"Install them with: {INSTALL}"
        )
    english, spanish = (read_module(Path(folder) / _TEXTS / module) for module in MODULES)
    if len(english) != len(spanish):
        raise UserError(
            f"The modules in {folder} do not share one versification: {MODULES[0]} has "
            f"{len(english)} entries, {MODULES[1]} {len(spanish)}. Install: {INSTALL}"
        )
    lowered = ((a.lower(), b.lower()) for a, b in zip(english, spanish, strict=True))
    pairs, left_out = without_empty(lowered)
    if words is None:
        return split_pairs("verses", pairs, ("en", "es"), left_out)
    short = [pair for pair in pairs if all(len(side.split()) <= words for side in pair)]
    return split_pairs("verses-short", short, ("en", "es"))


def load_short(argument: str = "", options: object = None) -> PairData:
    """The short verses only: at most `SHORT` words a side."""
    return load(argument, options, SHORT)


def _complete(place: Path) -> bool:
    return all((place / _TEXTS / module / "ot.bzs").is_file() for module in MODULES)


VERSES = Source(
    name="verses",
    usage="verses",
    summary="31,000 pairs of Bible verses, English and Spanish, archaic: one in twenty is test",
    install=INSTALL,
    tasks=("translation",),
    load=load,
    find=find,
    argument="optional",
    licence="public domain",
)
SHORT_VERSES = Source(
    name="verses-short",
    usage="verses-short",
    summary=f"those of at most {SHORT} words a side, 6,700 pairs",
    install=INSTALL,
    tasks=("translation",),
    load=load_short,
    find=find,
    argument="optional",
    licence="public domain",
)
SOURCES = (VERSES, SHORT_VERSES)
