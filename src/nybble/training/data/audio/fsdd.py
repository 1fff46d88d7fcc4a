"""Free Spoken Digit Dataset: `fsdd:PATH`, 10 digits by 6 speakers, 50 times each, 8 kHz.

PATH is a clone of the public set (a folder with `recordings/{label}_{speaker}_{index}.wav`, or that
folder itself), or one .npz file of arrays x int16 [N, T] (recordings at 8 kHz, padded with zeros at
the end), y (labels), s (speakers), i (indices). `fsdd` alone takes the clone from the folder
free-spoken-digit-dataset below the current one, or beside it.

Every recording is cut after one second and its zeros at the end are dropped, so both forms give the
same samples. Splits: the official one (index below 5 is test), `index:N` (below N), or
`speakers:theo,nicolas`, who are heard in the test only. `digits:...` (connected_digits.py) makes
sentences of the same recordings.
CC BY-SA 4.0, Zohar Jackson and others.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nybble.errors import UserError
from nybble.training.data.audio.base import (
    Recording,
    SoundOptions,
    SpeechData,
    by_speakers,
    make_labelled,
    read_all,
    split_by_speakers,
)
from nybble.training.data.audio.names import parse_name
from nybble.training.data.audio.wav import Samples, resample, sound_files
from nybble.training.data.base import Found, Source

RATE = 8000
TEST_BELOW = 5
CLONE = "free-spoken-digit-dataset"
INSTALL = f"git clone https://github.com/Jakobovski/{CLONE}"


def find() -> Found:
    """Look for a clone below the current folder and beside it."""
    places = [Path(CLONE), Path("..") / CLONE]
    there = next((place for place in places if (place / "recordings").is_dir()), None)
    return Found(None if there is None else str(there), tuple(str(place) for place in places))


def load(argument: str = "", options: SoundOptions | None = None) -> SpeechData:
    """Load and split the digits as labelled recordings."""
    options = options or SoundOptions()
    recordings, indices, rate, notes = read_digits(argument, options)
    is_test, how = split_digits(options.split, recordings, indices)
    return make_labelled("fsdd", rate, recordings, is_test, 1.0, (how, *notes))


def split_digits(
    split: str, recordings: Sequence[Recording], indices: Sequence[int]
) -> tuple[list[bool], str]:
    """Whether each recording is test, and a note that says how it was decided."""
    held_out = split_by_speakers("fsdd", split, [r.speaker for r in recordings])
    if held_out is not None:
        return held_out, f"test: the speakers {split.partition(':')[2]}"
    kind, _, number = split.partition(":")
    if split not in ("", "official") and not (kind == "index" and number.isdecimal()):
        raise UserError(
            f"fsdd has no split '{split}'; choose official, speakers:NAME,NAME or index:N."
        )
    below = int(number) if kind == "index" else TEST_BELOW
    how = f"test: index below {below}" + (" (official)" if below == TEST_BELOW else "")
    return [index < below for index in indices], how


def read_digits(
    argument: str, options: SoundOptions
) -> tuple[list[Recording], list[int], int, tuple[str, ...]]:
    """Every recording, its index, the rate and notes; sorted by label, speaker and index."""
    place = argument or find().path
    if place is None:
        raise UserError(
            f"The data set fsdd is not here (looked in {', '.join(find().looked_in)}). "
            f"Install it with: {INSTALL} (or name the place: fsdd:PATH)"
        )
    path = Path(place)
    if not path.exists():
        raise UserError(f"fsdd:{place} does not exist. Install the set with: {INSTALL}")
    found = _from_archive(path, options) if path.is_file() else _from_clone(path, options)
    recordings, indices, rate, notes = found
    if options.speakers:
        notes += (f"only the speakers {options.speakers}",)
    order = sorted(
        by_speakers("fsdd", options.speakers, [r.speaker for r in recordings]),
        key=lambda k: (recordings[k].label, recordings[k].speaker, indices[k]),
    )
    return [recordings[k] for k in order], [indices[k] for k in order], rate, notes


def _trimmed(samples: Samples, rate: int) -> Samples:
    """At most one second, without the zeros at the end (of silence, one sample stays)."""
    samples = samples[:rate]
    last = np.flatnonzero(samples)
    return samples[: int(last[-1]) + 1 if len(last) else 1]


def _from_clone(
    path: Path, options: SoundOptions
) -> tuple[list[Recording], list[int], int, tuple[str, ...]]:
    folder = path / "recordings" if (path / "recordings").is_dir() else path
    paths = [file for file in sound_files(folder) if file.suffix.lower() == ".wav"]
    if not paths:
        raise UserError(f"{folder} holds no recordings (label_speaker_index.wav).")
    parts = [(parse_name(file), file) for file in paths]
    for part, file in parts:
        if part is None or part.label not in "0123456789":
            raise UserError(f"The name of {file} is not digit_speaker_index.wav, as 7_theo_12.wav.")
    known = [part for part, _ in parts if part is not None]
    position: dict[str, int] = {}

    def make(index: int, samples: Samples) -> Recording:
        part, name = known[index], str(paths[index])
        position[name] = part.index
        return Recording(name, samples, label=part.label, speaker=part.speaker)

    recordings, rate, notes = read_all(paths, make, options)
    cut = [_replaced(recording, rate) for recording in recordings]
    return cut, [position[recording.name] for recording in recordings], rate, notes


def _replaced(recording: Recording, rate: int) -> Recording:
    return Recording(
        recording.name, _trimmed(recording.samples, rate), recording.label, recording.speaker
    )


def _from_archive(
    path: Path, options: SoundOptions
) -> tuple[list[Recording], list[int], int, tuple[str, ...]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x", "y", "s", "i")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as an .npz of the arrays x, y, s and i: {error}."
        ) from None
    x, y, s, i = (arrays[key] for key in ("x", "y", "s", "i"))
    if x.dtype != np.int16 or x.ndim != 2 or not (len(x) == len(y) == len(s) == len(i) > 0):
        shapes = {key: f"{array.dtype}{list(array.shape)}" for key, array in arrays.items()}
        raise UserError(f"{path}: x must be int16 [N, T] and y, s, i of length N; it has {shapes}.")
    rate = options.rate or RATE
    recordings = []
    for row, label, speaker, index in zip(x, y.tolist(), s.tolist(), i.tolist(), strict=True):
        samples = _trimmed(_trimmed(row, RATE) if rate == RATE else resample(row, RATE, rate), rate)
        name = f"{path}[{label}_{speaker}_{index}]"
        recordings.append(Recording(name, samples, label=str(label), speaker=str(speaker)))
    return recordings, [int(index) for index in i.tolist()], rate, ()


SOURCE = Source(
    name="fsdd",
    usage="fsdd:PATH",
    summary="3,000 spoken digits by 6 speakers: a clone of the public set, or its .npz",
    install=INSTALL,
    load=load,
    find=find,
    tasks=("speech",),
    argument="optional",
    licence="CC BY-SA 4.0",
)
