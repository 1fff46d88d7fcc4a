"""Sets of recordings: what they hold, how they are split, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from nybble.errors import UserError
from nybble.training.data import load_data
from nybble.training.data.audio import fsdd, transcripts, voices
from nybble.training.data.audio.base import SoundOptions, SpeechData, in_test_fifth
from nybble.training.data.audio.transcripts import clean, read_table

from .conftest import tone, write_digits, write_wav


def names(data: SpeechData, part: torch.Tensor) -> list[str]:
    return [Path(data.names[i]).stem for i in part.tolist()]


# ---- fsdd --------------------------------------------------------------------------------------


def test_digits_official_split(digits: Path) -> None:
    for place in (digits, digits / "recordings"):
        data = load_data(f"fsdd:{place}", task="speech")
        assert data.classes == ("0", "1", "2", "3") and data.rate == 8000 and data.seconds == 1.0
        assert len(data.train) == 24 and len(data.test) == 40
        assert all(int(name[-1]) < 5 for name in names(data, data.test))
        for index, name in enumerate(names(data, torch.arange(64))):
            assert data.classes[int(data.labels[index])] == name[0]
            assert data.speakers[index] == name[2:5]
    expected = tone(300, 0.2, seed=0)
    first = names(data, torch.arange(64)).index("0_ann_0")
    assert torch.equal(data.recording(first), torch.from_numpy(expected).float() / 32768)


def test_digits_other_splits(digits: Path) -> None:
    data = fsdd.load(str(digits), SoundOptions(split="speakers:bob"))
    assert {name[2:5] for name in names(data, data.test)} == {"bob"}
    assert {name[2:5] for name in names(data, data.train)} == {"ann"}
    data = fsdd.load(str(digits), SoundOptions(split="index:2", speakers="bob"))
    assert len(data.train) == 24 and len(data.test) == 8
    assert set(data.speakers) == {"bob"}
    assert any("bob" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "speakers:eve"}, "no speaker 'eve'; it has ann, bob"),
        ({"split": "speakers:"}, "name the speakers, of ann, bob"),
        ({"split": "speakers:ann,bob"}, "the training set holds no recordings"),
        ({"split": "random"}, "fsdd has no split 'random'"),
        ({"split": "index:9"}, "the training set holds no recordings"),
        ({"speakers": "eve"}, "no speaker 'eve'"),
        ({"rate": 10}, "between 1000 and 192000"),
        ({"on_corrupt": "ignore"}, "'stop' or 'skip'"),
    ],
)
def test_digits_refused(options: dict, message: str, digits: Path) -> None:
    with pytest.raises(UserError, match=message):
        fsdd.load(str(digits), SoundOptions(**options))


def write_archive(folder: Path, path: Path, length: int = 8000) -> None:
    rows, labels, speakers, indices = [], [], [], []
    from scipy.io import wavfile

    for file in sorted(folder.glob("*.wav"), reverse=True):
        samples = wavfile.read(file)[1][:length]
        rows.append(np.pad(samples, (0, length - len(samples))))
        label, speaker, index = file.stem.split("_")
        labels.append(int(label))
        speakers.append(speaker)
        indices.append(int(index))
    np.savez(path, x=np.stack(rows), y=labels, s=np.array(speakers), i=indices)


def test_the_archive_equals_the_clone(tmp_path: Path) -> None:
    write_digits(tmp_path / "recordings", "01", 6)
    long = tone(500, 1.4)  # is cut after a second
    write_wav(tmp_path / "recordings" / "1_ann_9.wav", long)
    write_archive(tmp_path / "recordings", tmp_path / "set.npz")
    one, other = (fsdd.load(str(place)) for place in (tmp_path, tmp_path / "set.npz"))
    assert one.fingerprint() == other.fingerprint()
    assert max(one.starts.diff().tolist()) == 8000


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "cannot be read as an .npz"),
        ({"x": np.zeros((1, 4), np.int16)}, "cannot be read as an .npz"),
        (
            {"x": np.zeros((1, 4)), "y": [0], "s": ["a"], "i": [0]},
            r"x must be int16 \[N, T\].*float64",
        ),
        ({"x": np.zeros((2, 4), np.int16), "y": [0], "s": ["a"], "i": [0]}, "of length N"),
    ],
)
def test_archives_refused(arrays: dict | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(b"PK no") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as error:
        fsdd.load(str(path))
    assert "set.npz" in str(error.value)


def test_digits_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Install it with: git clone https"):
        load_data("fsdd", task="speech")
    with pytest.raises(UserError, match=r"does not exist\. Install the set with: git clone"):
        load_data("fsdd:nowhere", task="speech")
    write_digits(tmp_path / "free-spoken-digit-dataset" / "recordings", "01", 6)
    assert fsdd.find().path == "free-spoken-digit-dataset"
    assert len(load_data("fsdd", task="speech").names) == 24
    write_wav(tmp_path / "free-spoken-digit-dataset" / "recordings" / "seven.wav", tone(300, 0.1))
    with pytest.raises(UserError, match=r"seven\.wav is not digit_speaker_index\.wav"):
        load_data("fsdd", task="speech")


def test_connected_digits(digits: Path) -> None:
    data = load_data(f"digits:{digits}", task="ctc")
    words = ("zero", "one", "two", "three")
    for part, recordings in ((data.train, 24), (data.test, 40)):
        texts = [data.texts[i] for i in part.tolist()]
        counts = [sum(text.split().count(word) for text in texts) for word in words]
        assert counts == [3 * recordings // 4] * 4  # every recording three times
        assert all(1 <= len(text.split()) <= 5 for text in texts)
    again = load_data(f"digits:{digits}", task="ctc")
    assert again.fingerprint() == data.fingerprint()
    # the pieces are those that the text says, pauses of zeros between them
    index = int(data.test[0])
    sound = data.samples[int(data.starts[index]) : int(data.starts[index + 1])]
    gaps = (sound == 0).float().unfold(0, 400, 1).min(1).values  # 50 ms of nothing
    assert int((gaps.diff() == 1).sum()) == len(data.texts[index].split()) - 1


# ---- voices ------------------------------------------------------------------------------------


def write_voices(place: Path) -> None:
    for number, voice in enumerate(voices.VOICES):
        for prompt in range(12):
            samples = tone(200 + 60 * number, 0.2, seed=prompt)
            write_wav(place / voice / "digits" / f"p{prompt}.wav", samples)
        write_wav(place / voice / "silence" / "1.wav", np.zeros(800, dtype=np.int16))
        write_wav(place / voice / "beep.wav", tone(900, 0.1, seed=number))
        write_wav(place / voice / "shared.wav", tone(950, 0.1))
    write_wav(place / voice / "quiet.wav", np.zeros(100, dtype=np.int16))
    (place / voice / "empty.wav").write_bytes(b"")


def test_voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "PLACE", tmp_path / "sounds")
    with pytest.raises(
        UserError, match=r"voices is not installed.*Install it with: apt-get install"
    ):
        load_data("voices", task="speech")
    assert voices.find().path is None and len(voices.find().looked_in) == 6
    write_voices(tmp_path / "sounds")
    assert voices.find().path == str(tmp_path / "sounds")
    data = load_data("voices", task="speech")
    assert data.classes == tuple(sorted(voices.VOICES)) and len(data.names) == 72
    train, test = (set(names(data, part)) for part in (data.train, data.test))
    assert not train & test and len(data.test) == 6 * len(test)  # by prompt, in every voice
    assert any("empty.wav" in note for note in data.notes)
    assert any("7 files that are silent or shared" in note for note in data.notes)
    with pytest.raises(UserError, match="voices does not say who speaks"):
        load_data("voices", SoundOptions(speakers="ann"), task="speech")


# ---- your own sounds ---------------------------------------------------------------------------


def test_sounds_in_folders(tmp_path: Path) -> None:
    for label, hz in (("no", 300), ("yes", 600)):
        for k in range(5):
            write_wav(tmp_path / label / f"{k}.wav", tone(hz, 0.2, seed=k))
    stereo = np.stack([tone(600, 0.2, rate=16000)] * 2, axis=1)
    write_wav(tmp_path / "yes" / "stereo.wav", stereo, rate=16000, channels=2)
    write_wav(tmp_path / "no" / "quiet.wav", np.zeros(1600, dtype=np.int16))
    data = load_data(f"sounds:{tmp_path}", task="speech")
    assert data.classes == ("no", "yes") and data.rate == 8000
    assert torch.bincount(data.labels[data.test]).tolist() == [1, 1]
    assert set(data.train.tolist()) | set(data.test.tolist()) == set(range(12))
    stereo_index = names(data, torch.arange(12)).index("stereo")
    assert len(data.recording(stereo_index)) == 1600
    assert any("1 recordings were resampled to 8000" in note for note in data.notes)
    assert any("1 recordings are silent" in note and "quiet.wav" in note for note in data.notes)
    faster = load_data(f"sounds:{tmp_path}", SoundOptions(rate=16000), task="speech")
    assert faster.rate == 16000 and len(faster.recording(stereo_index)) == 3200


def test_sounds_by_name_and_by_parts(tmp_path: Path) -> None:
    write_digits(tmp_path / "flat", "12", 5)
    data = load_data(f"sounds:{tmp_path / 'flat'}", SoundOptions("speakers:ann"), task="speech")
    assert len(data.test) == 10 and data.classes == ("1", "2")
    for part in ("train", "test"):
        write_wav(tmp_path / "parts" / part / "a" / f"{part}.wav", tone(300, 0.1))
        write_wav(tmp_path / "parts" / part / "b" / f"{part}.wav", tone(500, 0.1))
    data = load_data(f"sounds:{tmp_path / 'parts'}", task="speech")
    assert set(names(data, data.test)) == {"test"} and set(names(data, data.train)) == {"train"}


def test_sounds_refused(tmp_path: Path) -> None:
    def refused(message: str, **options: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            load_data(f"sounds:{tmp_path}", SoundOptions(**options), task="speech")
        assert "\n" not in str(error.value)

    refused("holds no sound files")
    write_wav(tmp_path / "a" / "1.wav", tone(300, 0.1))
    write_wav(tmp_path / "a" / "2.wav", tone(300, 0.1))
    refused("one class only")
    (tmp_path / "b").mkdir()
    refused("class folder .*b holds no sound files")
    write_wav(tmp_path / "b" / "1.wav", tone(500, 0.1))
    write_wav(tmp_path / "b" / "2.wav", tone(500, 0.1))
    refused("does not say who speaks", split="speakers:ann")
    refused("has no split 'half'", split="half")
    (tmp_path / "b" / "broken.wav").write_bytes(b"RIFF")
    refused(r"broken\.wav is no WAV file.*--on-corrupt skip")
    data = load_data(f"sounds:{tmp_path}", SoundOptions(on_corrupt="skip"), task="speech")
    assert any("1 files that cannot be read" in note and "broken" in note for note in data.notes)
    write_wav(tmp_path / "loose.wav", tone(500, 0.1))
    refused(r"loose\.wav does not say its class")


# ---- transcripts -------------------------------------------------------------------------------


def test_transcripts(tmp_path: Path) -> None:
    lines = ["# a comment", "", "wavs/long.wav\tToo long."]
    for k in range(12):
        write_wav(tmp_path / "wavs" / f"{k}.wav", tone(300, 0.3, seed=k))
        lines.append(f"wavs/{k}.wav\tNumber {k}, Don’t!\r")
    write_wav(tmp_path / "wavs" / "long.wav", tone(300, 16))
    (tmp_path / "transcripts.tsv").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    for place in (tmp_path, tmp_path / "transcripts.tsv"):
        data = load_data(f"transcripts:{place}", task="ctc")
        assert data.texts[3] == "number 3 don't" and len(data.texts) == 12
        expected = {str(k) for k in range(12) if in_test_fifth(f"wavs/{k}.wav")}
        assert set(names(data, data.test)) == expected
        assert any("longer than 15 s" in note and "long.wav" in note for note in data.notes)
    (tmp_path / "train.tsv").write_text("wavs/1.wav\tone\n")
    (tmp_path / "test.tsv").write_text("wavs/2.wav\ttwo\n")
    data = load_data(f"transcripts:{tmp_path}", task="ctc")
    assert data.texts == ("one", "two") and data.test.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.wav\tone\nb.wav two\n", "line 2: it must be path<TAB>text"),
        (b"a.wav\tone\nb.wav\t ...\n", r"line 2: the transcript of b\.wav is empty"),
        (b"a.wav\tone\nb.wav\tcaf\xe9\n", "line 2: it is not UTF-8"),
        (b"\n# nothing\n", "holds no lines"),
    ],
)
def test_tables_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(UserError, match=rf"t\.tsv.*{message}"):
        read_table(tmp_path / "t.tsv", SoundOptions())


def test_empty_transcripts_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a.wav\tone\nb.wav\t?\n")
    assert read_table(tmp_path / "t.tsv", SoundOptions(on_corrupt="skip")) == [("a.wav", "one")]


def test_transcripts_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_data(f"transcripts:{tmp_path / 'none'}", task="ctc")
    with pytest.raises(UserError, match=r"has no transcripts\.tsv"):
        load_data(f"transcripts:{tmp_path}", task="ctc")
    (tmp_path / "transcripts.tsv").write_text("gone.wav\tone\n")
    with pytest.raises(UserError, match=r"gone\.wav does not exist"):
        load_data(f"transcripts:{tmp_path}", task="ctc")


def test_clean() -> None:
    assert clean("Año\u0301 — 2ND,  vm-INBOX") == "añó 2nd vm inbox"
    assert clean("Пожалуйста, ЙО") == "пожалуйста йо"


def test_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "PLACE", tmp_path / "sounds")
    monkeypatch.setattr(transcripts, "DOCS", tmp_path / "doc")
    with pytest.raises(UserError, match="apt-get install asterisk-core-sounds-fr-wav asterisk"):
        load_data("prompts:fr", task="ctc")
    with pytest.raises(UserError, match="no language 'de'"):
        load_data("prompts:de", task="ctc")
    folder = tmp_path / "sounds" / "en_US_f_Allison"
    for k in range(9):
        write_wav(folder / "vm" / f"p{k}.wav", tone(300, 0.3, seed=k))
    text = "; Core\n\nbeep: [a tone]\nabsent: Not there.\n"
    text += "".join(f"vm/p{k}: Press {k}: now.\n" for k in range(9))
    document = tmp_path / "doc" / "asterisk-core-sounds-en" / "core-sounds-en.txt.gz"
    document.parent.mkdir(parents=True)
    document.write_bytes(gzip.compress(text.encode()))
    assert transcripts.find_prompts().path == str(folder)
    data = load_data("prompts", task="ctc")
    assert data.texts == tuple(f"press {k} now" for k in range(9))
    expected = {f"p{k}" for k in range(9) if in_test_fifth(f"vm/p{k}")}
    assert set(names(data, data.test)) == expected and expected
