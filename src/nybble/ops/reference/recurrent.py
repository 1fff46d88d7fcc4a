"""The time loop of one direction of one recurrent layer, forward and backward, in torch operators.

With gx the result of the input-hidden Gemm (biases included) and gh of the hidden-hidden Gemm:

    tanh, relu   h' = f(gx + gh)
    lstm         i, f, g, o = gx + gh          i, f, o by sigmoid, g by tanh (+ 0)
                 c' = f c + i g                h' = o tanh(c'), or its projection
    gru          r, z = sigmoid(gx + gh)       n = tanh(gx_n + r gh_n)        h' = n + z (h - n)

Every + and product is one float32 operation in the order written in the code; csrc/recurrent does
the same ones. The backward pass keeps the gates (float32, [rows, 4 H]), what c or h was before the
step (LSTM, GRU), and the codes of every h that was multiplied; c' and tanh(c') are computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nybble.ops.recurrent import Sequence, StepGemm
from nybble.ops.reference import composite_operand as operands
from nybble.ops.reference.composite_operand import Make
from nybble.ops.reference.gates import sigmoid, tanh
from nybble.ops.reference.steps import FloatGradient, StepGradient, StepOutput

__all__ = [
    "Gradients",
    "Outputs",
    "Weights",
    "backward",
    "backward_loop",
    "forward",
    "largest_gradients",
]

Step = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Weights:
    """The float32 parameters of the Gemms inside the loop. alpha: PACT's clip(s) or None."""

    hh: Tensor
    hh_bias: Tensor | None = None
    hh_alpha: Tensor | None = None
    hr: Tensor | None = None
    hr_alpha: Tensor | None = None


@dataclass
class Outputs:
    """y [rows, P], h_n [B, P], c_n [B, H] (LSTM), and what backward needs.

    gates: [rows, 4 H], empty for tanh and relu. before: c (LSTM) or h (GRU) before each step.
    inputs: what was multiplied by W_hh, and by W_hr, row by row. kept: their codes and those of
    the weights, as `layer_forward` saves them.
    """

    y: Tensor
    h: Tensor
    c: Tensor
    gates: Tensor
    before: Tensor
    inputs: list[Tensor | None] = field(default_factory=list)
    kept: list[list[Tensor]] = field(default_factory=list)


@dataclass
class Gradients:
    """dgx, dgh [rows, gates] (one tensor but for the GRU), of h_0 and c_0; for each Gemm of the
    loop the gradient of its results, row by row, and its dalpha and max|gradient| (or None)."""

    gx: Tensor
    results: list[Tensor]
    h: Tensor
    c: Tensor
    dalpha: list[Tensor | None] = field(default_factory=list)
    amax: list[Tensor | None] = field(default_factory=list)


def forward(
    gx: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    weights: Weights,
    sequence: Sequence,
    gemms: list[StepGemm],
    save: bool,
    make: Make = operands,
) -> Outputs:
    """`gemms`: hidden-hidden and, for an LSTM with projection, the projection."""
    rows, accumulate = sequence.rows, sequence.accumulate
    pairs = [(weights.hh, weights.hh_bias, weights.hh_alpha)]
    if weights.hr is not None:
        pairs.append((weights.hr, None, weights.hr_alpha))
    steps = [
        StepOutput(*pair, gemm, accumulate, rows, save, make)
        for pair, gemm in zip(pairs, gemms, strict=True)
    ]
    found = _forward_loop(gx, h0, c0, sequence, steps, save)
    if save:
        found.kept = [
            step.kept(x) for step, x in zip(steps, found.inputs, strict=True) if x is not None
        ]
    return found


def _forward_loop(
    gx: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    sequence: Sequence,
    steps: list[StepOutput],
    save: bool,
) -> Outputs:
    mode, rows = sequence.mode, sequence.rows
    hidden, size = steps[0].weight.shape[1], steps[-1].weight.shape[1]
    lstm, gru = mode == "lstm", mode == "gru"
    h = h0.clone()
    c = gx.new_empty(0) if c0 is None else c0.clone()
    y = gx.new_empty(rows, hidden)
    gated = rows if save and (lstm or gru) else 0
    out = Outputs(y, h, c, gx.new_empty(gated, 4 * size), gx.new_empty(gated if lstm else 0, size))
    multiplied = gx.new_empty(rows if save or gru else 0, hidden)
    projected = gx.new_empty(rows if save and len(steps) > 1 else 0, size)
    scale, shift = _lstm_vectors(gx, size) if lstm else (gx, gx)
    for row, count in sequence.steps:
        part = slice(row, row + count)
        before = h[:count]
        if save:
            multiplied[part] = before
        gh = steps[0](before, row)
        if lstm:
            gates = torch.add(gx[part], gh, out=out.gates[part] if save else gh)
            tanh(gates.mul_(scale), out=gates).mul_(scale).add_(shift)
            i, f, g, o = gates.chunk(4, 1)
            if save:
                out.before[part] = c[:count]
            cell = (f * c[:count]).add_(i * g)
            c[:count] = cell
            after = tanh(cell).mul_(o)
            if len(steps) > 1:
                if save:
                    projected[part] = after
                after = steps[1](after, row)
        elif gru:
            both = sigmoid(gx[part, : 2 * size] + gh[:, : 2 * size])
            r, z = both.chunk(2, 1)
            gh_n = gh[:, 2 * size :]
            n = tanh((r * gh_n).add_(gx[part, 2 * size :]))
            if save:
                out.gates[part] = torch.cat([both, n, gh_n], 1)
            after = (before - n).mul_(z).add_(n)
        else:
            after = gh.add_(gx[part])
            after = tanh(after) if mode == "tanh" else after.clamp_(min=0.0).add_(0.0)
        h[:count] = after
        y[part] = after
    if gru and save:
        out.before = multiplied
    if save:
        out.inputs = [*[multiplied, projected][: len(steps)]]
    return out


def _lstm_vectors(like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Factor and summand that make sigmoid or tanh of each gate, as the module's order i f g o."""
    scale, shift = like.new_full((4 * size,), 0.5), like.new_full((4 * size,), 0.5)
    scale[2 * size : 3 * size] = 1.0
    shift[2 * size : 3 * size] = 0.0
    return scale, shift


def backward(
    dy: Tensor | None,
    dh: Tensor,
    dc: Tensor | None,
    tape: Outputs,
    weights: Weights,
    sequence: Sequence,
    gemms: list[StepGemm],
    scales: list[Tensor],
    need_dalpha: list[bool],
    make: Make = operands,
) -> Gradients:
    """`dy`, `dh`, `dc`: of y, h_n and c_n. `scales`: GradScale's number of each Gemm."""
    matrices = [weights.hh] if weights.hr is None else [weights.hh, weights.hr]
    steps = [
        StepGradient(
            kept,
            weight,
            x,
            gemm,
            scale,
            sequence.accumulate,
            sequence.rows,
            need_dalpha=need,
            make=make,
        )
        for kept, weight, x, gemm, scale, need in zip(
            tape.kept, matrices, tape.inputs, gemms, scales, need_dalpha, strict=True
        )
    ]
    found = backward_loop(dy, dh, dc, tape, sequence, list(steps))
    found.dalpha = [step.dalpha for step in steps]
    found.amax = [step.amax for step in steps]
    return found


def largest_gradients(
    dy: Tensor | None,
    dh: Tensor,
    dc: Tensor | None,
    tape: Outputs,
    weights: Weights,
    sequence: Sequence,
    gemms: list[StepGemm],
) -> list[Tensor]:
    """max|gradient| of each Gemm's results where no gradient inside the loop is rounded: what a
    scale is fitted to that must be there before the first step."""
    matrices = [weights.hh] if weights.hr is None else [weights.hh, weights.hr]
    steps = [
        FloatGradient(kept, weight, gemm)
        for kept, weight, gemm in zip(tape.kept, matrices, gemms, strict=True)
    ]
    backward_loop(dy, dh, dc, tape, sequence, list(steps))
    return [step.amax for step in steps]


def backward_loop(
    dy: Tensor | None,
    dh: Tensor,
    dc: Tensor | None,
    tape: Outputs,
    sequence: Sequence,
    steps: list[Step],
) -> Gradients:
    """The loop alone; `steps` turn the gradient of a Gemm's results into that of its input."""
    mode, rows = sequence.mode, sequence.rows
    lstm, gru = mode == "lstm", mode == "gru"
    dh = dh.clone()
    size = tape.gates.shape[1] // 4 if lstm or gru else dh.shape[1]
    dc = dh.new_empty(0) if dc is None else dc.clone()
    wide = {"lstm": 4, "gru": 3}.get(mode, 1) * size
    dgx = dh.new_empty(rows, wide)
    dgh = dh.new_empty(rows, wide) if gru else dgx
    projected = dh.new_empty(rows if len(steps) > 1 else 0, dh.shape[1])
    for row, count in reversed(sequence.steps):
        part = slice(row, row + count)
        d = dh[:count] if dy is None else dh[:count] + dy[part]
        direct: Tensor | None = None
        if lstm:
            if len(steps) > 1:
                projected[part] = d
                d = steps[1](d, row)
            i, f, g, o = tape.gates[part].chunk(4, 1)
            c = tape.before[part]
            t = tanh((f * c).add_(i * g))
            cell = (1.0 - t * t).mul_(d * o).add_(dc[:count])
            into = dgx[part].chunk(4, 1)
            torch.mul(cell * g, (1.0 - i).mul_(i), out=into[0])
            torch.mul(cell * c, (1.0 - f).mul_(f), out=into[1])
            torch.mul(cell * i, 1.0 - g * g, out=into[2])
            torch.mul(d * t, (1.0 - o).mul_(o), out=into[3])
            dc[:count] = cell.mul_(f)
        elif gru:
            r, z, n, gh_n = tape.gates[part].chunk(4, 1)
            h = tape.before[part]
            dn = (1.0 - z).mul_(d).mul_(1.0 - n * n)
            into, other = dgx[part].chunk(3, 1), dgh[part].chunk(3, 1)
            torch.mul(dn * gh_n, (1.0 - r).mul_(r), out=into[0])
            torch.mul((h - n).mul_(d), (1.0 - z).mul_(z), out=into[1])
            into[2].copy_(dn)
            other[0].copy_(into[0])
            other[1].copy_(into[1])
            torch.mul(dn, r, out=other[2])
            direct = d * z
        elif mode == "tanh":
            after = tape.y[part]
            torch.mul(d, 1.0 - after * after, out=dgx[part])
        else:
            zero = dgx.new_zeros(())
            torch.where(tape.y[part] > 0, d, zero, out=dgx[part])
        before = steps[0](dgh[part], row)
        dh[:count] = before if direct is None else before.add_(direct)
    return Gradients(dgx, [dgh, projected][: len(steps)], dh, dc)
