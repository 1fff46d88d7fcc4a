"""Six sets of telephone prompts, each by one voice: `voices`, from Debian's Asterisk packages.

    /usr/share/asterisk/sounds/{en_US_f_Allison, es_MX_f_Allison, fr_CA_f_June, it_IT_f_Menardi,
                                it_IT_m_Carlo, ru_RU_f_IvrvoiceRU}/**/*.wav, 8 kHz

A class is one of these folders (two of them name the same speaker, in two languages). It is a set
of voices, not of languages: a voice that was not trained on says nothing about its language. Left
out are files under `silence`, tones and beeps, files that are silent, and files whose samples occur
under another voice as well. Split by prompt: a prompt's name decides for all voices (a fifth of the
names, by checksum), so no text that is tested on was heard in training. Every recording is seen
through windows of 1.5 s. `voices:DIR` reads the folders below another place.
CC BY-SA 3.0 (Russian: CC BY 3.0): Allison Smith, June Wallack, Carlo Flora, Maxim Topal, and Marco
Menardi with Paola Dal Zot.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from nybble.errors import UserError
from nybble.training.data.audio.base import (
    Recording,
    SoundOptions,
    SpeechData,
    by_speakers,
    in_test_fifth,
    make_labelled,
    read_all,
)
from nybble.training.data.audio.wav import Samples, is_silent, sound_files
from nybble.training.data.base import Found, Source

PLACE = Path("/usr/share/asterisk/sounds")
VOICES = {
    "en_US_f_Allison": "asterisk-core-sounds-en-wav",
    "es_MX_f_Allison": "asterisk-core-sounds-es-wav",
    "fr_CA_f_June": "asterisk-core-sounds-fr-wav",
    "it_IT_f_Menardi": "asterisk-prompt-it-menardi-wav",
    "it_IT_m_Carlo": "asterisk-core-sounds-it-wav",
    "ru_RU_f_IvrvoiceRU": "asterisk-core-sounds-ru-wav",
}
INSTALL = f"apt-get install {' '.join(sorted(VOICES.values()))}"
SECONDS = 1.5
NO_SPEECH = ("beep", "tone")


def find() -> Found:
    """Where Debian puts the prompts, if all six voices are there."""
    whole = not _missing(PLACE)
    return Found(str(PLACE) if whole else None, tuple(str(PLACE / name) for name in VOICES))


def _missing(place: Path) -> list[str]:
    return [name for name in VOICES if not (place / name).is_dir()]


def load(argument: str = "", options: SoundOptions | None = None) -> SpeechData:
    """Load the voices; UserError with the install command when one is missing."""
    options = options or SoundOptions()
    by_speakers("voices", options.speakers, ())
    if options.split not in ("", "official"):
        raise UserError(f"voices has no split '{options.split}'; it has one, by prompts: official.")
    place = Path(argument) if argument else PLACE
    if missing := _missing(place):
        raise UserError(
            f"The data set voices is not installed ({place} has no {', '.join(missing)}). "
            f"Install it with: {INSTALL}"
        )
    paths, labels, prompts = [], [], []
    for voice in VOICES:
        for path in sound_files(place / voice):
            prompt = path.relative_to(place / voice).with_suffix("")
            if "silence" in prompt.parts or any(word in prompt.name for word in NO_SPEECH):
                continue
            paths.append(path)
            labels.append(voice)
            prompts.append(str(prompt))

    def make(index: int, samples: Samples) -> Recording:
        return Recording(prompts[index], samples, label=labels[index])

    # One file of the Russian package has no samples: what cannot be read is left out and named.
    found, rate, notes = read_all(paths, make, replace(options, on_corrupt="skip"))
    recordings, left_out = without_shared(found)
    how = "test: a fifth of the prompts, the same ones of every voice"
    if left_out:
        notes += (f"{left_out} files that are silent or shared by voices were left out",)
    is_test = [in_test_fifth(recording.name) for recording in recordings]
    return make_labelled("voices", rate, recordings, is_test, SECONDS, (how, *notes))


def without_shared(recordings: list[Recording]) -> tuple[list[Recording], int]:
    """The recordings that are not silent and occur under one label only, and how many are not."""
    seen: dict[bytes, set[str]] = defaultdict(set)
    digests = [hashlib.sha256(recording.samples.tobytes()).digest() for recording in recordings]
    for recording, digest in zip(recordings, digests, strict=True):
        seen[digest].add(recording.label)
    kept = [
        recording
        for recording, digest in zip(recordings, digests, strict=True)
        if len(seen[digest]) == 1 and not is_silent(recording.samples)
    ]
    return kept, len(recordings) - len(kept)


SOURCE = Source(
    name="voices",
    usage="voices",
    summary="3,300 telephone prompts by six voices, to tell apart: a fifth is test",
    install=INSTALL,
    load=load,
    find=find,
    tasks=("speech",),
    argument="optional",
    licence="CC BY-SA 3.0 and CC BY 3.0",
)
