"""Fused normalisation: every instruction set gives the generic twin's bits, and torch's values."""

import pytest
import torch
import torch.nn.functional as F

from nybble.errors import NybbleError
from nybble.ops.native import core, norm
from nybble.quantizers.packing import unpack4

module = core()[0]
pytestmark = pytest.mark.skipif(module is None, reason="no compiled module")

SHAPES = [
    (8, 64, 9, 7),
    (3, 16, 5, 5),
    (2, 48, 6, 6),
    (5, 40, 3, 3),
    (4, 3, 11, 5),
    (2, 10, 7, 7),
    (130, 512, 2, 2),
    (33, 256, 4, 4),
    (2, 8, 60, 61),
    (7, 1, 4, 4),
    (17, 24),
    (2, 130),
]


@pytest.fixture(autouse=True)
def restore():
    before = module.active_isa(), torch.get_num_threads()
    yield
    module.use_isa(before[0])
    torch.set_num_threads(before[1])


def data(shape, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(shape) * 3 + torch.randn(shape[1]).view(1, -1, *[1] * (len(shape) - 2)) * 5
    grad = torch.randn(shape)
    if len(shape) == 4:
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
    weight[::5], bias[3::7] = 0.0, 9.0
    return x, grad, weight, bias


def both_ways(shape, relu, seed=0, special=None):
    x, grad, weight, bias = data(shape, seed)
    if special is not None:
        x.permute(0, *range(2, x.dim()), 1).reshape(-1, shape[1])  # keep the layout
        x[0, 0] = special
    mean, var = torch.zeros(shape[1]), torch.ones(shape[1])
    y, packed, stats = norm.batch_norm_forward(x, weight, bias, mean, var, 0.1, 1e-5, relu)
    dx, dgamma, dbeta = norm.batch_norm_backward(grad, packed, stats)
    return y, packed, stats, mean, var, dx, dgamma, dbeta


def same_bits(a, b):
    return all(
        torch.equal(s.contiguous().view(torch.uint8), t.contiguous().view(torch.uint8))
        for s, t in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_for_every_instruction_set_and_thread_count(shape, relu):
    module.use_isa("generic")
    torch.set_num_threads(1)
    want = both_ways(shape, relu)
    for isa in module.isas():
        for count in (1, 2, 3):
            module.use_isa(isa)
            torch.set_num_threads(count)
            assert same_bits(both_ways(shape, relu), want), (isa, count)


@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_extremes_are_the_same_everywhere_and_never_silent(special):
    results = []
    for isa in module.isas():
        module.use_isa(isa)
        results.append(both_ways((4, 16, 3, 3), True, special=special))
        y, _, _, _, _, dx, _, _ = results[-1]
        if special != 3e38:
            assert y[:, 0].isnan().all() or y[:, 0].isnan().any()
            assert dx[:, 0].isnan().all()
        assert y[:, 1:].isfinite().all() and dx[:, 1:].isfinite().all()
    assert all(same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_torchs(shape, relu):
    x, grad, weight, bias = data(shape)
    y, _, stats, mean, var, dx, dgamma, dbeta = both_ways(shape, relu)
    leaf = x.clone().requires_grad_()
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    mean2, var2 = torch.zeros(shape[1]), torch.ones(shape[1])
    want = F.batch_norm(leaf, mean2, var2, w, b, True, 0.1, 1e-5)
    want = want.relu() if relu else want
    want.backward(grad)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(mean, mean2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var, var2, rtol=1e-5, atol=1e-6)
    if relu:  # the mask may differ where y is 0 up to rounding
        torch.testing.assert_close(dbeta, b.grad, rtol=1e-3, atol=1e-2)
    else:
        torch.testing.assert_close(dbeta, b.grad, rtol=1e-4, atol=1e-3)
    assert (dgamma - w.grad).norm() <= 0.25 * w.grad.norm() + 1e-4
    scale = stats[1].abs().view(1, -1, *[1] * (len(shape) - 2))
    if x.numel() // shape[1] >= 40:
        assert (dx - leaf.grad).norm() <= 0.06 * leaf.grad.norm() + 1e-5 * scale.sum()
    assert y.stride() == x.stride() and dx.stride() == grad.stride()


def test_codes_decode_to_the_normalised_input_and_tell_the_mask():
    x, _, weight, bias = data((16, 24, 6, 6))
    y, packed, stats = norm.batch_norm_forward(x, weight, bias, None, None, 0.1, 1e-5, True)
    codes = unpack4(packed, x.numel()).view(16, 6, 6, 24).permute(0, 3, 1, 2).float()
    step, offset, first = (row.view(1, -1, 1, 1) for row in stats[2:])
    assert torch.equal(codes >= first, y > 0)
    xhat = (x - x.mean((0, 2, 3), keepdim=True)) / x.var(
        (0, 2, 3), unbiased=False, keepdim=True
    ).sqrt()
    inside = (xhat.abs() < 2.6) & (first > 1.5) & (first < 14.5)
    error = (codes * step + offset - xhat).abs()[inside]
    assert error.numel() > 1000 and error.max() < 0.1876


@pytest.mark.parametrize("mean, deviation", [(1e4, 1.0), (-1e5, 10.0), (0.0, 1e-6)])
def test_variance_keeps_its_digits_far_from_zero(mean, deviation):
    torch.manual_seed(0)
    x = torch.randn(500, 8) * deviation + mean
    x[::31] = 0.0  # the pixels that the first guess looks at
    _, _, stats = norm.batch_norm_forward(x, None, None, None, None, 0.1, 0.0, False)
    exact = x.double().var(0, unbiased=False).rsqrt()
    torch.testing.assert_close(stats[1].double(), exact, rtol=1e-5, atol=0)


def test_in_place_gives_the_same_bits():
    for shape in SHAPES[:6]:
        x, _, weight, bias = data(shape)
        want = norm.batch_norm_forward(x, weight, bias, None, None, 0.1, 1e-5, True)
        got = norm.batch_norm_forward(x, weight, bias, None, None, 0.1, 1e-5, True, True)
        assert got[0] is x and same_bits(got, want)


@pytest.mark.parametrize("top", [None, 6.0])
@pytest.mark.parametrize("count", [1, 7, 8, 63, 64, 65, 1000, 70001])
def test_relu_is_torchs_bit_for_bit(count, top):
    torch.manual_seed(count)
    x = 5.0 * torch.randn(count)
    function = torch.relu if top is None else torch.nn.functional.relu6
    x[0], x[-1] = torch.nan, 0.0
    if count > 7:
        x[2:6] = torch.tensor([6.0, -0.0, torch.inf, -torch.inf])
    leaf, grad = x.clone().requires_grad_(), torch.randn(count)
    function(leaf).backward(grad)
    for isa in module.isas():
        for threads in (1, 2):
            module.use_isa(isa)
            torch.set_num_threads(threads)
            y, bits = norm.relu_forward(x, top=top)
            torch.testing.assert_close(y, function(x), rtol=0, atol=0, equal_nan=True)
            # What torch's ReLU6 makes of a NaN's gradient depends on the place of the number.
            known = torch.ones(count, dtype=torch.bool) if top is None else ~x.isnan()
            assert torch.equal(norm.relu_backward(grad, bits, False)[known], leaf.grad[known])
            copy = x.clone()
            assert norm.relu_forward(copy, True, top)[0] is copy
            assert same_bits([copy], [y])


def test_wrong_arguments_are_errors():
    x = torch.randn(4, 8)
    y, packed, stats = norm.batch_norm_forward(x, None, None, None, None, 0.1, 1e-5, False)
    with pytest.raises(NybbleError):
        norm.batch_norm_forward(x.double(), None, None, None, None, 0.1, 1e-5, False)
    with pytest.raises(NybbleError):
        norm.batch_norm_forward(x, torch.ones(3), None, None, None, 0.1, 1e-5, False)
    with pytest.raises(ValueError):
        norm.batch_norm_backward(torch.randn(40, 8), packed, stats)
    with pytest.raises(ValueError):
        norm.relu_backward(torch.randn(100), torch.zeros(2, dtype=torch.uint8), False)
    with pytest.raises(ValueError):
        module.batch_norm_backward(-1, 8, (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), 1)
    with pytest.raises(ValueError):
        module.relu_forward((0, 0), 2**62, 6.0, (0, 0), (0, 0), 1)
    assert y.shape == x.shape


def layer(shape, width, affine):
    torch.manual_seed(0)
    x, grad = torch.randn(shape) * 2 + 1, torch.randn(shape)
    x[0] = 3.0  # a row without variance
    w, b = (torch.randn(width), torch.randn(width)) if affine else (None, None)
    y, packed, stats = norm.layer_norm_forward(x, width, w, b, 1e-5)
    return x, grad, w, b, (y, packed, stats, *norm.layer_norm_backward(grad, packed, stats, w))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape, width", [((3, 64), 64), ((5, 31, 128), 128), ((700, 512), 512)])
def test_layer_norm(shape, width, affine):
    module.use_isa("generic")
    torch.set_num_threads(1)
    x, grad, w, b, want = layer(shape, width, affine)
    for isa in module.isas():
        for count in (1, 2):
            module.use_isa(isa)
            torch.set_num_threads(count)
            assert same_bits(layer(shape, width, affine)[4], want), (isa, count)
    leaves = [None if v is None else v.clone().requires_grad_() for v in (x, w, b)]
    y = F.layer_norm(leaves[0], (width,), leaves[1], leaves[2], 1e-5)
    y.backward(grad)
    torch.testing.assert_close(want[0], y, rtol=1e-4, atol=1e-5)
    rows = slice(1, None)  # row 0: 1 / sqrt(eps) times what is left of rounding
    dx = leaves[0].grad
    assert (want[3] - dx)[rows].norm() <= 0.06 * dx[rows].norm()
    assert (want[3] - dx)[0].norm() <= 0.01 * dx[0].norm()
    if affine:
        assert (want[4] - leaves[1].grad).norm() <= 0.25 * leaves[1].grad.norm()
        torch.testing.assert_close(want[5], leaves[2].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [5, 64, 1000, 70001])
def test_slopes(count):
    torch.manual_seed(count)
    slopes, grad = torch.rand(count) * 1.5 - 0.3, torch.randn(count)
    slopes[:3] = torch.tensor([0.0, 1.0, torch.nan])
    results = []
    for isa in module.isas():
        module.use_isa(isa)
        packed = norm.pack_slopes(slopes)
        results.append((packed, norm.slope_grad(grad, packed, False)))
    assert all(same_bits(result, results[0]) for result in results)
    clipped = slopes[3:].clamp(-1 / 6, 13 / 12)
    assert (results[0][1][3:] - clipped * grad[3:]).abs().max() <= grad.abs().max() / 24 + 1e-6
    torch.testing.assert_close(results[0][1][:2], torch.tensor([0.0, grad[1]]))


def test_layer_norm_and_slopes_refuse_wrong_arguments():
    with pytest.raises(ValueError):
        module.layer_norm_forward(1, 65, (0, 0), (0, 0), (0, 0), 0.1, (0, 0), (0, 0), (0, 0), 1)
    with pytest.raises(ValueError):
        norm.slope_grad(torch.randn(100), torch.zeros(32, dtype=torch.uint8), False)
