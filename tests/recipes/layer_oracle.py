"""One linear layer of a recipe with block scales, number by number: operands and the three Gemms.

Operands are made by the scalar oracles, in float32, from the definitions (transform, scale, random
bits, rounding), so they can be compared bit for bit. Products are sums in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.formats import Stochastic, get_format
from nybble.formats import oracle as format_oracle
from nybble.ops.reference.operand import Draw
from nybble.ops.spec import LayerSpec
from nybble.quantizers import (
    AbsMax,
    Eden,
    FourOverSix,
    Hadamard,
    Quantizer,
    Quest,
    RandomKey,
    Unit,
    oracle,
    oracle_scales,
)
from nybble.quantizers.oracle import OracleFit, add, f32, mul

Line = list[float]
SLOT = {
    "output_input": 0,
    "output_weight": 1,
    "grad_input_grad": 2,
    "grad_weight_grad": 3,
    "grad_input_weight": 4,
    "grad_weight_input": 5,
}
FIRST = {"output": 0, "grad_input": 2, "grad_weight": 3}
FIXED = RandomKey(seed=0, rank=0, layer=0, call=0, operand=0xFFFF)
E4M3 = get_format("fp8_e4m3")


@dataclass
class Made:
    """Decoded values [rows, columns] and, where the scale clips, which were inside."""

    values: Tensor
    inside: Tensor | None = None


def key(draw: Draw, slot: int, stream: int) -> RandomKey:
    """The random key of a slot's stream."""
    return RandomKey(
        seed=draw.seed, rank=0, layer=draw.layer, call=draw.call, operand=slot + 8 * stream
    )


# ---- transform --------------------------------------------------------------------------------


def signs(turn: Hadamard, size: int, draw: Draw, gemm: str) -> list[float]:
    """S of R = S H / sqrt(b), along a line."""
    if turn.signs == "none":
        return [1.0] * size
    if turn.signs == "fixed":
        drawn = [oracle.random24(i % turn.block, FIXED) for i in range(size)]
    else:
        drawn = [oracle.random24(i, key(draw, FIRST[gemm], 2)) for i in range(size)]
    return [-1.0 if d >= 1 << 23 else 1.0 for d in drawn]


def butterflies(line: Line) -> Line:
    """H_b / sqrt(b) of one block."""
    block, width = len(line), 1
    while width < block:
        for start in range(0, block, 2 * width):
            for i in range(start, start + width):
                u, v = line[i], line[i + width]
                line[i], line[i + width] = add(u, v), add(u, -v)
        width *= 2
    root = f32(1.0 / math.sqrt(block))
    return line if block == 1 else [mul(x, root) for x in line]


def turned(line: Line, turn: Hadamard | None, draw: Draw, gemm: str) -> Line:
    """A line along the sum in the basis of its Gemm."""
    if turn is None:
        return line
    line = [mul(x, s) for x, s in zip(line, signs(turn, len(line), draw, gemm), strict=True)]
    found: Line = []
    block = turn.block
    while len(found) < len(line):
        while len(found) + block > len(line):
            block //= 2
        found += butterflies(line[len(found) : len(found) + block])
    return found


def back(x: Tensor, turn: Hadamard, axis: int, draw: Draw, gemm: str) -> Tensor:
    """x R^T along `axis`, in double precision: R from the turned unit vectors."""
    size = x.shape[axis]
    unit = [[float(i == j) for j in range(size)] for i in range(size)]
    matrix = torch.tensor([turned(row, turn, draw, gemm) for row in unit], dtype=torch.float64)
    moved = x.double().movedim(axis, -1) @ matrix.T
    return moved.movedim(-1, axis)


# ---- scales -----------------------------------------------------------------------------------


def cut(line: Sequence[float], block: int) -> list[Sequence[float]]:
    """A line in blocks, the last one maybe shorter."""
    return [line[i : i + block] for i in range(0, len(line), block)]


def fits(lines: list[Line], slot: Quantizer) -> list[list[OracleFit]]:
    """The fit of every element, for lines along the sum."""
    scale, top = slot.scale, slot.format.max_value
    if isinstance(scale, AbsMax) and scale.granularity == "free":
        return [[oracle.absmax(line, top)] * len(line) for line in lines]
    if isinstance(scale, AbsMax) and scale.granularity == "tensor":
        one = oracle.absmax([x for line in lines for x in line], top)
        return [[one] * len(line) for line in lines]
    size: int = scale.block  # type: ignore[attr-defined]
    if isinstance(scale, AbsMax | FourOverSix) and scale.granularity == "tile":
        return tiles(lines, size, slot)
    blocks = [cut(line, size) for line in lines]
    flat = [block for row in blocks for block in row]
    if isinstance(scale, Quest):
        found = [oracle_scales.quest(b, top, scale.clip, scale.exponent) for b in flat]
    elif isinstance(scale, FourOverSix):
        found = oracle_scales.four_over_six(flat, slot.format, scale.error)
    elif isinstance(scale, AbsMax) and scale.scale_format == "e8m0":
        found = [oracle.mx_block(b, top, scale.exponent, scale.headroom) for b in flat]
    elif isinstance(scale, AbsMax) and scale.scale_format == "fp8_e4m3":
        outer = len(flat) if scale.outer is None else scale.outer // size
        shares = [flat] if scale.outer is None else [p for row in blocks for p in cut(row, outer)]
        found = [
            fit
            for part in shares
            for fit in oracle.nv_blocks(part, top, E4M3, scale.limit, scale.headroom)
        ]
    else:
        found = [oracle.absmax(b, top) for b in flat]
    each = iter(found)
    return [[fit for block in row for fit in [next(each)] * len(block)] for row in blocks]


def tiles(lines: list[Line], size: int, slot: Quantizer) -> list[list[OracleFit]]:
    """NV's two levels of scales over squares of `size` x `size`, 0 beyond the matrix."""
    scale, squares = slot.scale, {}
    for i in range(-(-len(lines) // size) * size):
        for j in range(-(-len(lines[0]) // size) * size):
            inside = i < len(lines) and j < len(lines[0])
            square = squares.setdefault((i // size, j // size), [])
            square.append(lines[i][j] if inside else 0.0)
    every = list(squares.values())
    if isinstance(scale, FourOverSix):
        found = oracle_scales.four_over_six(every, slot.format, scale.error)
    else:
        assert isinstance(scale, AbsMax)
        top = slot.format.max_value
        found = oracle.nv_blocks(every, top, E4M3, scale.limit, scale.headroom)
    of = dict(zip(squares, found, strict=True))
    return [[of[i // size, j // size] for j in range(len(line))] for i, line in enumerate(lines)]


def operand(x: Tensor, slot: Quantizer | None, name: str, axis: int, draw: Draw) -> Made:
    """What the Gemm of slot `name` multiplies; `axis` is the one that it sums over."""
    if slot is None:
        return Made(x)
    gemm, number = name.rpartition("_")[0], SLOT[name]
    lines = [turned(line, slot.transform, draw, gemm) for line in x.movedim(axis, -1).tolist()]
    stochastic = isinstance(slot.rounding, Stochastic)
    columns = x.shape[1]

    def bits(line: int, place: int) -> int:
        index = line * columns + place if axis == 1 else place * columns + line
        return oracle.random24(index, key(draw, number, 0))

    if isinstance(slot.scale, Eden):
        return Made(_eden(lines, slot, draw, number, axis))
    if isinstance(slot.scale, Unit):
        encoded = [
            [format_oracle.encode(v, slot.format, slot.rounding, None) for v in line]
            for line in lines
        ]
        values = [[format_oracle.decode(c, slot.format) for c in line] for line in encoded]
        return Made(torch.tensor(values).movedim(-1, axis))
    found, inside = [], []
    for i, (line, row) in enumerate(zip(lines, fits(lines, slot), strict=True)):
        values, within = [], []
        for j, (v, fit) in enumerate(zip(line, row, strict=True)):
            y = mul(v, fit.inv)
            random = bits(i, j) if stochastic else None
            code = format_oracle.encode(y, slot.format, slot.rounding, random)
            values.append(mul(format_oracle.decode(code, slot.format), fit.scale))
            within.append(float(abs(y) <= slot.format.max_value))
        found.append(values)
        inside.append(within)
    clips = getattr(slot.scale, "ste", "pass") == "clip"
    mask = torch.tensor(inside).movedim(-1, axis) if clips else None
    return Made(torch.tensor(found).movedim(-1, axis), mask)


def _eden(lines: list[Line], slot: Quantizer, draw: Draw, number: int, axis: int) -> Tensor:
    scale = slot.scale
    assert isinstance(scale, Eden)
    groups = [
        [list(b) for b in cut(g, scale.block)] for line in lines for g in cut(line, scale.group)
    ]
    many = -(-len(lines[0]) // scale.block)

    def bits(index: int) -> int:
        line, place = divmod(index, many)
        where = index if axis == 1 else place * len(lines) + line
        return oracle.random24(where, key(draw, number, 1))

    flat = [
        mul(format_oracle.decode(code, slot.format), size)
        for codes, size in oracle_scales.eden(groups, slot.format, bits)
        for code in codes
    ]
    return torch.tensor(flat).view(len(lines), -1).movedim(-1, axis)


# ---- the layer --------------------------------------------------------------------------------


def layer(
    x: Tensor, weight: Tensor, grad: Tensor, spec: LayerSpec, draw: Draw
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """(operands by slot, y, dx, dw) of y = x w^T for an output gradient."""
    made = {
        "output_input": operand(x, spec.output_input, "output_input", 1, draw),
        "output_weight": operand(weight, spec.output_weight, "output_weight", 1, draw),
        "grad_input_grad": operand(grad, spec.grad_input_grad, "grad_input_grad", 1, draw),
        "grad_weight_grad": operand(grad, spec.grad_weight_grad, "grad_weight_grad", 0, draw),
    }
    for name, tensor, forward in (
        ("grad_input_weight", weight, "output_weight"),
        ("grad_weight_input", x, "output_input"),
    ):
        slot = spec.slot(name)
        if getattr(spec, name) == "same":
            made[name] = made[forward]
        else:
            source = made[forward].values if spec.double else tensor
            made[name] = operand(source, slot, name, 0, draw)
    values = {name: one.values for name, one in made.items()}

    def product(left: str, right: str) -> Tensor:
        return values[left].double() @ values[right].double()

    y = values["output_input"].double() @ values["output_weight"].double().T
    dx = product("grad_input_grad", "grad_input_weight")
    dw = values["grad_weight_grad"].double().T @ values["grad_weight_input"].double()
    for name, result in (("output_input", dx), ("output_weight", dw)):
        if made[name].inside is not None:
            result.mul_(made[name].inside)
    turn = None if spec.output_weight is None else spec.output_weight.transform
    if turn is not None and (spec.double or spec.grad_input_weight == "same"):
        dx = back(dx, turn, 1, draw, "output")
    if turn is not None and (spec.double or spec.grad_weight_input == "same"):
        dw = back(dw, turn, 1, draw, "output")
    return values, y, dx, dw
