"""The control variate of a convolution, against the torch expressions of the reference backend: the
same 32 bits, for every instruction set and number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.native.taps import image_error, tap_sums
from nybble.ops.reference import taps as reference

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = () if CORE is None else CORE.isas()


def images(shape: tuple[int, ...], last: bool, seed: int) -> Tensor:
    """Numbers of many magnitudes, some of them zeros of either sign."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp2(
        torch.randint(-6, 7, shape, generator=generator).float()
    )
    x[torch.rand(shape, generator=generator) < 0.2] = 0.0
    x[torch.rand(shape, generator=generator) < 0.1] = -0.0
    return x.contiguous(memory_format=torch.channels_last) if last else x


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(0, 5),
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    last=st.booleans(),
    by_image=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_image_error(isa, n, channels, size, last, by_image, threads, seed):
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    x = images((n, channels, *size), last, seed)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    generator = torch.Generator().manual_seed(seed + 1)
    factors = torch.rand(n, generator=generator) + 0.1 if by_image else None
    scale = torch.rand(channels, generator=generator) + 0.1
    sums = torch.randint(-300, 300, (channels, *size), generator=generator)
    sums[torch.rand(sums.shape, generator=generator) < 0.5] = 0
    z = x if factors is None else x * factors.view(-1, 1, 1, 1)
    expected = reference.sum_of_images(z) - sums.float() * scale.view(-1, 1, 1)
    in_memory = sums.permute(1, 2, 0).contiguous() if last else sums
    found = image_error(x, last, factors, in_memory, scale)
    found = found.view(*size, channels).permute(2, 0, 1) if last else found.view(channels, *size)
    assert torch.equal(bits(found), bits(expected))


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=60)
@given(
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    last=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_tap_sums(isa, channels, size, kernel, stride, padding, dilation, last, threads, seed):
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    geometry = Geometry("conv2d", stride, padding, dilation)
    out = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    if min(out) < 1:
        return
    plane = images((1, channels, *out), False, seed)[0]
    expected = reference.tap_sums(plane, geometry, (1, 1, *size), kernel)
    flat = plane.permute(1, 2, 0).reshape(-1) if last else plane.reshape(-1)
    found = tap_sums(flat, (channels, out[0], out[1]), last, geometry, size, kernel)
    assert torch.equal(bits(found), bits(expected))


def test_refuses_what_does_not_fit():
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(NybbleError, match="48 sums"):
        image_error(x, False, None, torch.zeros(47, dtype=torch.int64), torch.ones(3))
    with pytest.raises(NybbleError, match="3 numbers"):
        image_error(x, False, None, torch.zeros(48, dtype=torch.int64), torch.ones(2))
    with pytest.raises(ValueError, match="inside the plane"):
        CORE.tap_sums((0, 0), 1, 2, 2, False, [(0, 3)], [(0, 1)], (0, 0), 1)
