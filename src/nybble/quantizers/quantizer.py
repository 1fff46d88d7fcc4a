"""Quantizer = format + scale + rounding + transform: what happens to one operand of one Gemm.

    q = quantize(x, quantizer)         codes, packed, with their scale: a QTensor
    q.dequantize()                     fl(value * scale)

The order of operations is that of scales/fit.py. The 24 random bits of stochastic rounding are a
pure function of a `RandomKey` and the element index; without a key stochastic rounding is refused,
so that no result ever depends on a hidden generator.

A transform belongs to both operands of a Gemm, so layers apply it and `quantize` refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import nybble.formats
from nybble.errors import UserError, suggest
from nybble.formats import Format, LogNearest, Nearest, Rounding, Stochastic, get_format
from nybble.formats.hash_once import hash_once
from nybble.formats.rounding import parse_rounding, rounding_name
from nybble.quantizers.qtensor import QTensor
from nybble.quantizers.random import RandomKey, random24
from nybble.quantizers.scales import (
    LSQ,
    PACT,
    SAWB,
    AbsMax,
    BestOfTwo,
    Eden,
    Fit,
    FourOverSix,
    GradScale,
    Hindsight,
    MinMax,
    Quest,
    RowLeastSquares,
    ScaleConfig,
    SplitRows,
    Unit,
    scale_from_dict,
)
from nybble.quantizers.scales.sawb import COEFFICIENTS, Ste
from nybble.quantizers.transforms import ELEMENTS, STREAM, Bits, Hadamard

__all__ = ["Quantizer", "format_from_dict", "format_to_dict", "get_quantizer", "quantize"]

# One line a family; `short` is the name.
_NAMED_SCALES: dict[str, ScaleConfig] = {
    scale.short: scale
    for scale in (
        *(
            SAWB(name, per_channel=channel, ste=ste)
            for name in COEFFICIENTS
            for channel in (False, True)
            for ste in get_args(Ste)
        ),
        *(PACT("unsigned"), PACT("symmetric"), PACT("two_sided")),
        *(AbsMax("tensor"), AbsMax("row"), AbsMax("channel"), AbsMax("block")),
        AbsMax("channel", axis=1),  # the output channels of a transposed convolution
        *(AbsMax.mx(), AbsMax.mx(exponent="ceil"), AbsMax.mx(headroom=4 / 3)),
        *(AbsMax.nv(), AbsMax.nv(headroom=17 / 16), AbsMax.nv(limit=256.0)),
        *(AbsMax.nv(outer=128), AbsMax.nv(outer=128, headroom=17 / 16)),
        *(AbsMax("block", block=16), AbsMax("tile", block=16, scale_format="fp8_e4m3")),
        *(GradScale("delayed"), GradScale("immediate"), GradScale("fit")),
        *(GradScale("delayed", "one"), GradScale("immediate", "one")),
        *(GradScale("delayed", "fit", "global"), GradScale("delayed", "one", "global")),
        *(Hindsight(), Hindsight(power_of_two=True)),
        *(AbsMax(kind, power_of_two=True) for kind in ("tensor", "row", "channel")),
        *(MinMax(), Unit(), Unit("clip"), LSQ()),
        *(SplitRows(), SplitRows(6), SplitRows(7, False), SplitRows(6, False)),
        *(BestOfTwo("tensor"), BestOfTwo("row"), BestOfTwo("channel")),
        *(BestOfTwo("tensor", rms=0.35), BestOfTwo("row", rms=0.35)),
        *(Quest(), FourOverSix(), FourOverSix(error="mae"), FourOverSix(error="absmax")),
        FourOverSix(granularity="tile"),
        *(Eden(), Eden(group=128), RowLeastSquares("row"), RowLeastSquares("channel")),
    )
}

# What a family's name alone means: the setting that sun2020 uses.
_DEFAULTS: dict[str, ScaleConfig] = {
    "sawb": SAWB(),
    "pact": PACT(),
    "absmax": AbsMax(),
    "gradscale": GradScale(),
}

_ROUNDINGS: dict[str, type[Nearest] | type[LogNearest] | type[Stochastic]] = {
    kind.__name__: kind for kind in (Nearest, LogNearest, Stochastic)
}


@hash_once
@dataclass(frozen=True)
class Quantizer:
    """What happens to one operand; see the module. `rounding=None` is the format's default.

    >>> from nybble.quantizers import SAWB
    >>> q = Quantizer(get_format("int4_sym"), SAWB())
    >>> q.short
    'int4_sym·sawb(ibm15)'
    >>> Quantizer.from_dict(q.to_dict()) == q
    True
    """

    format: Format
    scale: ScaleConfig
    rounding: Rounding | None = None
    transform: Hadamard | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise UserError(
                f"Quantizer: format must be a Format, got {self.format!r}; "
                "use nybble.formats.get_format(name)"
            )
        if not isinstance(self.scale, ScaleConfig):
            raise UserError(
                f"Quantizer: scale must be a scale such as AbsMax(), got {self.scale!r}"
            )
        if self.rounding is not None and not isinstance(
            self.rounding, Nearest | LogNearest | Stochastic
        ):
            raise UserError(
                f"Quantizer: rounding must be None, Nearest(), LogNearest() or Stochastic(), got "
                f"{self.rounding!r}"
            )
        if self.transform is not None and not isinstance(self.transform, Hadamard):
            raise UserError(
                f"Quantizer: transform must be None or Hadamard(block), got {self.transform!r}"
            )

    @property
    def short(self) -> str:
        """A short printable form: format, scale, and rounding where it is not the default."""
        parts = [self.format.name, self.scale.short]
        if self.rounding is not None and self.rounding != self.format.default_rounding:
            parts.append(rounding_name(self.rounding))
        if self.transform is not None:
            parts.append(self.transform.short)
        return "·".join(parts)

    @property
    def draws(self) -> bool:
        """Whether random bits are needed: for elements, for scales or for signs."""
        turns = self.transform is not None and self.transform.signs == "random"
        return isinstance(self.rounding, Stochastic) or self.scale.draws or turns

    def __str__(self) -> str:
        return self.short

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; `from_dict` is its inverse."""
        rounding = self.rounding
        data = {
            "format": format_to_dict(self.format),
            "scale": self.scale.to_dict(),
            "rounding": None
            if rounding is None
            else {"kind": type(rounding).__name__, **asdict(rounding)},
        }
        if self.transform is not None:
            data["transform"] = self.transform.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Quantizer:
        """The quantizer of a `to_dict()`; unknown keys and names are errors."""
        unknown = set(data) - {"format", "scale", "rounding", "transform"}
        if unknown or not {"format", "scale"} <= set(data):
            raise UserError(
                "a quantizer has the fields format, scale, rounding and transform, got "
                f"{', '.join(sorted(data)) or 'none'}"
            )
        rounding: Rounding | None = None
        if data.get("rounding") is not None:
            values = dict(data["rounding"])
            kind = values.pop("kind", None)
            if kind not in _ROUNDINGS:
                raise UserError(f"unknown rounding {kind!r}; use one of {', '.join(_ROUNDINGS)}")
            try:
                rounding = _ROUNDINGS[kind](**values)
            except TypeError as error:
                raise UserError(f"rounding {kind!r}: {error}") from None
        turn = data.get("transform")
        transform = None if turn is None else Hadamard.from_dict(turn)
        scale = scale_from_dict(data["scale"])
        return cls(format_from_dict(data["format"]), scale, rounding, transform)


def get_quantizer(name: str) -> Quantizer:
    """The quantizer that is printed as `name`: a format, a scale, and a rounding if it is not the
    format's default; a colon may stand for the dot. `sawb`, `pact`, `absmax` and `gradscale` alone
    mean the recipes' own: `ibm15`, `unsigned`, `tensor` and `delayed`.

    Raises UserError for unknown names, with the nearest one.

    >>> get_quantizer("int4:minmax").short
    'int4·minmax'
    >>> get_quantizer("fp4_radix4:gradscale:stochastic").short
    'fp4_radix4·gradscale(delayed)·stochastic'
    """
    *parts, last = name.replace("·", ":").split(":")
    transform = Hadamard.parse(last)
    parts += [] if transform is not None else [last]
    if len(parts) not in (2, 3):
        raise UserError(
            f"unknown quantizer {name!r}: write FORMAT:SCALE or FORMAT:SCALE:ROUNDING, as in"
            " int4_sym:sawb(ibm15) or fp4_radix4:gradscale(delayed):stochastic, and a transform"
            " behind them, as in :hadamard(16, random)"
        )
    scale = _DEFAULTS.get(parts[1]) or _NAMED_SCALES.get(parts[1])
    if scale is None:
        raise UserError(
            f"unknown scale {parts[1]!r} in the quantizer {name!r}: use one of"
            f" {', '.join(_NAMED_SCALES)}, or build a Quantizer.{suggest(parts[1], _NAMED_SCALES)}"
        )
    rounding = parse_rounding(parts[2]) if len(parts) == 3 else None
    return Quantizer(get_format(parts[0]), scale, rounding, transform)


def quantize(
    x: Tensor | npt.NDArray[Any],
    quantizer: Quantizer | str,
    *,
    key: RandomKey | None = None,
    alpha: Tensor | None = None,
) -> QTensor:
    """Quantise and pack a tensor.

    x: torch (any device) or numpy, any float type and shape, not modified.
    quantizer: a `Quantizer`, or the name of one (`get_quantizer`): `int4_sym:sawb(ibm15)`.
    key: for stochastic rounding, which random bits to use.
    alpha: for PACT, the clip(s), and for LSQ the step; without it that of the first batch is used,
        here `x`.

    Raises UserError for integer input, a missing key, or an alpha that the scale does not take.

    >>> from nybble.quantizers import AbsMax
    >>> q = quantize(torch.tensor([1.0, -7.0, 2.6]), Quantizer(get_format("int4"), AbsMax()))
    >>> q.codes(), q.dequantize()
    (tensor([1, 9, 3], dtype=torch.uint8), tensor([ 1., -7.,  3.]))
    """
    if isinstance(quantizer, str):
        quantizer = get_quantizer(quantizer)
    elif not isinstance(quantizer, Quantizer):
        raise UserError(f"quantize: expected a Quantizer or its name, got {quantizer!r}")
    if quantizer.transform is not None:
        raise UserError(
            f"quantize: a transform belongs to both operands of a Gemm; apply it yourself"
            f" ({quantizer.transform.short}: Hadamard.apply(x, axis)) and leave it out here"
        )
    tensor = _tensor(x)
    rounding = quantizer.rounding or quantizer.format.default_rounding
    draws = isinstance(rounding, Stochastic) or quantizer.scale.draws
    if draws and key is None:
        raise UserError(
            "quantize: stochastic rounding needs key=RandomKey(seed=...), so that the same "
            "call gives the same bits"
        )
    bits = None if key is None else _bits(key, tensor.device)
    if alpha is None and not isinstance(quantizer.scale, PACT | Unit):
        codes, fit = quantizer.scale.encode(tensor, quantizer.format, rounding, bits)
        return QTensor.pack(codes, quantizer.format, fit)
    fit = _fit(tensor, quantizer, alpha)
    random = None
    if bits is not None and isinstance(rounding, Stochastic):
        random = bits(ELEMENTS, tensor.shape)
    codes = quantizer.format.encode(fit.scaled(tensor), rounding, random)
    return QTensor.pack(codes, quantizer.format, fit)


def _bits(key: RandomKey, device: torch.device) -> Bits:
    """The streams of random bits of an operand: the first is that of `key` itself."""

    def draw(stream: int, shape: Sequence[int]) -> Tensor:
        return random24(shape, replace(key, operand=key.operand + STREAM * stream), device)

    return draw


def format_to_dict(format: Format) -> str | dict[str, Any]:
    """The registry name of a format, or `{"kind": class, parameters}` for one of your own.

    >>> format_to_dict(get_format("int4"))
    'int4'
    """
    registered = nybble.formats.FORMATS.get(format.name)
    if registered == format:
        return format.name
    return {"kind": type(format).__name__, **asdict(format)}  # type: ignore[call-overload]


def format_from_dict(data: str | dict[str, Any]) -> Format:
    """The format of `format_to_dict`.

    >>> format_from_dict({"kind": "Integer", "bits": 4}) == get_format("int4")
    True
    """
    if isinstance(data, str):
        return get_format(data)
    if not isinstance(data, dict):
        raise UserError(f"a format is a name or a dict, got {data!r}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    kind = getattr(nybble.formats, str(values.pop("kind", None)), None)
    if not (isinstance(kind, type) and issubclass(kind, Format) and kind is not Format):
        raise UserError(f"unknown kind of format {data.get('kind')!r}; use Integer, LogFormat, ...")
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"format {data['kind']!r}: {error}") from None


def _tensor(x: Tensor | npt.NDArray[Any]) -> Tensor:
    if isinstance(x, np.ndarray):
        if not np.issubdtype(x.dtype, np.floating):
            raise UserError(f"quantize: expected floats, got {x.dtype}; use .astype('float32')")
        x = torch.from_numpy(np.array(x, dtype=np.float32, order="C"))  # a copy: x may be a view
    elif not isinstance(x, Tensor):
        raise UserError(f"quantize: expected a torch tensor or a numpy array, got {type(x)}")
    if not x.is_floating_point():
        raise UserError(f"quantize: expected floats, got {x.dtype}; use .float()")
    return x.detach().to(torch.float32)


def _fit(x: Tensor, quantizer: Quantizer, alpha: Tensor | None) -> Fit:
    scale, format = quantizer.scale, quantizer.format
    if alpha is None:
        fit = scale.fit(x, format)
    elif isinstance(scale, PACT | LSQ):
        fit = scale.fit_alpha(torch.as_tensor(alpha), format)
    else:
        raise UserError(
            f"quantize: alpha is PACT's clip or LSQ's step, but the scale is {scale.short}"
        )
    # These do not look for NaN in x, and 4-bit formats have no code for it.
    if isinstance(scale, PACT | LSQ | Unit) and x.numel() and not _has_nan(format):
        fit = fit.poisoned(torch.where(torch.isnan(x.amax()), float("nan"), 0.0))
    return fit


@lru_cache(maxsize=256)
def _has_nan(format: Format) -> bool:
    return any(v != v for v in format.values())
