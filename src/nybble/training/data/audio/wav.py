"""Reading sound files: mono, 16-bit, one sampling rate; a file that does not fit is named.

    several channels    their mean
    another rate        scipy.signal.resample_poly by the reduced fraction wanted / given
    8, 24, 32 bits and floats    brought to 16 bits, rounded to nearest, clipped at full scale

WAV is read by scipy; a WAV in a coding that scipy does not know (mu-law, ADPCM) and other kinds
(.flac, .ogg, .mp3) by soundfile, an optional package. A WAV that ends before its header says is
refused: half a word under the label of a whole one is no training example. A file without samples
is refused as well; silence is not (`is_silent` finds it).
"""

from __future__ import annotations

import importlib.util
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nybble.errors import UserError

EXTENSIONS = frozenset((".wav", ".flac", ".ogg", ".mp3"))
INSTALL = "pip install soundfile"
Samples = NDArray[np.int16]


def sound_files(folder: Path) -> list[Path]:
    """Every sound file below `folder`, sorted; names that begin with a dot are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def read_sound(path: Path) -> tuple[Samples, int]:
    """The file's samples as mono int16 [T], T > 0, and its sampling rate.

    Raises:
        UserError: the file is missing, damaged, cut off, of an unknown kind or without samples.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise UserError(f"{path} is no sound file ({', '.join(sorted(EXTENSIONS))}).")
    if not path.is_file():
        raise UserError(f"The sound file {path} does not exist.")
    values, rate = _read_wav(path) if path.suffix.lower() == ".wav" else _read_other(path)
    if rate < 1:
        raise UserError(f"The sound file {path} has the sampling rate {rate}.")
    if values.shape[0] == 0:
        raise UserError(f"The sound file {path} holds no samples; remove it.")
    if not np.isfinite(values).all():
        raise UserError(f"The sound file {path} holds samples that are NaN or infinite.")
    mono = values.mean(axis=1) if values.ndim == 2 else values
    return _sixteen_bits(mono), rate


def resample(samples: Samples, given: int, wanted: int) -> Samples:
    """`samples` at the rate `wanted`.

    >>> resample(np.zeros(160, dtype=np.int16), 16000, 8000).shape
    (80,)
    """
    if given == wanted:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(given, wanted)
    wide = samples.astype(np.float64) / 32768
    return _sixteen_bits(resample_poly(wide, wanted // common, given // common))


def is_silent(samples: Samples) -> bool:
    """Whether every sample has the same value."""
    return bool((samples == samples[0]).all())


def _sixteen_bits(values: NDArray[Any]) -> Samples:
    """Samples in [-1, 1) as int16."""
    samples: Samples = np.clip(np.rint(values * 32768), -32768, 32767).astype(np.int16)
    return samples


def _read_wav(path: Path) -> tuple[NDArray[Any], int]:
    """Samples in [-1, 1), [T] or [T, channels], and the rate."""
    from scipy.io import wavfile

    _check_whole(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # unknown chunks: no harm
            rate, raw = wavfile.read(path)
    except (OSError, EOFError, ValueError, TypeError, struct.error, ZeroDivisionError) as error:
        unknown = "Unknown wave file format" in str(error)
        if unknown and importlib.util.find_spec("soundfile") is not None:
            return _read_other(path)
        advice = f" Install a reader for it with: {INSTALL}" if unknown else ""
        raise UserError(f"The sound file {path} cannot be read: {error}.{advice}") from None
    return _unit_range(raw, path), int(rate)


def _unit_range(raw: NDArray[Any], path: Path) -> NDArray[Any]:
    if raw.dtype == np.uint8:
        return (raw.astype(np.float64) - 128) / 128
    if raw.dtype.kind == "i":  # 24 bits come in the upper bytes of 32
        return raw.astype(np.float64) / 2.0 ** (8 * raw.dtype.itemsize - 1)
    if raw.dtype.kind == "f":
        return raw.astype(np.float64)
    raise UserError(f"The sound file {path} has samples of type {raw.dtype}.")


def _check_whole(path: Path) -> None:
    """UserError if the file is no RIFF WAVE, or its data chunk is longer than the file."""
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:] != b"WAVE":
            raise UserError(f"The sound file {path} is no WAV file (its first bytes say so).")
        end = path.stat().st_size
        order = ">" if head[:4] == b"RIFX" else "<"
        while file.tell() + 8 <= end:
            name, size = struct.unpack(f"{order}4sI", file.read(8))
            rest = end - file.tell()
            if name == b"data":
                unknown = size == 0xFFFFFFFF  # RF64, or written to a pipe
                if size > rest and not unknown:
                    raise UserError(
                        f"The sound file {path} is cut off: its header promises {size} bytes of "
                        f"sound, it holds {rest}."
                    )
                return
            file.seek(size + size % 2, 1)
    raise UserError(f"The sound file {path} holds no samples (no data chunk); remove it.")


def _read_other(path: Path) -> tuple[NDArray[Any], int]:
    if importlib.util.find_spec("soundfile") is None:
        raise UserError(f"Reading {path} needs the package soundfile. Install it with: {INSTALL}")
    import soundfile

    try:
        values, rate = soundfile.read(path, dtype="float64", always_2d=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The sound file {path} cannot be read: {error}.") from None
    return values, int(rate)
