"""Sound files: every sample width, stereo, other rates, and files that are refused by name."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from nybble.errors import UserError
from nybble.training.data.audio import wav
from nybble.training.data.audio.wav import is_silent, read_sound, resample, sound_files

from .conftest import tone, write_wav


def test_sixteen_bits_come_back_as_they_were(tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768, 1234], dtype=np.int16)
    write_wav(tmp_path / "a.wav", samples)
    found, rate = read_sound(tmp_path / "a.wav")
    assert found.dtype == np.int16 and np.array_equal(found, samples) and rate == 8000


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 128, 255], dtype=np.uint8), [-32768, 0, 32512]),
        (np.array([-(2**31), 0, 65536 * 3], dtype=np.int32), [-32768, 0, 3]),
        (np.array([-1.0, 0.5, 2.0], dtype=np.float32), [-32768, 16384, 32767]),
        (np.array([-1.0, 0.5, 2.0], dtype=np.float64), [-32768, 16384, 32767]),
    ],
)
def test_other_widths(values: np.ndarray, expected: list[int], tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 8000, values)
    assert read_sound(tmp_path / "a.wav")[0].tolist() == expected


def test_twenty_four_bits(tmp_path: Path) -> None:
    values = [3 * 256, -5 * 256, 2**23 - 1, -(2**23)]
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in values)
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 24000, 3, 24)
    body = b"WAVE" + header + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert read_sound(tmp_path / "a.wav")[0].tolist() == [3, -5, 32767, -32768]


def test_stereo_is_mixed(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([[100, 300], [-100, 50]], dtype=np.int16), channels=2)
    assert read_sound(tmp_path / "a.wav")[0].tolist() == [200, -25 + -0]


def test_resample_keeps_the_tone() -> None:
    samples = tone(440, 0.5, rate=16000)
    half = resample(samples, 16000, 8000)
    assert len(half) == 4000 and half.dtype == np.int16
    spectrum = np.abs(np.fft.rfft(half.astype(float)))
    assert abs(int(spectrum.argmax()) * 2 - 440) <= 2
    assert resample(samples, 8000, 8000) is samples
    assert len(resample(samples[:441], 44100, 8000)) == 80


def test_silence() -> None:
    assert is_silent(np.zeros(5, dtype=np.int16))
    assert not is_silent(np.array([0, 1], dtype=np.int16))


def whole(tmp_path: Path) -> bytes:
    write_wav(tmp_path / "whole.wav", tone(300, 0.1))
    return (tmp_path / "whole.wav").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda raw: raw[:-100],
            "is cut off: its header promises 1600 bytes of sound, it holds 15",
        ),
        (lambda raw: raw[:44], "is cut off"),
        (lambda raw: raw[:36], "no data chunk"),
        (lambda raw: raw[:20], "no samples|cannot be read"),
        (lambda raw: b"", "is no WAV file"),
        (lambda raw: b"ID3" + raw[3:], "is no WAV file"),
        (lambda raw: raw[:22] + b"\0\0" + raw[24:], "cannot be read|holds no samples"),
        (lambda raw: raw[:40] + bytes(4), "holds no samples"),
        (lambda raw: raw[:24] + bytes(4) + raw[28:], "has the sampling rate 0|cannot be read"),
    ],
    ids=["short", "no-samples", "no-data", "header", "empty", "mp3", "channels", "zero", "rate"],
)
def test_damaged_files_are_named(damage, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(damage(whole(tmp_path)))
    with pytest.raises(UserError, match=message) as error:
        read_sound(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_not_a_number(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 8000, np.array([0.0, np.nan], dtype=np.float32))
    with pytest.raises(UserError, match=r"a\.wav holds samples that are NaN"):
        read_sound(tmp_path / "a.wav")


def test_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"missing\.wav does not exist"):
        read_sound(tmp_path / "missing.wav")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a\.txt is no sound file"):
        read_sound(tmp_path / "a.txt")
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    monkeypatch.setattr(wav.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package soundfile\. .*pip install soundfile"):
        read_sound(tmp_path / "a.flac")


def test_flac_and_mu_law_through_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    samples = tone(300, 0.1)
    soundfile.write(tmp_path / "a.flac", samples, 8000)
    found, rate = read_sound(tmp_path / "a.flac")
    assert np.array_equal(found, samples) and rate == 8000
    soundfile.write(tmp_path / "u.wav", samples, 8000, subtype="ULAW")
    assert np.abs(read_sound(tmp_path / "u.wav")[0].astype(int) - samples).max() < 300
    (tmp_path / "bad.flac").write_bytes(b"fLaC and nothing else")
    with pytest.raises(UserError, match=r"bad\.flac cannot be read"):
        read_sound(tmp_path / "bad.flac")


def test_mu_law_without_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytearray(whole(tmp_path))
    raw[20:22] = struct.pack("<H", 7)  # the coding: mu-law
    (tmp_path / "u.wav").write_bytes(bytes(raw))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        wav.importlib.util,
        "find_spec",
        lambda name: None if name == "soundfile" else find_spec(name),
    )
    with pytest.raises(UserError, match=r"u\.wav cannot be read.*pip install soundfile"):
        read_sound(tmp_path / "u.wav")


def test_listing(tmp_path: Path) -> None:
    for name in ("b.wav", "x/a.WAV", ".hidden.wav", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in sound_files(tmp_path)] == ["b.wav", "a.WAV"]
