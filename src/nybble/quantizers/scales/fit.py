"""What a scale finds in a tensor: `Fit`, and the interface of all scales: `ScaleConfig`.

Convention: x ~= value * scale, where `value` is a member of the format. In float32, one rounding
an operation:

    y = fl(x * inv)                  inv = fl(1 / scale) unless a scale says otherwise (NV)
    t = y            or, affine,     t = fl(y + zero_point)
    code = format.encode(t)
    value = format.decode(code)      or, affine, value = decoded - zero_point (exact)
    x' = fl(value * scale)

A scale that is NaN (statistics that were not finite) makes every x' NaN.

Not done here: gradients (nn does them), and scales that depend on another tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError, suggest
from nybble.formats.rounding import Stochastic
from nybble.quantizers.scales.arithmetic import Array, inverse_of, to_array, to_tensor

if TYPE_CHECKING:
    from nybble.formats import Format, Rounding
    from nybble.quantizers.transforms import Bits

__all__ = [
    "Fit",
    "Granularity",
    "ScaleConfig",
    "scale_from_dict",
    "times_blocks",
    "value_range",
]

Granularity = Literal["tensor", "channel", "row", "block", "tile"]


@dataclass(frozen=True)
class Fit:
    """A scale, ready to use on the tensor it was fitted to.

    scale: float32. `()` for granularity "tensor"; broadcastable to x for "channel"
        (`[1, .., C, .., 1]`) and "row" (`[.., 1]`); for "block" the shape of x with dimension
        `axis` replaced by its number of blocks, for "tile" with the first two replaced.
    inv: float32, the shape of `scale`: what x is multiplied by.
    zero_point: float32 `()`, integer-valued, or None.
    axis: the one dimension along which the scale varies ("channel", "block", and "row" of a
        matrix), counted from 0; None where there is none or more than one.
    blocks: elements of a block, for "block", or of a tile's side, for "tile"; else None.
    bound: float32, the shape of `scale`: the magnitude that the format's largest value stands for
        where the scale clips (SAWB, PACT), else None. For two-sided PACT `[upper, lower]`.
    scale_codes, global_scale: the stored form of block scales: uint8 codes of the scale's own
        format and, for NV, the tensor's float32 scale; scale = fl(decoded code * global scale).
    outer: elements along `axis` that share a global scale, which then has one number for each of
        them; None where the tensor shares it.
    factor: float32 `()`: what every E8M0 scale is multiplied by, else None.
    """

    scale: Tensor
    inv: Tensor
    zero_point: Tensor | None = None
    granularity: Granularity = "tensor"
    axis: int | None = None
    blocks: int | None = None
    bound: Tensor | None = None
    scale_codes: Tensor | None = None
    global_scale: Tensor | None = None
    outer: int | None = None
    factor: Tensor | None = None

    @classmethod
    def of(cls, scale: Tensor, **info: Any) -> Fit:
        """A fit with `inv = fl(1 / scale)`.

        >>> Fit.of(torch.tensor(4.0)).inv
        tensor(0.2500)
        """
        return cls.of_array(to_array(scale), **info)

    @classmethod
    def of_array(cls, scale: Array, **info: Any) -> Fit:
        """`of`, for a scale that is still a numpy number or array (see arithmetic.py)."""
        with np.errstate(all="ignore"):
            return cls(scale=to_tensor(scale), inv=to_tensor(inverse_of(scale)), **info)

    def scaled(self, x: Tensor) -> Tensor:
        """`fl(x * inv)`, plus the zero point where there is one: what the format encodes.

        >>> Fit.of(torch.tensor(0.5)).scaled(torch.tensor([1.0, -3.0]))
        tensor([ 2., -6.])
        """
        y = self._times(x.detach().to(torch.float32), self.inv)
        return y if self.zero_point is None else y.add_(self.zero_point)

    def dequantize(self, values: Tensor) -> Tensor:
        """`fl(value * scale)`, where a zero point is first subtracted.

        >>> Fit.of(torch.tensor(0.5)).dequantize(torch.tensor([2.0, -6.0]))
        tensor([ 1., -3.])
        """
        if self.zero_point is not None:
            values = values - self.zero_point
        return self._times(values, self.scale)

    def poisoned(self, statistic: Tensor) -> Fit:
        """This fit, with a NaN scale where `statistic` (a scalar tensor, such as max|x|) is not
        finite. For scales that do not look at x themselves: without it a NaN would get code 0.

        >>> Fit.of(torch.tensor(2.0)).poisoned(torch.tensor(float("inf"))).scale
        tensor(nan)
        """
        bad = torch.where(torch.isfinite(statistic), 0.0, float("nan")).to(torch.float32)
        return Fit(**{**self._info(), "scale": self.scale + bad, "inv": self.inv + bad})

    def to(self, device: torch.device | str) -> Fit:
        """This fit with its tensors on another device."""
        info = self._info()
        moved = {key: v.to(device) for key, v in info.items() if isinstance(v, Tensor)}
        return Fit(**{**info, **moved})

    def _info(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _times(self, x: Tensor, a: Tensor) -> Tensor:
        return x * a if self.blocks is None else times_blocks(x, a, self.blocks)


def times_blocks(x: Tensor, scale: Tensor, block: int) -> Tensor:
    """x times block scales: along the dimensions where `scale` has neither one number nor as many
    as x, each of them is for `block` elements, the last one perhaps for fewer.

    >>> times_blocks(torch.ones(1, 3), torch.tensor([[1.0, 2.0]]), 2)
    tensor([[1., 1., 2.]])
    """
    shape = x.shape
    dims = [d for d, (m, n) in enumerate(zip(scale.shape, shape, strict=True)) if m not in (1, n)]
    if any(-(-shape[d] // block) != scale.shape[d] for d in dims):
        raise NybbleError(f"{tuple(scale.shape)} scales of {block} for {tuple(shape)} elements")
    for d in reversed(dims):
        if shape[d] % block == 0:  # a view of x; else the scales are repeated
            x, scale = x.unflatten(d, (shape[d] // block, block)), scale.unsqueeze(d + 1)
        else:
            repeated = scale.unsqueeze(d + 1).expand(
                *scale.shape[: d + 1], block, *scale.shape[d + 1 :]
            )
            scale = repeated.flatten(d, d + 1).narrow(d, 0, shape[d])
    return (x * scale).reshape(shape)


class ScaleConfig(ABC):
    """How the real range is mapped on a format. Subclasses are frozen dataclasses of plain values.

    `short` is what recipes and tables print; `to_dict` and `scale_from_dict` are the JSON form.
    """

    families: ClassVar[dict[str, type[ScaleConfig]]] = {}

    def __init_subclass__(cls) -> None:
        ScaleConfig.families[cls.__name__.lower()] = cls

    @abstractmethod
    def fit(self, x: Tensor, format: Format) -> Fit:
        """The fit of `x` (any float type and shape, on any device; not modified)."""

    @property
    def draws(self) -> bool:
        """Whether `encode` needs random bits even for a rounding that needs none."""
        return False

    def along(self, contraction: int, free: int | None) -> ScaleConfig:
        """This scale for an operand of a Gemm that sums over dimension `contraction`.

        `free`: the dimension whose every index may have a scale of its own outside of the sum;
        None where each line along `contraction` may (a batch of products). Scales that speak of
        neither are returned as they are.
        """
        return self

    def encode(
        self, x: Tensor, format: Format, rounding: Rounding | None, bits: Bits | None
    ) -> tuple[Tensor, Fit]:
        """(codes, fit) of a float32 tensor. Scales that depend on how the elements are rounded, or
        that are rounded themselves at random, override it; `fit` is then what they start from.

        bits: `bits(stream, shape)`, see transforms.py; None where nothing is drawn.
        """
        fit = self.fit(x, format)
        random = bits(0, x.shape) if bits is not None and isinstance(rounding, Stochastic) else None
        return format.encode(fit.scaled(x), rounding, random), fit

    @property
    @abstractmethod
    def short(self) -> str:
        """A short printable form, such as `sawb(ibm15)`."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {"family": type(self).__name__.lower(), **asdict(self)}  # type: ignore[call-overload]


def scale_from_dict(data: dict[str, Any]) -> ScaleConfig:
    """The scale of a `to_dict()`.

    >>> from nybble.quantizers.scales import Unit
    >>> scale_from_dict(Unit().to_dict())
    Unit(ste='pass')
    """
    values = dict(data)
    family = values.pop("family", None)
    if family not in ScaleConfig.families:
        raise UserError(
            f"unknown scale {family!r}; use one of {', '.join(ScaleConfig.families)}."
            f"{suggest(str(family), ScaleConfig.families)}"
        )
    try:
        return ScaleConfig.families[family](**values)
    except TypeError as error:
        raise UserError(f"scale {family!r}: {error}") from None


@lru_cache(maxsize=256)
def value_range(format: Format) -> tuple[float, float]:
    """Smallest and largest finite value that encoding gives: -7 for int4_sym, which decodes -8."""
    values = [v for v in format.values() if abs(v) < float("inf")]
    if format.max_integer is not None and format.unit is not None:
        values = [v for v in values if abs(v) <= format.max_integer * format.unit]
    return min(values), max(values)
