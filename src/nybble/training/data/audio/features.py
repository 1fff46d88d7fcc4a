"""Features of a whole set, computed once and kept, and batches cut from them.

    windows(indices, offsets)    [B, W, bands]: each recording through a window of W frames, padded
                                 with zeros (the mean of a normalised utterance)
    padded(indices)              [B, T, bands] and lengths: whole recordings, padded to the longest

The frames of all recordings lie in one float32 tensor, one after the other. A "waveform" set has
one "band", the samples, each recording brought to zero mean and unit deviation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.training.data.audio.base import SpeechData
from nybble.training.data.audio.logmel import LogMel, normalise

MASKED_BANDS, MASKED_SHARE = 8, 0.15


class FeatureSet:
    """The features of every recording of a set. front None: the samples themselves.

    frames: float32 [total, bands]; starts, lengths: int64 [N + 1], [N].
    """

    def __init__(self, data: SpeechData, front: LogMel | None) -> None:
        self.front = front
        parts = []
        for index in range(len(data.names)):
            samples = data.recording(index)
            parts.append(normalise(samples[:, None], "bands") if front is None else front(samples))
        self.lengths = torch.tensor([len(part) for part in parts])
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths.cumsum(0)])
        self.frames = torch.cat(parts)

    @property
    def bands(self) -> int:
        return int(self.frames.shape[1])

    def windows(self, indices: Tensor, size: int, random: torch.Generator | None = None) -> Tensor:
        """float32 [B, size, bands]; the window's place is the middle, or random.

        A longer recording is cut to the window, a shorter one lies inside it.
        """
        room = self.lengths[indices] - size  # negative: the recording is the shorter one
        if random is None:
            place = torch.div(room, 2, rounding_mode="trunc")
        else:
            share = torch.rand(len(indices), generator=random)
            place = (share * (room.abs() + 1)).long().clamp(max=room.abs()) * room.sign()
        return self._gather(indices, place, size)

    def padded(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(float32 [B, longest, bands], lengths int64 [B])."""
        lengths = self.lengths[indices]
        return self._gather(indices, torch.zeros_like(indices), int(lengths.max())), lengths

    def _gather(self, indices: Tensor, place: Tensor, size: int) -> Tensor:
        """Frames place .. place + size of each recording; zeros outside of it."""
        frame = place[:, None] + torch.arange(size)
        inside = (frame >= 0) & (frame < self.lengths[indices][:, None])
        row = torch.where(inside, self.starts[:-1][indices][:, None] + frame, 0)
        return self.frames[row] * inside[:, :, None]


def mask_(windows: Tensor, random: torch.Generator) -> Tensor:
    """SpecAugment (Park et al. 2019) in place: of every recording [T, bands] one band of up to
    MASKED_BANDS neighbouring bands and one of up to MASKED_SHARE of the frames become zero. No
    time warping."""
    for dim, most in ((1, max(1, int(MASKED_SHARE * windows.shape[1]))), (2, MASKED_BANDS)):
        size = windows.shape[dim]
        draws = torch.rand(2, len(windows), generator=random)
        width = (draws[0] * (min(most, size - 1) + 1)).long()
        start = (draws[1] * (size - width + 1)).long()
        position = torch.arange(size)
        masked = (position >= start[:, None]) & (position < (start + width)[:, None])
        windows.masked_fill_(masked[:, :, None] if dim == 1 else masked[:, None, :], 0.0)
    return windows
