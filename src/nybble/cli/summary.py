"""`nybble summary`: what every layer of a model runs in how many bits."""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nybble.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A vision model (docs/training.md), hf:NAME (a tiny model of transformers:"
            " hf:bert, hf:gpt2, hf:vit, ...) or module:function, which returns a model or (model,"
            " example input)."
        ),
    ],
    recipe: Annotated[
        str, typer.Option(help="A recipe, switches after a colon: sun2020:factor=1.848.")
    ] = "sun2020",
    input: Annotated[
        str | None,
        typer.Option(help="Shape of one input: CHANNELSxHEIGHTxWIDTH; 1x28x28 if not given."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Inputs a step; 128 if not given.")] = None,
    classes: Annotated[
        int | None, typer.Option(help="Classes that the model tells apart; 10 if not given.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=RECIPE for layers by name (none: float32). Repeatable."),
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, reference or native.")] = "auto",
    activations: Annotated[
        str, typer.Option(help="What modules keep for backward: none (as torch), exact or 4bit.")
    ] = "none",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse layers that would stay in float32.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show for every layer and Gemm its formats and bits, its share of the work, and the bytes
    that are saved for backward.

    Example: nybble summary resnet8 --recipe sun2020 --input 1x28x28
    """
    given = {"--input": input, "--batch-size": batch_size, "--classes": classes}
    shape = parse_shape(input or "1x28x28")
    count = 128 if batch_size is None else batch_size
    if count < 1:
        raise UserError(f"--batch-size must be at least 1, not {batch_size}.")

    import nybble
    from nybble.cli.train import parse_rule
    from nybble.studies.speed.workload import EXAMPLE_HINT
    from nybble.training.models import hf

    rules = dict(parse_rule(text) for text in rule or [])
    example: Any
    if model.startswith(hf.PREFIX):
        for option, value in given.items():
            if value is not None:
                raise UserError(f"{model} brings its own inputs: leave out {option}")
        built, example = hf.build(model)
    else:
        built, example = _build(model, 10 if classes is None else classes, shape, count, given)
    sizes = _sizes(example)
    nybble.convert(
        built,
        recipe,
        {name: None if value == "none" else value for name, value in rules.items()} or None,
        backend=backend,
        activations=None if activations == "none" else activations,
        strict=strict,
    )
    try:
        found = nybble.summary(built, example)
    except Exception as error:  # whatever a model's own forward may raise
        hint = EXAMPLE_HINT if ":" in model else ""
        raise UserError(f"{model} does not take an input of {sizes}: {error}{hint}") from error
    if json:
        typer.echo(json_text.dumps(found.to_dict(), indent=1))
        return
    typer.echo(f"{model}, recipe {recipe}, input {sizes}\n\n{found}")


def _build(
    name: str, classes: int, shape: tuple[int, ...], count: int, given: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
    """A vision model, or the user's, and the input that it brings or else an image."""
    import torch

    from nybble.studies.speed.workload import users_model
    from nybble.training.models.registry import build_model

    image = torch.randn(count, *shape)
    if ":" not in name:
        return build_model(name, classes, shape[0]), image
    offered = {"num_classes": classes, "in_channels": shape[0], "size": shape[-1], "batch": count}
    built, example, _ = users_model(name, offered)
    if example is None:
        return built, image
    if given["--input"] is not None:
        raise UserError(f"{name} brings its own inputs: leave out --input")
    return built, example


def _sizes(example: Any) -> str:
    """The shapes of an input, in words."""
    if isinstance(example, Mapping):
        return ", ".join(f"{key} {_sizes(x)}" for key, x in example.items())
    if isinstance(example, tuple | list):
        return ", ".join(_sizes(x) for x in example)
    shape = getattr(example, "shape", None)
    return type(example).__name__ if shape is None else " x ".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    """Read CHANNELSxHEIGHTxWIDTH (or any shape without the batch).

    >>> parse_shape("3x32x32")
    (3, 32, 32)
    """
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})*", text):
        raise UserError(f"--input '{text}': give a shape such as 1x28x28.")
    return tuple(int(part) for part in text.split("x"))
