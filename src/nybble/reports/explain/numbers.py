"""Every number of the page, as one dict that JSON can hold; the text and the script read it.

    bits       the codes of a 4-bit number and what they mean in three formats
    picture    the picture in 2 to 8 bits: for each of 256 greys, what is shown instead
    pixel      a brightness from 0 to 1 mapped on the integers, rounded, and mapped back
    rulers     weights and inputs of a layer during a short training     (scales.py)
    line       a number between the article's ends on four rulers        (scales.py)
    gradients  real gradients on six rulers                              (scales.py)
    phases     two-phase rounding                                        (phases.py)
    step       one step, number by number                                (step.py)
    race       three ways to train, or None                              (race.py)

`Cast` says which formats and which recipe play; another cast gives another page, text included.

Not done here: sentences.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nybble.formats import (
    FP4_RADIX2,
    FP4_RADIX4,
    INT4,
    INT4_SYM,
    LOG4_BASE3,
    LOG4_BASE8,
    LOG4_BASE10,
    UINT4,
    Format,
    Integer,
    LogFormat,
)
from nybble.quantizers import Quantizer, get_quantizer, quantize
from nybble.recipes import get_recipe
from nybble.reports.explain import phases, race, scales, step, walk
from nybble.reports.explain.digits import load_digits
from nybble.reports.explain.networks import SMALL
from nybble.reports.explain.picture import Picture
from nybble.reports.explain.words import number, ordinary_bytes, percent, whole
from nybble.training.files import finite

GREYS = 256
POSITIONS = 101
Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cast:
    """Who plays. example: the brightness that the text follows."""

    integer: Integer = INT4
    unsigned: Integer = UINT4
    linear: Integer = INT4_SYM
    logarithm: LogFormat = FP4_RADIX4
    article: LogFormat = LOG4_BASE10
    others: tuple[LogFormat, ...] = (FP4_RADIX2, LOG4_BASE3, LOG4_BASE8)
    recipe: str = "sun2020"
    example: float = 0.3


@dataclass(frozen=True)
class Plan:
    """How long it takes: steps of the walk and of the race, and how many races there are."""

    walk_steps: int = 60
    walk_every: int = 5
    race_steps: int = 100
    races: int = 3


def collect(
    picture: Picture,
    *,
    seed: int = 0,
    model: str = SMALL,
    with_race: bool = True,
    cast: Cast | None = None,
    plan: Plan | None = None,
    advance: Advance = lambda what, done, total: None,
) -> dict[str, Any]:
    """All numbers of the page; `advance` hears what is being computed.

    Raises:
        UserError: a model that cannot be built or trained.
    """
    cast, plan = cast or Cast(), plan or Plan()
    recipe = get_recipe(cast.recipe)
    advance("digits", 0, 1)
    data, real = load_digits(whole=model != SMALL)
    with race.one_thread():
        advance("a short training", 0, 1)
        walked = walk.walk(model, data, seed, plan.walk_steps, plan.walk_every)
        run = None
        if with_race:
            run = race.race(data, model, cast.recipe, seed, plan.race_steps, plan.races, advance)
        advance("numbers", 0, 1)
        logs = sorted({*cast.others, cast.logarithm, cast.article}, key=lambda f: f.base)
        few: list[Format] = [cast.linear, cast.logarithm, cast.article]
        found: dict[str, Any] = {
            "recipe": {"name": recipe.name, "source": recipe.source, "title": recipe.title},
            "seed": seed,
            "model": model,
            "data": {"name": data.name, "real": real, "side": data.shape[1]},
            "bits": bits(cast),
            "picture": in_few_bits(picture, cast),
            "pixel": pixel(cast),
            "rulers": scales.rulers(walked, cast.recipe),
            "line": scales.line(cast.article, few),
            "gradients": scales.gradients(walked, [cast.linear, *logs]),
            "phases": phases.phases(walked, cast.recipe),
            "step": step.step(picture, seed, cast.recipe),
            "memory": memory(walked.weights, cast),
            "race": run,
        }
    result: dict[str, Any] = finite(found)
    return result


def bits(cast: Cast) -> dict[str, Any]:
    """Codes, and what they mean without a sign, with one, and on a logarithmic scale.

    >>> bits(Cast())["table"][12]
    {'bits': '1100', 'unsigned': '12', 'signed': '−4', 'log': '−1'}
    """
    columns = {"unsigned": cast.unsigned, "signed": cast.integer, "log": cast.logarithm}
    values = {name: format.values() for name, format in columns.items()}
    width = cast.integer.bits
    wide = torch.finfo(torch.float32).bits
    table = [
        {"bits": f"{code:0{width}b}", **{n: number(v[code]) for n, v in values.items()}}
        for code in range(2**width)
    ]
    return {
        "width": width,
        "codes": 2**width,
        "wide": wide,
        "wide_name": str(torch.float32).removeprefix("torch."),
        "wide_codes": whole(2.0**wide),
        "fewer": number(wide / width),
        "pair": number(8 / width),
        "names": {name: format.name for name, format in columns.items()},
        "low": number(cast.integer.low),
        "high": number(cast.integer.high),
        "log_smallest": number(min(v for v in values["log"] if v > 0)),
        "log_largest": number(max(values["log"])),
        "log_base": cast.logarithm.base,
        "log_range": whole(max(values["log"]) / min(v for v in values["log"] if v > 0)),
        "start": cast.integer.integer_values().index(cast.integer.low // 2),
        "table": table,
        "places": {n: [round(x / max(map(abs, v)), 5) for x in v] for n, v in values.items()},
    }


def in_few_bits(picture: Picture, cast: Cast) -> dict[str, Any]:
    """The picture, and what stands for each grey where fewer bits are stored."""
    greys = torch.arange(GREYS, dtype=torch.float32) / (GREYS - 1)
    used_greys = torch.from_numpy(picture.grey.reshape(-1)).long()
    widths = sorted({*range(2, 9), cast.integer.bits})
    rows = []
    for width in widths:
        quantizer = Quantizer(Integer(width), get_quantizer("int4:minmax").scale)
        q = quantize(greys, quantizer)
        shown = (q.dequantize() * (GREYS - 1)).round().clamp(0, GREYS - 1)
        there = quantize(greys[used_greys], quantizer)
        off = (shown[used_greys] - used_greys).abs()
        rows.append(
            {
                "bits": width,
                "levels": 2**width,
                "shown": base64.b64encode(shown.to(torch.uint8).numpy().tobytes()).decode(),
                "used": len(torch.unique(shown[used_greys])),
                "off": number(float(off.mean())),
                "most": number(float(off.max())),
                "bytes": ordinary_bytes(there.codes().numel() * width / 8),
            }
        )
    height, width = picture.grey.shape
    return {
        "name": picture.name,
        "own": picture.own,
        "width": width,
        "height": height,
        "pixels": base64.b64encode(picture.grey.tobytes()).decode(),
        "count": whole(width * height),
        "greys": GREYS,
        "full_bytes": ordinary_bytes(width * height),
        "start": widths.index(cast.integer.bits),
        "rows": rows,
    }


def pixel(cast: Cast) -> dict[str, Any]:
    """Brightnesses 0, 0.01, .. 1 on the integer format, its whole range for the range 0 to 1.

    >>> found = pixel(Cast())
    >>> here = found["start"]
    >>> [found[key][here] for key in ("x", "scaled", "level", "bits", "back")]
    ['0.3', '−3.5', '−4', '1100', '0.267']
    """
    x = torch.arange(POSITIONS, dtype=torch.float32) / (POSITIONS - 1)
    start = round(cast.example * (POSITIONS - 1))
    q = quantize(x, Quantizer(cast.integer, get_quantizer("int4:minmax").scale))
    scaled = q.fit.scaled(x)
    codes = q.codes()
    decoded = q.format.decode(codes)
    back = q.dequantize()
    return {
        "start": start,
        "x": [number(v, 3) for v in x.tolist()],
        "scaled": [number(round(v, 4), 4) for v in scaled.tolist()],
        "level": [number(v) for v in decoded.tolist()],
        "bits": [f"{code:0{q.format.bits}b}" for code in codes.tolist()],
        "back": [number(v) for v in back.tolist()],
        "off": [percent(float(v)) for v in back - x],
        "place": [round(v, 4) for v in scaled.tolist()],
        "level_place": decoded.tolist(),
        "grey": [round(v * (GREYS - 1)) for v in x.tolist()],
        "back_grey": [round(v * (GREYS - 1)) for v in back.tolist()],
        "low": float(cast.integer.low),
        "high": float(cast.integer.high),
        "step": number(float(q.fit.scale)),
        "tie": bool((scaled[start] - scaled[start].floor()) == 0.5),
        "neighbours": [
            number(float(scaled[start].floor())),
            number(float(scaled[start].floor()) + 1),
        ],
    }


def memory(weights: int, cast: Cast) -> dict[str, str]:
    """What the weights of the page's network take, wide and narrow."""
    wide = torch.finfo(torch.float32).bits
    return {
        "weights": whole(weights),
        "wide": ordinary_bytes(weights * wide / 8),
        "narrow": ordinary_bytes(weights * cast.linear.bits / 8),
    }
