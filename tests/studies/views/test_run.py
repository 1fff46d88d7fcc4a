"""The short run of the figures is the training loop's, and its dict says how to repeat it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nybble.errors import UserError
from nybble.studies.views.run import (
    ViewConfig,
    command,
    layers,
    output_gradients,
    short_run,
)
from nybble.training.checkpoint import load_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.loop import train


@pytest.mark.slow
def test_the_steps_are_those_of_nybble_train(tmp_path: Path) -> None:
    config = ViewConfig(model="cnn", steps=2, batch_size=2000, seed=3)
    with short_run(config) as run:
        for step in range(2):
            run.forward_backward(step)
            run.update(step)
        ours = {name: t.clone() for name, t in run.model.state_dict().items()}
    train(
        TrainConfig(
            model="cnn", epochs=1, batch_size=2000, seed=3, backend="reference",
            threads=1, out=str(tmp_path / "run"), quiet=True,
        )
    )  # fmt: skip
    found = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None and found.step == 2
    assert ours.keys() == found.content["model"].keys()
    for name, tensor in found.content["model"].items():
        assert torch.equal(ours[name], tensor), name


def test_threads_and_generators_are_given_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with short_run(ViewConfig(model="cnn", batch_size=8, threads=2)):
        assert torch.get_num_threads() == 2
        torch.rand(3)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gradient_a_use_and_no_hook_that_stays() -> None:
    layer = nn.Linear(3, 3)
    with output_gradients({"a": layer}) as found:
        (layer(layer(torch.ones(2, 3))) * 2).sum().backward()
    first, second = found["a"]
    assert torch.equal(first, torch.full((2, 3), 2.0))
    assert torch.equal(second, torch.full((2, 3), 2.0) @ layer.weight)
    assert not layer._forward_hooks


def test_layers_of_float32_are_those_that_could_be_converted() -> None:
    with short_run(ViewConfig(model="cnn", recipe="fp32", batch_size=8)) as run:
        assert list(layers(run)) == ["features.0", "features.4", "features.8", "classifier"]


def test_the_command_repeats_what_was_asked() -> None:
    config = ViewConfig(model="cnn", recipe="sun2020:factor=1.848", batch_size=8)
    assert command("gradients", config, {"layer": "a b"}) == (
        "nybble figures gradients --model cnn --recipe sun2020:factor=1.848 --batch-size 8"
        " --layer 'a b'"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"seed": -1}, "seed must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"recipe": "sun2021"}, "Did you mean 'sun2020'"),
        ({"model": "resnet9"}, "Unknown model 'resnet9'"),
        ({"data": "mnist5"}, "Unknown data 'mnist5'"),
    ],
)
def test_mistakes(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message), short_run(ViewConfig(**given)):  # type: ignore[arg-type]
        pass


def test_a_loss_that_is_not_finite_is_named() -> None:
    with short_run(ViewConfig(model="cnn", batch_size=8)) as run:
        nn.init.constant_(run.model.classifier.bias, float("nan"))  # type: ignore[union-attr]
        with pytest.raises(UserError, match="the loss of step 5 is nan"):
            run.forward_backward(4)
