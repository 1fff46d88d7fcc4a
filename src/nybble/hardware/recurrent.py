"""Gemms of a time loop that do not wait for the step before, joined into one of the sequence.

    output of the input      [T x B, I] x [I, H]     for every step at once
    grad_weight              [H, T x B] x [T x B, I]

Recurrent layers run them so; torch on tensors without memory shows them step by step. The Gemm of
the hidden state waits for the step before, and stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.hardware.kinds import GRAD_WEIGHT, OUTPUT
from nybble.hardware.operation import Op

__all__ = ["merge_time"]


def merge_time(ops: list[Op]) -> list[Op]:
    """Join the Gemms of a recurrent layer that do not wait for the step before; see the module.

    The sums of a weight's gradient over the steps, which torch adds one by one, go with them.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    sizes: dict[str, set[int]] = {}
    for place, op in enumerate(ops):
        leaf = op.layer.rpartition(".")[2]
        if op.gemm is None or not leaf.startswith(("weight_ih", "weight_hh", "weight_hr")):
            continue
        if leaf.startswith("weight_ih") or op.gemm.which == GRAD_WEIGHT:
            groups.setdefault((op.layer, op.gemm.which), []).append(place)
        if op.gemm.which == OUTPUT:
            sizes.setdefault(op.module or _owner(op.layer), set()).add(op.gemm.right.elements)
    if not groups:
        return ops
    gone: set[int] = set()
    merged: dict[int, Op] = {}
    for (_, which), places in groups.items():
        keep = places[0] if which == OUTPUT else places[-1]
        gone.update(places)
        gone.discard(keep)
        merged[keep] = _joined(ops[keep], [ops[p] for p in places])
    weights = {size for found in sizes.values() for size in found}
    result = []
    for place, op in enumerate(ops):
        if place in gone:
            continue
        adds = op.name in ("add", "add_") and op.phase == "backward" and op.elements in weights
        if not adds:
            result.append(merged.get(place, op))
    return result


def _owner(layer: str) -> str:
    return layer.rpartition(".")[0]


def _joined(op: Op, parts: list[Op]) -> Op:
    gemms = [part.gemm for part in parts if part.gemm is not None]
    first = op.gemm
    assert first is not None
    grown = "k" if first.which == GRAD_WEIGHT else "m"
    left = replace(first.left, elements=sum(g.left.elements for g in gemms))
    right, result = first.right, first.result
    if grown == "k":
        right = replace(right, elements=sum(g.right.elements for g in gemms))
    else:
        result = replace(result, elements=sum(g.result.elements for g in gemms))
    sizes = {grown: sum(getattr(g, grown) for g in gemms)}
    gemm = replace(first, left=left, right=right, result=result, kernel="matmul", **sizes)
    return replace(op, gemm=gemm, reads=(left, right), writes=(result,), elements=result.elements)
