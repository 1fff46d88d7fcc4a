"""One list of targets, layers and parts of modules: rules, files, and float weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nybble
from nybble.convert import convertible_layers
from nybble.nn import ScaledDotProductAttention
from nybble.nn.multihead import MultiheadAttention
from nybble.nn.parts import targets

FOUR = "sun2020:first_last=int4"
ALL = f"{FOUR}+attention=yes+embedding=yes+signed=symmetric"  # every input has a learned clip
PROJECTIONS = ("in_proj", "k_proj", "v_proj", "out_proj")
PRODUCTS = ("qk_product", "pv_product")
_PAIR = ("attention.pv_product", "attention.qk_product")


class Everything(nn.Module):
    """An embedding, a GRU, attention and a head."""

    def __init__(self, gru: type[nn.GRU] = nn.GRU) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.gru = gru(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.gru(self.table(tokens))[0]
        return self.head(self.attention(x, x, x)[0])


def step(model: nn.Module, x: Tensor) -> None:
    model(x).float().square().sum().backward()


def tokens() -> Tensor:
    return torch.arange(12).view(2, 6) % 11


def names(model: nn.Module) -> set[str]:
    return {name for name, _ in nybble.quantized_layers(model)}


def clips(model: nn.Module) -> dict[str, float]:
    return {
        name: float(layer.nybble_alpha.detach())
        for name, layer in nybble.quantized_layers(model)
        if layer.nybble_alpha is not None and int(layer.nybble_calls) > 0
    }


def test_targets_have_the_names_that_layers_get() -> None:
    before = [t.name for t in targets(Everything())]
    assert before == [
        "table",
        "gru.ih_l0",
        "gru.hh_l0",
        *(f"attention.{p}" for p in (*PROJECTIONS[:3], *PRODUCTS, "out_proj")),
        "head",
    ]
    model = nybble.convert(Everything(), ALL)
    assert names(model) == set(before) == {t.name for t in targets(model)}
    owners = {t.owner for t in targets(Everything())}
    assert owners == {None, "gru", "attention"}


def test_the_name_of_a_whole_means_its_parts() -> None:
    model = nybble.convert(Everything(), FOUR, {"gru": None, "attention": "hfp8"})
    assert type(model.gru) is nn.GRU
    # Products are not brought in by it.
    assert names(model) == {*(f"attention.{p}" for p in PROJECTIONS), "head"}
    assert model.attention.in_proj.nybble_rule == "user rule attention"
    model = nybble.convert(Everything(), FOUR, {"attention.k_proj": "hfp8", "attention": None})
    assert names(model) == {"gru.ih_l0", "gru.hh_l0", "attention.k_proj", "head"}
    model = nybble.convert(Everything(), FOUR, {"attention": None}, strict=True)
    assert type(model.attention) is nn.MultiheadAttention
    model = nybble.convert(Everything(), ALL, {"re:^attention$": "hfp8"})
    assert model.attention.qk_product.nybble_rule == "user rule re:^attention$"
    with pytest.raises(nybble.UserError, match=r"Did you mean 'attention.in_proj'"):
        nybble.convert(Everything(), FOUR, {"attention.in_prj": None})


def test_a_recipes_rule_by_the_name_of_a_whole_does_not_bring_in_products() -> None:
    rule = nybble.recipes.recipe.Rule(None, name="attention")
    facts = {f.name: rule.matches(f) for f, _ in convertible_layers(Everything())}
    assert facts["attention.in_proj"] and not facts["attention.qk_product"]
    own = nybble.recipes.recipe.Rule(None, name="attention.qk_product")
    assert [f.name for f, _ in convertible_layers(Everything()) if own.matches(f)] == [
        "attention.qk_product"
    ]


def positions(model: nn.Module) -> dict[str, set[str]]:
    return {f.name: set(f.position) for f, _ in convertible_layers(model) if f.position}


def test_first_and_last_with_and_without_an_embedding_in_front() -> None:
    assert positions(Everything()) == {"head": {"last"}}
    assert positions(nn.Sequential(nn.GRU(2, 3), nn.Embedding(2, 2))) == {
        "0.ih_l0": {"first", "last"},
        "0.hh_l0": {"last"},
    }
    assert positions(nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2), nn.GRU(2, 3, 2))) == {
        "1": {"first"},
        "2.ih_l1": {"last"},
        "2.hh_l1": {"last"},
    }
    assert positions(nn.Sequential(nn.MultiheadAttention(4, 2))) == {
        "0.in_proj": {"first"},
        "0.out_proj": {"last"},
    }

    class Table(nn.Embedding):
        """No converted class, but an embedding."""

    assert positions(nn.Sequential(Table(2, 2), nn.GRU(2, 3), nn.Linear(3, 2))) == {"2": {"last"}}


def test_a_subclass_is_named_as_not_converted_and_none_accepts_it() -> None:
    class Own(nn.GRU):
        pass

    with pytest.raises(nybble.UserError, match=r"cannot be converted \(1\): gru \(Own\)"):
        nybble.convert(Everything(Own), FOUR, strict=True)
    with pytest.raises(nybble.UserError, match="gru has no converted class"):
        nybble.convert(Everything(Own), FOUR, {"gru": "hfp8"})
    model = nybble.convert(Everything(Own), FOUR, {"gru": None}, strict=True)
    found = nybble.summary(model, tokens())
    assert found.unconverted == (("gru", "Own"),) and found.tables == (("table", "Embedding"),)


def test_files_and_revert_know_every_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nybble.convert(Everything(), ALL, {"gru.hh_l0": None})
    step(model, tokens())
    nybble.save(model, tmp_path / "model.safetensors")
    twin = nybble.load(Everything(), tmp_path / "model.safetensors")
    assert names(twin) == names(model) and clips(twin) == clips(model)
    assert type(twin.attention) is MultiheadAttention and type(twin.gru) is type(model.gru)
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens()), twin.eval()(tokens()))
    listed = {row.layer for row in nybble.summary(model, tokens()).rows}
    assert listed == names(model) - {"attention.k_proj", "attention.v_proj"}
    nybble.revert(twin)
    kinds = [type(m) for m in twin.modules()]
    assert kinds == [type(m) for m in Everything().modules()]
    assert list(twin.state_dict()) == list(Everything().state_dict())
    assert not twin.attention._load_state_dict_pre_hooks


def test_float_weights_start_every_part_afresh() -> None:
    model = nybble.convert(Everything(), ALL)
    step(model, tokens())
    assert min(clips(model).values()) > 0 and len(clips(model)) == 7
    for one in (copy.deepcopy(model), model):
        before = clips(one)
        one.load_state_dict(one.state_dict())
        assert clips(one) == before
        one.load_state_dict({"head.bias": torch.zeros(11)}, strict=False)
        one.load_state_dict({"attention.in_proj_bias": torch.zeros(24)}, strict=False)
        kept = {n: v for n, v in clips(one).items() if "product" not in n}
        assert kept == {n: v for n, v in before.items() if "product" not in n}
        one.load_state_dict(Everything().state_dict())
        assert clips(one) == {}
    step(model, tokens())
    assert min(clips(model).values()) > 0


def test_products_of_a_module_without_weights_follow_those_around_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.attention = nn.Linear(8, 24), ScaledDotProductAttention()

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).movedim(-3, 0).transpose(-3, -2)
            return self.attention(q, k, v)

    model = nybble.convert(nn.Sequential(Block(), Block()), ALL)
    model[0](torch.randn(2, 5, 8)).sum().backward()
    model[1](torch.randn(2, 5, 8)).sum().backward()
    start = {f"1.{key}": value for key, value in Block().state_dict().items()}
    model.load_state_dict(start, strict=False)
    assert {name.partition(".")[0] for name in clips(model)} == {"0"}
    assert len(clips(model)) == 3
    # A block around a block: each looks after its own products.
    outer = Block()
    outer.inner = Block()
    nybble.convert(outer, ALL)
    for block in (outer, outer.inner):
        block(torch.randn(2, 5, 8)).sum().backward()
    assert len(clips(outer)) == 6
    weights = {"qkv.weight": torch.randn(24, 8), "qkv.bias": torch.zeros(24)}
    outer.load_state_dict(weights, strict=False)
    assert sorted(clips(outer)) == [f"inner.{name}" for name in (*_PAIR, "qkv")]
