"""A recipe gives every Gemm its operands, and every operand is quantised once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.hardware.kinds import OPTIMIZER, QUANTISE, UNCOVERED
from nybble.hardware.networks import NETWORKS, check_network, get_network
from nybble.hardware.quantise import operand_of, work_of
from nybble.hardware.recurrent import merge_time
from nybble.hardware.tasks import Task, Workload
from nybble.hardware.workload import plan
from nybble.recipes import RECIPES, get_recipe

Step = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def chain() -> Step:
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16)]
    model = nn.Sequential(*layers, nn.Linear(16, 4))
    return model, lambda model: model(torch.zeros(32, 8)).square().mean()


def of(workload: Workload, layer: str, cause: str = "") -> list[Task]:
    return [t for t in workload.tasks if t.layer == layer and cause in ("", t.cause)]


def test_every_operand_is_quantised_once_and_both_phases_together() -> None:
    work = plan(chain, "sun2020")
    found = of(work, "2", QUANTISE)
    assert [task.phase for task in found] == ["forward", "forward", "backward"]
    x, w, g = found
    assert x.reads[0].passes == 1 and "pact" in x.name  # its clip is known
    assert w.reads[0].passes == 2 and "sawb" in w.name  # its moments are not
    assert w.reads[0].bytes == 16 * 16 * 4  # the master's 32 bits
    assert x.writes[0].bytes == 32 * 16 / 2
    assert len(g.writes) == 2 and "fp4_radix4_odd" in g.name
    codes = {task.cause: [use.key for use in task.reads] for task in of(work, "2") if task.gemm}
    assert codes["grad_input"][1] == codes["output"][1]  # the forward codes of the weight
    assert codes["grad_weight"][1] == codes["output"][0]
    assert {codes["grad_input"][0], codes["grad_weight"][0]} == {use.key for use in g.writes}


def test_signed_inputs_take_the_slot_for_them() -> None:
    work = plan(chain, "sun2020")
    names = {layer: of(work, layer, QUANTISE)[0].name for layer in ("2", "4")}
    assert "pact" in names["2"] and "sawb" in names["4"]  # behind a ReLU, behind GELU
    skewed = plan(chain, "nybble4")
    quantised = [t.name for t in of(skewed, "4", QUANTISE)]
    assert any("s31" in name for name in quantised)


def test_ends_are_16_bits_and_need_no_codes() -> None:
    work = plan(chain, "sun2020")
    first = of(work, "0")
    assert {t.left.kind for t in first if t.gemm} == {"fp16"}
    assert [t.name for t in first if t.cause == QUANTISE] == ["fp16·unit"]  # the master's cast
    assert plan(chain, "fp32").float_layers == ()
    assert all(t.left.kind == "fp32" for t in plan(chain, "fp32").tasks if t.gemm)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_has_a_workload(recipe: str) -> None:
    work = plan(chain, recipe)
    kinds = {kind for t in work.tasks if t.gemm for kind in (t.left.kind, t.right.kind)}
    spec = get_recipe(recipe).spec
    inner = [t for t in of(work, "2") if t.gemm]
    assert inner[0].right.kind == operand_of(spec.output_weight).kind in kinds
    assert inner[1].left.kind == operand_of(spec.grad_input_grad).kind
    assert work.macs >= sum(t.gemm.macs for t in work.tasks if t.gemm)


def test_more_samples_are_more_products() -> None:
    one = plan(chain, "luq")
    two = plan(chain, "luq:samples=2")
    gw = [next(t for t in of(w, "2") if t.cause == "grad_weight").repeat for w in (one, two)]
    assert gw == [1, 2]


def test_scales_that_need_the_tensor_first_read_it_twice() -> None:
    spec = get_recipe("nvfp4").spec
    assert spec.grad_input_grad is not None
    assert work_of(spec.grad_input_grad).own_pass
    assert operand_of(spec.output_input).block == 16
    delayed = get_recipe("sun2020").spec.grad_input_grad
    exact = get_recipe("sun2020:gradscale=fit").spec.grad_input_grad
    assert delayed is not None and exact is not None
    assert not work_of(delayed).own_pass and work_of(exact).own_pass


def test_the_optimizer_and_its_state() -> None:
    sgd, adam = plan(chain, "fp32"), plan(chain, "fp32", optimizer="adamw")
    steps = [[t for t in work.tasks if t.cause == OPTIMIZER] for work in (sgd, adam)]
    assert [len(t[0].writes) for t in steps] == [2, 3]
    assert sum(t.elements for t in steps[0]) == sgd.parameters
    with pytest.raises(UserError, match="Unknown optimizer 'adm'"):
        plan(chain, "fp32", optimizer="adm")


def test_time_loops_are_joined_where_nothing_waits() -> None:
    def build() -> Step:
        model = nn.LSTM(8, 8, batch_first=True)
        return model, lambda model: model(torch.zeros(4, 10, 8))[0].square().mean()

    work = plan(build, "sun2020", rules={"re:.": "recipe"})
    count = Counter(f"{t.layer} {t.cause}" for t in work.tasks if t.gemm)
    assert count["weight_ih_l0 output"] == 1 and count["weight_hh_l0 output"] == 10
    assert count["weight_ih_l0 grad_weight"] == count["weight_hh_l0 grad_weight"] == 1
    joined = next(t.gemm for t in work.tasks if t.layer == "weight_ih_l0" and t.gemm)
    assert joined is not None and (joined.m, joined.n, joined.k) == (40, 32, 8)
    assert all(t.left.kind == "int4" for t in work.tasks if t.cause == "output")
    assert merge_time([]) == []


@torch.library.custom_op("nybbletest::odd", mutates_args=())
def odd(x: Tensor) -> Tensor:
    return x * 2


@odd.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


odd.register_autograd(lambda ctx, grad: grad * 2)


class Strange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = odd(x)
        return out


def test_an_operator_that_no_table_knows_is_named() -> None:
    def build() -> Step:
        model = nn.Sequential(nn.Linear(8, 8), Strange())
        return model, lambda model: model(torch.zeros(4, 8)).sum()

    work = plan(build, "fp16")
    assert work.uncovered == (("odd", "1", "Strange"),)
    assert [t.elements for t in work.tasks if t.cause == UNCOVERED] == [32]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_shipped_networks_are_covered(name: str) -> None:
    network = get_network(name)
    batch = 2
    work = plan(lambda: network.build(batch), "sun2020", rules=network.rules, batch=batch)
    assert work.uncovered == ()
    assert work.macs > 0


def test_sizes_of_networks_are_those_of_their_papers() -> None:
    millions = {"resnet18": 11.7, "resnet50": 25.6, "mobilenetv2": 3.5, "vgg16": 138.4}
    for name, expected in {**millions, "decoder7b": 6738.4}.items():
        network = get_network(name)
        work = plan(lambda n=network: n.build(1), "fp32")  # type: ignore[misc]
        assert work.parameters / 1e6 == pytest.approx(expected, abs=0.06)


def test_unknown_networks_are_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown network 'resnet5'.*Did you mean 'resnet50'"):
        check_network("resnet5")
    with pytest.raises(UserError, match="Unknown network 'cpu:no'"):
        check_network("cpu:no")
