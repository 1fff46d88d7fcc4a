"""Your own sounds with labels: `sounds:DIR`.

    DIR/<class>/*.wav                      a sub-folder a class, or
    DIR/{label}_{speaker}_{index}.wav      names that say it (`speakers:anna,ben` splits by speaker)

Without `speakers:` a fifth of the files of every class, chosen by a fixed random order, is test; or
DIR/train and DIR/test, of either form, say it themselves. Every recording is seen through windows
of one second unless the task is told otherwise. Other sampling rates than that of most files are
resampled, stereo is mixed to mono.
"""

from __future__ import annotations

from pathlib import Path

import torch

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
from nybble.training.data.audio.wav import EXTENSIONS, Samples, sound_files
from nybble.training.data.base import Found, Source, stratified_split

INSTALL = "nothing to install; the sounds are yours (.flac, .ogg, .mp3: pip install soundfile)"
TEST_NAMES = ("test", "val", "valid", "validation")
SECONDS = 1.0


def find() -> Found:
    """Nowhere: only the user knows the folder."""
    return Found(None)


def load(argument: str, options: SoundOptions | None = None) -> SpeechData:
    """Load every sound file below the folder `argument`."""
    options = options or SoundOptions()
    folder = Path(argument)
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist.")
    test_folder = next((folder / n for n in TEST_NAMES if (folder / n).is_dir()), None)
    parted = (folder / "train").is_dir() and test_folder is not None
    parts = [folder / "train", test_folder] if parted and test_folder else [folder]
    paths: list[Path] = []
    known: list[tuple[str, str]] = []
    tests: list[bool] = []
    for part in parts:
        for path, label, speaker in _labelled(part):
            paths.append(path)
            known.append((label, speaker))
            tests.append(parted and part == test_folder)
    place = {str(path): index for index, path in enumerate(paths)}

    def make(index: int, samples: Samples) -> Recording:
        label, speaker = known[index]
        return Recording(str(paths[index]), samples, label=label, speaker=speaker)

    recordings, rate, notes = read_all(paths, make, options)
    name = f"sounds:{folder.name}"
    kept = by_speakers(name, options.speakers, [r.speaker for r in recordings])
    recordings = [recordings[index] for index in kept]
    held_out = split_by_speakers(name, options.split, [r.speaker for r in recordings])
    if held_out is not None:
        is_test, how = held_out, f"test: the speakers {options.split.partition(':')[2]}"
    elif options.split not in ("", "official"):
        raise UserError(f"{name} has no split '{options.split}'; write speakers:NAME,NAME.")
    elif parted:
        is_test = [tests[place[recording.name]] for recording in recordings]
        how = f"test: the folder {test_folder}"
    else:
        is_test, how = _fifth(recordings), "of every class a fixed random fifth is test"
    return make_labelled(name, rate, recordings, is_test, SECONDS, (how, *notes))


def _fifth(recordings: list[Recording]) -> list[bool]:
    classes = sorted({recording.label for recording in recordings})
    labels = torch.tensor([classes.index(recording.label) for recording in recordings])
    chosen = set(stratified_split(labels, 0.2)[1].tolist())
    return [index in chosen for index in range(len(recordings))]


def _labelled(folder: Path) -> list[tuple[Path, str, str]]:
    """(file, label, speaker or "") of every sound file below `folder`."""
    named = [path for path in sound_files(folder) if path.parent == folder]
    if named:
        found = []
        for path in named:
            parts = parse_name(path)
            if parts is None:
                raise UserError(
                    f"The name of {path} does not say its class: call it label_speaker_index"
                    f"{path.suffix}, or put the files of each class into a sub-folder."
                )
            found.append((path, parts.label, parts.speaker))
        return found
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = {name: sound_files(folder / name) for name in names}
    if not any(files.values()):
        raise UserError(
            f"The folder {folder} holds no sound files ({', '.join(sorted(EXTENSIONS))}): put them "
            f"into {folder}/<class>/, or call them label_speaker_index.wav."
        )
    if empty := [name for name, inside in files.items() if not inside]:
        raise UserError(f"The class folder {folder / empty[0]} holds no sound files; remove it.")
    return [(path, name, _speaker(path)) for name in names for path in files[name]]


def _speaker(path: Path) -> str:
    parts = parse_name(path)
    return "" if parts is None else parts.speaker


SOURCE = Source(
    name="sounds",
    usage="sounds:DIR",
    summary="your own sounds, a sub-folder a class, or files label_speaker_index.wav",
    install=INSTALL,
    load=load,
    find=find,
    tasks=("speech",),
    argument="required",
    licence="yours",
)
