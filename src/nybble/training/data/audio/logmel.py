"""The log-mel front end, from torch's own Fourier transform.

    frame t       x[t * hop : t * hop + window], x in [-1, 1); only whole frames, no padding (a
                  recording shorter than one window is padded with zeros to one)
    spectrum      S[t, k] = |FFT(frame * hann)|^2, hann[n] = 0.5 - 0.5 cos(2 pi n / window) (the
                  periodic window), zero-padded to the next power of two
    mel filters   `bands` triangles of height 1, their corners spaced evenly in
                  mel(f) = 2595 log10(1 + f / 700) (the HTK formula) from `low` Hz to half the rate
    log-mel       log(max(filters . S, 1e-6)), the natural logarithm

25 ms windows every 10 ms and 40 bands, the usual choice of speech recognisers. Normalisation is of
every utterance alone, so that nothing has to travel with a model and a loud recording equals a
quiet one:

    "utterance"   (x - mean) / deviation, one mean and one deviation over all frames and bands:
                  removes loudness, keeps the spectrum of voice and microphone
    "bands"       mean and deviation of every band: removes those as well
    "none"        x

The deviation is at least 1e-3, so that silence becomes zeros. Not done: dithering, pre-emphasis,
energy, differences over time, normalisation over the training set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nybble.errors import UserError

FLOOR = 1e-6
MIN_DEVIATION = 1e-3
NORMALISATIONS = ("utterance", "bands", "none")


@dataclass(frozen=True)
class LogMel:
    """The front end for one sampling rate.

    >>> front = LogMel(rate=8000)
    >>> front.window, front.hop, front.fft
    (200, 80, 256)
    >>> front(torch.zeros(8000)).shape
    torch.Size([98, 40])
    """

    rate: int
    bands: int = 40
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low: float = 20.0
    normalise: str = "utterance"

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISATIONS:
            raise UserError(
                f"Unknown normalisation '{self.normalise}'; choose one of "
                f"{', '.join(NORMALISATIONS)}."
            )
        if self.rate < 1000:
            raise UserError(f"The sampling rate must be at least 1000 Hz, not {self.rate}.")
        if not 1 <= self.bands <= self.fft // 4:
            raise UserError(
                f"bands must be between 1 and {self.fft // 4} at {self.rate} Hz, not {self.bands}."
            )

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.rate * self.hop_ms / 1000))

    @property
    def fft(self) -> int:
        """Length of the transform."""
        return 1 << math.ceil(math.log2(self.window))

    def frames(self, samples: int) -> int:
        """How many frames a recording of so many samples has."""
        return 1 + max(0, samples - self.window) // self.hop

    def __call__(self, samples: Tensor) -> Tensor:
        """float32 [T] in [-1, 1) -> float32 [frames, bands]."""
        if len(samples) < self.window:
            samples = torch.nn.functional.pad(samples, (0, self.window - len(samples)))
        framed = samples.unfold(0, self.window, self.hop) * torch.hann_window(self.window)
        spectrum = torch.fft.rfft(framed, n=self.fft)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power @ mel_filters(self.rate, self.fft, self.bands, self.low)
        return normalise(mel.clamp(min=FLOOR).log(), self.normalise)


def normalise(features: Tensor, how: str) -> Tensor:
    """Bring one utterance [frames, bands] to zero mean and unit deviation."""
    if how == "none":
        return features
    dims = (0,) if how == "bands" else (0, 1)
    wide = features.double()  # so that silence comes out as zeros and not as rounding errors
    centred = wide - wide.mean(dims, keepdim=True)
    deviation = centred.square().mean(dims, keepdim=True).sqrt()
    return (centred / deviation.clamp(min=MIN_DEVIATION)).float()


def hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """2595 log10(1 + f / 700)."""
    mel: NDArray[np.float64] = 2595.0 * np.log10(1.0 + hz / 700.0)
    return mel


def mel_filters(rate: int, fft: int, bands: int, low: float) -> Tensor:
    """float32 [fft / 2 + 1, bands]: the weight of every frequency in every band."""
    key = (rate, fft, bands, low)
    if key not in _FILTERS:
        lowest, highest = hz_to_mel(np.array([low, rate / 2]))
        corners = 700.0 * (10.0 ** (np.linspace(lowest, highest, bands + 2) / 2595.0) - 1.0)
        frequency = np.linspace(0, rate / 2, fft // 2 + 1)[:, None]
        left, middle, right = corners[:-2], corners[1:-1], corners[2:]
        rising = (frequency - left) / (middle - left)
        falling = (right - frequency) / (right - middle)
        weights = np.maximum(0.0, np.minimum(rising, falling))
        _FILTERS[key] = torch.from_numpy(weights.astype(np.float32))
    return _FILTERS[key]


_FILTERS: dict[tuple[int, int, int, float], Tensor] = {}
