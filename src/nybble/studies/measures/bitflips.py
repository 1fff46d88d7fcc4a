"""Bit flips in stored weights: what memory errors do to a trained network.

Every bit of every stored code is flipped with probability p, independently; the network is then
tested as it is. Measured are the layers whose weight the recipe stores in at most 8 bits (first and
last layer in 16, normalisation and biases stay whole):

    codes      a network of few bits: quantise the weights as its layers do, flip bits of the codes,
               decode, and compute with those values (nothing is quantised a second time: SAWB would
               read another clip from them). A float32 network: its weights, quantised after
               training by the quantizers of `RECIPE`, and flipped in the same way
    words      float32 networks only: the bits of the float32 words of the same weights

    p = 0 of `codes` is the network without flips: of a float32 network the cost of quantising it.

A float32 weight has eight times the bits of a 4-bit one, and an upset exponent bit multiplies it by
up to 2^128; a 4-bit code can at worst move to the other end of its table. Flips are functions of
(run's seed, layer, draw), nested in p: what is flipped at a small p is flipped at a larger one.
Reported is the mean over `DRAWS` draws (geometric where the metric is compared by ratio) of those
that gave a finite loss and metric, and as `.failed` the share of draws that did not: where some
failed, the mean is that of the survivors.

Not done: flips in activations, gradients, scales and in the master weights during training; error
correcting codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nybble.errors import UserError
from nybble.studies.measures.trained import Trained, load_trained
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nybble.nn.state import QuantizedLayer
    from nybble.quantizers import QTensor, Quantizer

RATES = (0.0, 1e-4, 1e-3, 1e-2)
WORD_RATES = (1e-6, 3e-6, 1e-5)
DRAWS = 3
RECIPE = "sun2020"
"""Whose quantizers a float32 network is quantised with after its training."""
MOST_BITS = 8
FLOAT32 = "fp32"


def bit_flips(folder: Path, config: TrainConfig) -> dict[str, float]:
    """The metric at each of `RATES` (and `WORD_RATES`), of the finished run in `folder`.

    Raises:
        UserError: no layer of the run stores its weight in few bits.
    """
    return with_flips(load_trained(folder, config))


def with_flips(
    run: Trained,
    rates: Sequence[float] = RATES,
    word_rates: Sequence[float] = WORD_RATES,
    draws: int = DRAWS,
    recipe: str = RECIPE,
) -> dict[str, float]:
    """{"codes-0.001": metric, "codes-0.001.failed": share, "words-1e-05": ...}."""
    float32 = run.config.recipe == FLOAT32

    def codes(rate: float, draw: int) -> nn.Module:
        return flipped_after(run, recipe, rate, draw) if float32 else flipped(run, rate, draw)

    found = _over_draws("codes", run, codes, rates, draws)
    if float32:

        def words(rate: float, draw: int) -> nn.Module:
            return flipped_words(run, recipe, rate, draw)

        found |= _over_draws("words", run, words, word_rates, draws)
    return found


def _over_draws(
    name: str,
    run: Trained,
    model: Callable[[float, int], nn.Module],
    rates: Sequence[float],
    draws: int,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for rate in rates:
        tests = [run.test(model=model(rate, draw)) for draw in range(draws if rate else 1)]
        values = [tested.metric for tested in tests if tested.finite]
        key = f"{name}-{rate:g}"
        if values:
            found[key] = run.shown(mean(values, run.task.comparison == "ratio"))
        found[f"{key}.failed"] = 1 - len(values) / len(tests)
    return found


def mean(values: Sequence[float], geometric: bool) -> float:
    """The mean of numbers, geometric or not.

    >>> mean([1.0, 4.0], False), mean([1.0, 4.0], True)
    (2.5, 2.0)
    """
    if geometric and min(values) > 0:
        return math.exp(math.fsum(map(math.log, values)) / len(values))
    return math.fsum(values) / len(values)


# ---- networks with flipped bits ------------------------------------------------------------------


def flipped(run: Trained, rate: float, draw: int) -> nn.Module:
    """A copy of a network that was trained in few bits, with flipped codes."""
    import copy

    model = copy.deepcopy(run.model)
    for name, layer, stored in list(stored_weights(model, run)):
        layer.hold_weight_(_upset(stored, rate, run.draws(f"bits/{name}", draw)).dequantize())
    return model


def flipped_after(run: Trained, recipe: str, rate: float, draw: int) -> nn.Module:
    """A copy of a float32 network whose weights went through flipped codes after training."""
    import nybble

    model = _converted(run, recipe)
    for name, layer, stored in list(stored_weights(model, run)):
        layer.hold_weight_(_upset(stored, rate, run.draws(f"bits/{name}", draw)).dequantize())
    return nybble.revert(model)


def flipped_words(run: Trained, recipe: str, rate: float, draw: int) -> nn.Module:
    """A copy of a float32 network with flipped bits in the words of the same weights."""
    import torch

    import nybble

    model = _converted(run, recipe)
    for name, layer, _ in list(stored_weights(model, run)):
        words = layer.weight.detach().contiguous().view(torch.int32)
        upset = flip(words, 32, rate, run.draws(f"words/{name}", draw))
        layer.hold_weight_(upset.view(torch.float32))
    return nybble.revert(model)


def stored_weights(model: nn.Module, run: Trained) -> Iterator[tuple[str, QuantizedLayer, QTensor]]:
    """(name, layer, codes) of every converted layer that stores its weight in few bits; a weight
    that two layers share comes once.

    Raises:
        UserError: there is none, or a weight's codes cannot be read back.
    """
    from nybble.nn.attention import Product
    from nybble.nn.registry import quantized_layers
    from nybble.quantizers import Quantizer

    seen: set[int] = set()
    for name, layer in quantized_layers(model):
        slot = layer.nybble_spec.output_weight
        if isinstance(layer, Product) or not isinstance(slot, Quantizer):
            continue
        if slot.format.bits > MOST_BITS or layer.weight.data_ptr() in seen:
            continue
        seen.add(layer.weight.data_ptr())
        yield name, layer, _codes(name, layer, slot)
    if not seen:
        raise UserError(
            f"bit-flips: no layer of {run.config.model} under {run.config.recipe} stores its "
            f"weight in at most {MOST_BITS} bits."
        )


def _codes(name: str, layer: QuantizedLayer, slot: Quantizer) -> QTensor:
    """The codes of the weight as the layer stores them in inference."""
    from dataclasses import replace

    from nybble.nn.parts import geometry_of
    from nybble.ops.reference.places import places
    from nybble.quantizers import RandomKey, quantize

    if slot.transform is not None:
        raise UserError(
            f"bit-flips: the layer {name} stores a transformed weight ({slot.short}), whose codes "
            "are not read back here."
        )
    key = RandomKey(seed=layer.nybble_seed, layer=layer.nybble_index, operand=1)
    place = places(geometry_of(layer), "output")[1]
    known = replace(slot, scale=slot.scale.along(place.contraction, place.free))
    return quantize(layer.weight, known, key=key)


def _upset(stored: QTensor, rate: float, random: torch.Generator) -> QTensor:
    from nybble.quantizers import QTensor

    codes = flip(stored.codes(), stored.format.bits, rate, random)
    return QTensor.pack(codes, stored.format, stored.fit)


def _converted(run: Trained, recipe: str) -> nn.Module:
    import copy

    import nybble

    model = copy.deepcopy(run.model)
    nybble.revert(model)  # a float32 run may have memory-saving layers
    return nybble.convert(model, recipe, backend="reference")


def flip(codes: Tensor, bits: int, rate: float, random: torch.Generator) -> Tensor:
    """`codes` (whole numbers) with each of their low `bits` bits flipped with probability `rate`.

    >>> import torch
    >>> codes = torch.zeros(1000, dtype=torch.uint8)
    >>> flip(codes, 4, 1.0, torch.Generator()).unique()
    tensor([15], dtype=torch.uint8)
    >>> 60 < int((flip(codes, 4, 0.02, torch.Generator().manual_seed(0)) != 0).sum()) < 100
    True
    """
    import torch

    for bit in range(bits):
        hit = torch.rand(codes.shape, generator=random) < rate
        codes = codes ^ (hit.to(codes.dtype) << bit)
    return codes
