"""Whole models with fused kernels: as the reference within tolerance, the same for every ISA."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nybble
from nybble.nn.memory import ActivationMemory
from nybble.nn.memory.norm_function import NativeBatchNormFunction
from nybble.nn.memory.pointwise import NativeReLUFunction
from nybble.ops.native import core
from nybble.training.models.resnet import resnet8

module = core()[0]
pytestmark = pytest.mark.skipif(module is None, reason="no compiled module")


@pytest.fixture(autouse=True)
def restore():
    before = module.active_isa(), torch.get_num_threads()
    yield
    module.use_isa(before[0])
    torch.set_num_threads(before[1])


def net(backend, recipe="fp32", **options):
    torch.manual_seed(0)
    model = resnet8(width=8).to(memory_format=torch.channels_last)
    memory = ActivationMemory(**options)
    return nybble.convert(model, recipe, activations=memory, backend=backend)


def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3, 12, 12).to(memory_format=torch.channels_last), torch.arange(8)


def gradients(model):
    x, t = batch()
    model.zero_grad()
    loss = F.cross_entropy(model(x), t)
    loss.backward()
    return [loss.detach()] + [p.grad.clone() for p in model.parameters()]


def names(model):
    x, _ = batch()
    found, todo = [], [model(x).grad_fn]
    while todo:
        node = todo.pop()
        found.append(type(node).__name__)
        todo += [inner for inner, _ in node.next_functions if inner is not None]
    return found


def test_fused_kernels_are_used_and_close_to_the_reference():
    native, reference = net("native"), net("reference")
    found = names(copy.deepcopy(native))
    assert found.count("NativeBatchNormFunctionBackward") >= 9
    assert "NativeReLUFunctionBackward" in found
    assert NativeBatchNormFunction and NativeReLUFunction
    for a, b in zip(gradients(native), gradients(reference), strict=True):
        assert (a - b).norm() <= 2e-2 * b.norm() + 1e-5


def test_in_place_and_joining_change_no_bit_of_the_forward_pass():
    x, _ = batch()
    outputs = [
        net("native", in_place=in_place, fuse=fuse)(x)
        for in_place in (False, True)
        for fuse in (False, True)
    ]
    assert all(torch.equal(y, outputs[0]) for y in outputs)
    a = gradients(net("native", in_place=False))
    b = gradients(net("native", in_place=True))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("recipe", ["sun2020"])
def test_training_gives_the_same_bits_for_every_instruction_set(recipe):
    results = []
    for isa in module.isas():
        module.use_isa(isa)
        torch.set_num_threads(1)
        model = net("native", recipe)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        x, t = batch()
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), t).backward()
            optimizer.step()
        results.append([v.clone() for v in model.state_dict().values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_somebody_who_looks_at_the_convolution_sees_its_output():
    model = net("native")
    seen = []
    model.conv1.register_forward_hook(lambda m, args, out: seen.append(out))
    x, _ = batch()
    model(x)
    assert torch.equal(seen[0], F.conv2d(x, model.conv1.weight, padding=1))


def test_contiguous_images_take_torchs_own_forward():
    model = nybble.convert(
        nn.Sequential(nn.BatchNorm2d(4)), "fp32", activations="4bit", backend="native"
    )
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    assert torch.equal(model(x), F.batch_norm(x, None, None, training=True))
