"""Text files, read strictly: UTF-8 (a byte order mark is allowed), errors with file and line."""

from __future__ import annotations

from pathlib import Path

from nybble.errors import UserError


def read_text(path: Path) -> str:
    """The whole file; UserError when it cannot be read, is not UTF-8 or holds nothing."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    text = decode(raw, str(path))
    if not text.strip():
        raise UserError(f"{path} is empty: there is no text in it.")
    return text


def decode(raw: bytes, where: str) -> str:
    """UTF-8 bytes as text; UserError naming the line of the first byte that is not UTF-8."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; convert the file "
            f"(for example with `iconv -f latin1 -t utf-8`)."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{where}, line {line}: a zero byte; this is not a text file.")
    return text


def split_lines(text: str) -> list[str]:
    r"""Lines without their ends. Only \n, \r\n and \r end a line, so that two aligned files stay
    aligned whatever other separators their text holds.

    >>> split_lines("a\u2028b\r\nc\n")
    ['a\u2028b', 'c']
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_lines(path: Path) -> list[str]:
    """Every line of a UTF-8 file, empty ones included."""
    return split_lines(read_text(path))
