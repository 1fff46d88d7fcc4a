"""What a set of recordings is: all samples as one int16 tensor, with labels or transcripts.

The whole set stays in memory as 16-bit samples (150 minutes at 8 kHz: 144 MB).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.training.data.audio.wav import Samples, is_silent, read_sound, resample


@dataclass(frozen=True)
class SoundOptions:
    """How a loader treats what it finds.

    split: how training and test recordings are told apart: "" is the set's own way, and
    "speakers:a,b" tests on these speakers and trains on the others.
    rate: the sampling rate to bring every recording to; None is the set's own (of a folder: that
    of most of its files).
    on_corrupt: "stop" or "skip", for a file that cannot be read.
    speakers: "a,b" leaves out the recordings of everybody else; "" leaves out none.
    """

    split: str = ""
    rate: int | None = None
    on_corrupt: str = "stop"
    speakers: str = ""

    def __post_init__(self) -> None:
        if self.on_corrupt not in ("stop", "skip"):
            raise UserError(f"on_corrupt must be 'stop' or 'skip', not '{self.on_corrupt}'.")
        if self.rate is not None and not 1000 <= self.rate <= 192_000:
            raise UserError(f"rate must be between 1000 and 192000 Hz, not {self.rate}.")


@dataclass(frozen=True)
class Recording:
    """One recording: its name for messages, samples, and what is known about it."""

    name: str
    samples: Samples
    label: str = ""
    speaker: str = ""
    text: str = ""


@dataclass(frozen=True)
class SpeechData:
    """Recordings with labels (`classes` is not empty) or with transcripts (`texts`).

    samples: int16, all recordings one after the other; starts: int64 [N + 1].
    train, test: int64 indices of recordings.
    labels: int64 [N], values in [0, len(classes)), or zeros. speakers: [N], "" where unknown.
    seconds: the window that suits recordings with labels.
    notes: what a reader of the result should know (how it was split, files left out).
    """

    name: str
    rate: int
    samples: Tensor
    starts: Tensor
    names: tuple[str, ...]
    train: Tensor
    test: Tensor
    labels: Tensor
    speakers: tuple[str, ...]
    classes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    seconds: float = 1.0
    notes: tuple[str, ...] = ()

    def recording(self, index: int) -> Tensor:
        """The samples of one recording, float32 [T] in [-1, 1)."""
        start, stop = int(self.starts[index]), int(self.starts[index + 1])
        return self.samples[start:stop].to(torch.float32) / 32768

    def fingerprint(self) -> str:
        """SHA-256 of samples, labels, texts and split, so that a changed set is noticed."""
        digest = hashlib.sha256()
        for tensor in (self.samples, self.starts, self.labels, self.train, self.test):
            digest.update(str(list(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update("\0".join(self.texts).encode())
        return digest.hexdigest()


def make_labelled(
    name: str,
    rate: int,
    recordings: Sequence[Recording],
    is_test: Sequence[bool],
    seconds: float,
    notes: tuple[str, ...] = (),
) -> SpeechData:
    """Check and join labelled recordings; classes are the labels in alphabetical order.

    Raises:
        UserError: no recordings, one class only, or a class without a training recording.
    """
    _check_parts(name, is_test)
    classes = tuple(sorted({recording.label for recording in recordings}))
    if len(classes) < 2:
        raise UserError(
            f"{name}: there is one class only ({', '.join(classes)}); a classifier needs two."
        )
    for label in classes:
        of_class = [test for r, test in zip(recordings, is_test, strict=True) if r.label == label]
        if all(of_class):
            raise UserError(
                f"{name}: the class '{label}' has no training recording, only {len(of_class)} to "
                "test on; choose another split."
            )
    number = {label: index for index, label in enumerate(classes)}
    labels = torch.tensor([number[recording.label] for recording in recordings])
    return SpeechData(
        name,
        rate,
        **_joined(recordings, is_test),
        labels=labels,
        classes=classes,
        seconds=seconds,
        notes=notes + _silence_note(recordings),
    )


def make_transcribed(
    name: str,
    rate: int,
    recordings: Sequence[Recording],
    is_test: Sequence[bool],
    notes: tuple[str, ...] = (),
) -> SpeechData:
    """Check and join recordings with transcripts."""
    _check_parts(name, is_test)
    return SpeechData(
        name,
        rate,
        **_joined(recordings, is_test),
        labels=torch.zeros(len(recordings), dtype=torch.int64),
        texts=tuple(recording.text for recording in recordings),
        notes=notes + _silence_note(recordings),
    )


def _check_parts(name: str, is_test: Sequence[bool]) -> None:
    for part, wanted in (("training", False), ("test", True)):
        if wanted not in is_test:
            raise UserError(
                f"{name}: the {part} set holds no recordings ({len(is_test)} in all); choose "
                "another split."
            )


def _joined(recordings: Sequence[Recording], is_test: Sequence[bool]) -> dict[str, Any]:
    lengths = torch.tensor([0] + [len(recording.samples) for recording in recordings])
    test = torch.tensor(list(is_test))
    return {
        "samples": torch.from_numpy(np.concatenate([r.samples for r in recordings])),
        "starts": lengths.cumsum(0),
        "names": tuple(recording.name for recording in recordings),
        "speakers": tuple(recording.speaker for recording in recordings),
        "train": torch.nonzero(~test).flatten(),
        "test": torch.nonzero(test).flatten(),
    }


def _silence_note(recordings: Sequence[Recording]) -> tuple[str, ...]:
    silent = [r.name for r in recordings if is_silent(r.samples)]
    return (f"{len(silent)} recordings are silent: {some(silent)}",) if silent else ()


# ---- reading many files ------------------------------------------------------------------------


def read_all(
    paths: Sequence[Path], make: Callable[[int, Samples], Recording], options: SoundOptions
) -> tuple[list[Recording], int, tuple[str, ...]]:
    """Read `paths`, bring them to one rate, and `make` recording i of samples i.

    Returns (recordings, rate, notes). The rate is `options.rate` or that of most files (of two as
    frequent ones the lower).
    """
    found: list[tuple[int, Samples, int]] = []
    corrupt: list[str] = []
    for index, path in enumerate(paths):
        try:
            found.append((index, *read_sound(path)))
        except UserError as error:
            if options.on_corrupt == "stop":
                raise UserError(
                    f"{error} (Files that cannot be read are left out with --on-corrupt skip.)"
                ) from None
            corrupt.append(str(path))
    if not found:
        raise UserError(f"None of the {len(paths)} sound files can be read: {some(corrupt)}.")
    counts = Counter(rate for _, _, rate in found)
    usual = min(counts, key=lambda rate: (-counts[rate], rate))
    rate = options.rate or usual
    recordings = [make(i, resample(samples, given, rate)) for i, samples, given in found]
    notes: tuple[str, ...] = ()
    changed = len(found) - counts[rate]
    if changed:
        notes += (f"{changed} recordings were resampled to {rate} Hz",)
    if corrupt:
        notes += (f"{len(corrupt)} files that cannot be read were left out: {some(corrupt)}",)
    return recordings, rate, notes


def some(names: Sequence[str]) -> str:
    """The first five names.

    >>> some(["a", "b"]), some(list("abcdefg"))
    ('a, b', 'a, b, c, d, e, ...')
    """
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# ---- splits ------------------------------------------------------------------------------------


def in_test_fifth(name: str) -> bool:
    """Whether a recording of this name is in the test fifth: its SHA-256 modulo 5 is 0.

    A function of the name alone: the same file is on the same side on every machine, in a set that
    grew, and under every voice that reads the same prompt.

    >>> [in_test_fifth(name) for name in ("a", "b", "c", "d", "e")]
    [True, False, True, False, False]
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % 5 == 0


def by_speakers(name: str, wanted: str, speakers: Sequence[str]) -> list[int]:
    """The indices of the recordings of `wanted` ("a,b"); of all recordings for ""."""
    if not wanted:
        return list(range(len(speakers)))
    names = _names(wanted)
    check_speakers(name, names, speakers)
    return [index for index, speaker in enumerate(speakers) if speaker in names]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def split_by_speakers(name: str, split: str, speakers: Sequence[str]) -> list[bool] | None:
    """For "speakers:a,b": whether each recording is by one of them; None for another split."""
    kind, _, argument = split.partition(":")
    if kind != "speakers":
        return None
    wanted = _names(argument)
    check_speakers(name, wanted, speakers)
    return [speaker in wanted for speaker in speakers]


def check_speakers(name: str, wanted: Sequence[str], speakers: Iterable[str]) -> None:
    """UserError unless every wanted speaker is there (and any is wanted)."""
    known = sorted(set(speakers) - {""})
    if not known:
        raise UserError(f"{name} does not say who speaks; it cannot be split by speakers.")
    if not wanted:
        raise UserError(
            f"{name}: name the speakers, of {', '.join(known)}, as in speakers:{known[0]}."
        )
    for speaker in wanted:
        if speaker not in known:
            raise UserError(f"{name} has no speaker '{speaker}'; it has {', '.join(known)}.")
