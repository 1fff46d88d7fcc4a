"""The front end against two others: scipy's transform with filters written again from the formula,
and transformers' audio utilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from nybble.errors import UserError
from nybble.training.data.audio.features import FeatureSet, mask_
from nybble.training.data.audio.logmel import LogMel, mel_filters, normalise

from .conftest import tone


def signal(rate: int) -> torch.Tensor:
    return torch.from_numpy(tone(440, 0.4, seed=3, rate=rate)).float() / 32768


def by_hand(x: np.ndarray, rate: int, window: int, hop: int, fft: int, bands: int) -> np.ndarray:
    """Triangles one by one, the spectrum by scipy."""
    transform = ShortTimeFFT(hann(window, sym=False), hop, rate, mfft=fft, fft_mode="onesided")
    frames = 1 + (len(x) - window) // hop
    spectrum = []
    for start in range(0, frames * hop, hop):
        piece = x[start : start + window] * transform.win
        spectrum.append(np.abs(np.fft.rfft(piece, fft)) ** 2)
    mel = [2595 * math.log10(1 + f / 700) for f in (20.0, rate / 2)]
    step = (mel[1] - mel[0]) / (bands + 1)
    corner = [700 * (10 ** ((mel[0] + k * step) / 2595) - 1) for k in range(bands + 2)]
    out = np.zeros((frames, bands))
    for band in range(bands):
        low, middle, high = corner[band : band + 3]
        for k in range(fft // 2 + 1):
            f = k * rate / fft
            weight = 0.0
            if low < f <= middle:
                weight = (f - low) / (middle - low)
            elif middle < f < high:
                weight = (high - f) / (high - middle)
            out[:, band] += weight * np.array([row[k] for row in spectrum])
    return np.log(np.maximum(out, 1e-6))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_equals_the_formula(rate: int) -> None:
    front = LogMel(rate, normalise="none")
    x = signal(rate)
    expected = by_hand(x.double().numpy(), rate, front.window, front.hop, front.fft, 40)
    found = front(x)
    assert found.shape == expected.shape == (front.frames(len(x)), 40)
    assert np.allclose(found.numpy(), expected, atol=2e-3)


def test_equals_transformers() -> None:
    utilities = pytest.importorskip("transformers.audio_utils")
    front = LogMel(16000, normalise="none")
    filters = utilities.mel_filter_bank(257, 40, 20.0, 8000.0, 16000, norm=None, mel_scale="htk")
    assert np.allclose(mel_filters(16000, 512, 40, 20.0).numpy(), filters, atol=1e-5)
    x = signal(16000)
    expected = utilities.spectrogram(
        x.double().numpy(),
        utilities.window_function(400, "hann", periodic=True),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=filters,
        mel_floor=1e-6,
        log_mel="log",
    ).T
    assert np.allclose(front(x).numpy(), expected, atol=2e-3)


def test_no_band_is_empty() -> None:
    for rate, fft in ((8000, 256), (16000, 512)):
        assert (mel_filters(rate, fft, 40, 20.0).sum(0) > 0).all()


def test_short_and_silent_recordings() -> None:
    front = LogMel(8000)
    assert front(torch.ones(1)).shape == (1, 40)
    silent = front(torch.zeros(800))
    assert torch.equal(silent, torch.zeros(8, 40))  # and not NaN


def test_normalisations() -> None:
    features = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(
        40
    )
    whole = normalise(features, "utterance")
    assert whole.mean().abs() < 1e-5 and (whole.square().mean() - 1).abs() < 1e-5
    assert whole.mean(0).abs().max() > 1  # the spectrum stays
    bands = normalise(features, "bands")
    assert bands.mean(0).abs().max() < 1e-4 and (bands.square().mean(0) - 1).abs().max() < 1e-4
    louder = LogMel(8000)(signal(8000) * 4)
    assert torch.allclose(louder, LogMel(8000)(signal(8000)), atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 100}, "at least 1000 Hz"),
        ({"rate": 8000, "bands": 200}, "between 1 and 64"),
        ({"rate": 8000, "normalise": "global"}, "choose one of utterance"),
    ],
)
def test_refused(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LogMel(**fields)


class Lengths(FeatureSet):
    """Recordings of 2, 5 and 3 frames of one band: 1 2 | 3 4 5 6 7 | 8 9 10."""

    def __init__(self) -> None:
        self.lengths = torch.tensor([2, 5, 3])
        self.starts = torch.tensor([0, 2, 7, 10])
        self.frames = torch.arange(1.0, 11.0)[:, None]


def test_windows_and_padding() -> None:
    features = Lengths()
    every = torch.arange(3)
    windows = features.windows(every, 3)[:, :, 0]
    assert windows.tolist() == [[1, 2, 0], [4, 5, 6], [8, 9, 10]]
    assert features.windows(every[:1], 6)[0, :, 0].tolist() == [0, 0, 1, 2, 0, 0]
    padded, lengths = features.padded(torch.tensor([2, 0]))
    assert padded[:, :, 0].tolist() == [[8, 9, 10], [1, 2, 0]] and lengths.tolist() == [3, 2]


def test_random_windows_reach_both_ends() -> None:
    features, seen = Lengths(), set()
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        for row in features.windows(torch.tensor([0, 1]), 4, random)[:, :, 0].tolist():
            seen.add(tuple(row))
    short = {(1, 2, 0, 0), (0, 1, 2, 0), (0, 0, 1, 2)}
    assert seen == short | {(3, 4, 5, 6), (4, 5, 6, 7)}


def test_masks_are_bounded_and_repeatable() -> None:
    made = [mask_(torch.ones(64, 40, 40), torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*made)
    for one in made[0]:
        bands, frames = (one == 0).all(0).sum(), (one == 0).all(1).sum()
        assert bands <= 8 and frames <= 6
    assert (made[0] == 0).any(2).any() and (made[0] == 0).any(1).any()
