"""Your own recordings with transcripts: `transcripts:PATH`.

PATH is a text file of lines `path<TAB>text` (UTF-8, paths relative to the file's folder), or a
folder with `train.tsv` and `test.tsv`, or with `transcripts.tsv`. Empty lines and lines that begin
with # are passed over. Of a single file a fifth is test, by the checksum of the path.

Texts are brought to the alphabet that is trained on (`clean`): Unicode NFC, lower case, letters,
digits and apostrophes; everything else becomes a space, and spaces are joined.

    prompts:en    the Asterisk prompts of a language (en, es, fr, it, ru) with the texts that their
                  Debian package documents (/usr/share/doc/<package>/core-sounds-<language>.txt.gz);
                  entries that describe a sound, [ascending tones], are left out

Recordings longer than LONGEST seconds are left out and counted.
"""

from __future__ import annotations

import gzip
import unicodedata
from dataclasses import replace
from pathlib import Path

from nybble.errors import UserError, suggest
from nybble.training.data.audio import voices
from nybble.training.data.audio.base import (
    Recording,
    SoundOptions,
    SpeechData,
    by_speakers,
    in_test_fifth,
    make_transcribed,
    read_all,
    some,
)
from nybble.training.data.audio.wav import Samples
from nybble.training.data.base import Found, Source

INSTALL = "nothing to install; the recordings are yours"
LONGEST = 15.0
DOCS = Path("/usr/share/doc")
LANGUAGES = {
    "en": ("en_US_f_Allison", "asterisk-core-sounds-en"),
    "es": ("es_MX_f_Allison", "asterisk-core-sounds-es"),
    "fr": ("fr_CA_f_June", "asterisk-core-sounds-fr"),
    "it": ("it_IT_m_Carlo", "asterisk-core-sounds-it"),
    "ru": ("ru_RU_f_IvrvoiceRU", "asterisk-core-sounds-ru"),
}


def clean(text: str) -> str:
    """The text in the alphabet of recognition.

    >>> clean("  Don't  press #3,   Waldo!")
    "don't press 3 waldo"
    """
    lower = unicodedata.normalize("NFC", text).replace("\u2019", "'").lower()
    kept = "".join(
        c if c.isalnum() or c == "'" or unicodedata.category(c) == "Mn" else " " for c in lower
    )
    return " ".join(kept.split())


def find() -> Found:
    """Nowhere: only the user knows the place."""
    return Found(None)


def load(argument: str, options: SoundOptions | None = None) -> SpeechData:
    """Load the recordings that the file or folder `argument` lists."""
    options = options or SoundOptions()
    by_speakers("transcripts", options.speakers, ())
    place = Path(argument)
    if not place.exists():
        raise UserError(f"transcripts:{argument}: {place} does not exist.")
    if options.split not in ("", "official"):
        raise UserError("transcripts have no speakers to split by; write train.tsv and test.tsv.")
    files = [place]
    if place.is_dir():
        files = [place / "train.tsv", place / "test.tsv"]
        if not all(file.is_file() for file in files):
            files = [place / "transcripts.tsv"]
            if not files[0].is_file():
                raise UserError(
                    f"The folder {place} has no transcripts.tsv (lines path<TAB>text), nor "
                    "train.tsv and test.tsv."
                )
    lines = [(file, *entry) for file in files for entry in read_table(file, options)]
    paths = [file.parent / path for file, path, _ in lines]

    def make(index: int, samples: Samples) -> Recording:
        file, path, text = lines[index]
        test = file.name == "test.tsv" if len(files) == 2 else in_test_fifth(path)
        return Recording(str(paths[index]), samples, label="test" if test else "", text=text)

    recordings, rate, notes = read_all(paths, make, options)
    how = "test: test.tsv" if len(files) == 2 else "test: a fifth of the files, by their names"
    return _finish(f"transcripts:{place.name}", rate, recordings, (how, *notes))


def _finish(
    name: str, rate: int, recordings: list[Recording], notes: tuple[str, ...]
) -> SpeechData:
    """Leave out what is too long, and join."""
    long = [r.name for r in recordings if len(r.samples) > LONGEST * rate]
    if long:
        notes += (f"{len(long)} recordings longer than {LONGEST:g} s left out: {some(long)}",)
        recordings = [r for r in recordings if len(r.samples) <= LONGEST * rate]
    is_test = [recording.label == "test" for recording in recordings]
    return make_transcribed(name, rate, recordings, is_test, notes)


def read_table(file: Path, options: SoundOptions) -> list[tuple[str, str]]:
    """The (path, clean text) pairs of a file; UserError names the line that is none.

    An empty transcript is left out under on_corrupt "skip" and refused otherwise.
    """
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = file.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {at}: it is not UTF-8; save the file as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    pairs = []
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        path, tab, text = line.partition("\t")
        if not tab or not path:
            raise UserError(
                f"{file}, line {number}: it must be path<TAB>text, it is '{line[:60]}'."
            )
        words = clean(text)
        if not words:
            if options.on_corrupt == "skip":
                continue
            raise UserError(
                f"{file}, line {number}: the transcript of {path} is empty (letters and digits "
                "count). Remove the line, or leave such lines out with --on-corrupt skip."
            )
        pairs.append((path, words))
    if not pairs:
        raise UserError(f"{file} holds no lines path<TAB>text.")
    return pairs


# ---- the prompts of Debian's packages ----------------------------------------------------------


def find_prompts() -> Found:
    """Where the English prompts and their texts are."""
    files = (voices.PLACE / LANGUAGES["en"][0], _document("en"))
    there = all(file.exists() for file in files)
    return Found(str(files[0]) if there else None, tuple(map(str, files)))


PROMPTS_INSTALL = "apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en"


def _document(language: str) -> Path:
    return DOCS / LANGUAGES[language][1] / f"core-sounds-{language}.txt.gz"


def load_prompts(argument: str = "", options: SoundOptions | None = None) -> SpeechData:
    """Load the prompts of one language with their texts."""
    options = options or SoundOptions()
    by_speakers("transcripts", options.speakers, ())
    language = argument or "en"
    if language not in LANGUAGES:
        raise UserError(
            f"prompts has no language '{language}'; choose one of {', '.join(LANGUAGES)}."
            f"{suggest(language, LANGUAGES)}"
        )
    if options.split not in ("", "official"):
        raise UserError(f"prompts has no split '{options.split}'; it has one: official.")
    folder, document = voices.PLACE / LANGUAGES[language][0], _document(language)
    if not folder.is_dir() or not document.is_file():
        package = LANGUAGES[language][1]
        missing = document if folder.is_dir() else folder
        raise UserError(
            f"The data set prompts:{language} is not installed ({missing} is missing). Install it "
            f"with: apt-get install {package}-wav {package}"
        )
    entries = read_document(document)
    paths = [folder / f"{name}.wav" for name in entries]
    there = [path for path in paths if path.is_file()]
    texts = {str(folder / f"{name}.wav"): text for name, text in entries.items()}

    def make(index: int, samples: Samples) -> Recording:
        path = there[index]
        test = in_test_fifth(str(path.relative_to(folder).with_suffix("")))
        label = "test" if test else ""
        return Recording(str(path), samples, label=label, text=texts[str(path)])

    skipping = replace(options, on_corrupt="skip")  # the Russian package has a file of no samples
    recordings, rate, notes = read_all(there, make, skipping)
    how = "test: a fifth of the prompts, by their names"
    return _finish(f"prompts:{language}", rate, recordings, (how, *notes))


def read_document(document: Path) -> dict[str, str]:
    """{prompt name: clean text} of lines `name: text`; comments and described sounds left out."""
    try:
        content = gzip.decompress(document.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{document} cannot be read: {error}.") from None
    entries = {}
    for line in content.splitlines():
        name, colon, text = line.partition(":")
        words = clean(text)
        if colon and words and not line.startswith(";") and "[" not in text:
            entries[name.strip()] = words
    return entries


SOURCES = (
    Source(
        name="transcripts",
        usage="transcripts:PATH",
        summary="your own recordings with a file of lines path<TAB>text",
        install=INSTALL,
        load=load,
        find=find,
        tasks=("ctc",),
        argument="required",
        licence="yours",
    ),
    Source(
        name="prompts",
        usage="prompts:LANGUAGE",
        summary="telephone prompts with their texts, 540 a language: en, es, fr, it, ru",
        install=PROMPTS_INSTALL,
        load=load_prompts,
        find=find_prompts,
        tasks=("ctc",),
        argument="optional",
        licence="CC BY-SA 3.0 and CC BY 3.0",
    ),
)
