"""Reader of SWORD text modules (zText, UTF-8, OSIS): the verses of one translation, in order.

A module's folder holds two testaments, `ot` and `nt`, of three files each, little-endian:

    .bzs   a block each: offset and size in .bzz, size when decompressed        <III
    .bzv   a verse each: block, offset in the decompressed block, length        <IIH
    .bzz   the blocks, compressed with zlib

Two modules of the same versification have the same list of verses, so they are aligned by index.
Entries that are no verse (headings) come out empty or as headings do: `clean` leaves only the text
of the verse. Not done: other compressions, ciphered modules, other markup than OSIS.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from nybble.errors import UserError
from nybble.training.data.text.files import decode

_BLOCK = struct.Struct("<III")
_VERSE = struct.Struct("<IIH")
_TESTAMENTS = ("ot", "nt")
_DROPPED = re.compile(r"<(note|title)\b[^>]*?(?:/>|>.*?</\1>)", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}
_ENTITY = re.compile("|".join(_ENTITIES))


def read_module(folder: Path) -> list[str]:
    """Every entry of the module in `folder` as plain text, empty where there is none.

    Raises:
        UserError: a file is missing, cut short or damaged; the file is named.
    """
    return [clean(text) for testament in _TESTAMENTS for text in _entries(folder, testament)]


def clean(markup: str) -> str:
    """The text of a verse: without notes, titles, tags and paragraph signs, single spaces.

    >>> clean('<title>Psalm 1</title><w lemma="x">God</w> <i>is</i> &amp; was.<note>a</note> ¶')
    'God is & was.'
    """
    text = _TAG.sub("", _DROPPED.sub("", markup)).replace("¶", " ")
    return " ".join(_ENTITY.sub(lambda match: _ENTITIES[match[0]], text).split())


def _entries(folder: Path, testament: str) -> list[str]:
    blocks_path, verses_path, data_path = (
        folder / f"{testament}.{ending}" for ending in ("bzs", "bzv", "bzz")
    )
    table, verses, data = (_read(path) for path in (blocks_path, verses_path, data_path))
    for path, content, unit in ((blocks_path, table, 12), (verses_path, verses, 10)):
        if len(content) % unit:
            raise UserError(f"{path} is damaged: {len(content)} bytes are not entries of {unit}.")
    blocks: dict[int, bytes] = {}
    entries = []
    for index, (block, offset, length) in enumerate(_VERSE.iter_unpack(verses)):
        if length == 0:
            entries.append("")
            continue
        if block not in blocks:
            blocks[block] = _block(block, table, data, data_path)
        raw = blocks[block][offset : offset + length]
        if len(raw) != length:
            raise UserError(f"{verses_path} is damaged: entry {index} ends outside its block.")
        entries.append(decode(raw, f"{data_path}, entry {index}"))
    return entries


def _block(number: int, table: bytes, data: bytes, path: Path) -> bytes:
    if (number + 1) * _BLOCK.size > len(table):
        raise UserError(f"{path.with_suffix('.bzv')} is damaged: there is no block {number}.")
    start, size, raw_size = _BLOCK.unpack_from(table, number * _BLOCK.size)
    try:
        raw = zlib.decompress(data[start : start + size])
    except zlib.error as error:
        raise UserError(f"{path} is damaged: block {number}: {error}.") from None
    if len(raw) != raw_size:
        raise UserError(f"{path} is damaged: block {number} has {len(raw)} bytes, not {raw_size}.")
    return raw


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
