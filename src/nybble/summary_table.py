"""What `nybble.summary` gives: a row for each layer and Gemm, totals, and the printed table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nybble.nn.memory.report import Kept

__all__ = ["LayerBytes", "Row", "Summary"]


@dataclass(frozen=True)
class Row:
    """One Gemm of one layer. `bits` are those of the two operands; 32 is float32."""

    layer: str
    type: str
    gemm: str
    left: str
    right: str
    bits: tuple[int, int]
    accumulator: str
    backend: str
    fallback: str
    macs: int
    share: float
    rule: str
    scales: tuple[str, str]


@dataclass(frozen=True)
class LayerBytes:
    """Bytes that a layer's forward leaves for its backward."""

    layer: str
    saved: int


@dataclass(frozen=True)
class Summary:
    """The rows, and what autograd kept for the whole model."""

    rows: tuple[Row, ...]
    layer_bytes: tuple[LayerBytes, ...]
    saved_bytes: int
    other_macs: int
    unconverted: tuple[tuple[str, str], ...]
    clips: tuple[str, ...]
    loss_scale: float
    tables: tuple[tuple[str, str], ...] = ()
    kept: tuple[Kept, ...] = ()
    not_joined: tuple[tuple[str, str], ...] = ()
    phase: str = ""
    short_blocks: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def share_of(self, bits: int) -> float:
        """Share of the MACs (all three Gemms) whose two operands have at most `bits` bits."""
        return sum(row.share for row in self.rows if max(row.bits) <= bits)

    def __str__(self) -> str:
        longest = max((len(row.layer) for row in self.rows), default=0)
        kinds = max((len(row.type) for row in self.rows), default=0)
        widths = (max(28, longest), max(8, kinds), 12, 26, 8, 12, 14, 7, 12)
        head = (
            "layer",
            "type",
            "Gemm",
            "operands",
            "bits",
            "sum",
            "backend",
            "MACs",
            "saved bytes",
        )
        lines = [_columns(head, widths)]
        saved = {entry.layer: f"{entry.saved:,}" for entry in self.layer_bytes}
        seen: str | None = None
        for row in self.rows:
            name = "" if row.layer == seen else row.layer
            kind = "" if row.layer == seen else row.type
            kept = "" if row.layer == seen else f"{saved.get(row.layer, '0'):>11}"
            seen = row.layer
            operands = f"{row.left} x {row.right}"
            bits = f"{row.bits[0]} x {row.bits[1]}"
            share = f"{100 * row.share:5.1f}%" if row.macs else "     -"
            cells = (name, kind, row.gemm, operands, bits, row.accumulator, row.backend)
            lines.append(_columns((*cells, share, kept), widths))
        if self.other_macs:
            listed = sum(row.macs for row in self.rows)
            share = f"{100 * self.other_macs / (listed + self.other_macs):5.1f}%"
            what = ("(other products)", "", "all", "fp32 x fp32", "32 x 32", "fp32", "torch")
            lines.append(_columns((*what, share, ""), widths))
        four = 100 * self.share_of(4)
        lines.append(
            f"{four:.1f} % of the MACs multiply two 4-bit operands;"
            f" {self.saved_bytes:,} bytes saved for backward"
            f" ({sum(entry.saved for entry in self.layer_bytes):,} by these layers, the rest by"
            " others: normalisation, activation functions, the loss)"
        )
        falls = {row.fallback: row.layer for row in reversed(self.rows) if row.fallback}
        lines += [
            f"falls back to the reference backend: {layer} and others like it: {why}"
            for why, layer in falls.items()
        ]
        if any(entry.keeps for entry in self.kept):
            lines.append("kept for backward beside these layers:")
            lines += [f"  {entry}" for entry in self.kept]
            lines += [
                f"no BatchNorm is joined with a ReLU in {name or 'the model'}'s own forward, which"
                f" cannot be traced: {why}"
                for name, why in self.not_joined
            ]
        lines += [f"not converted: {name} ({cls})" for name, cls in self.unconverted]
        lines += [
            f"a look-up in float32, which multiplies nothing: {name} ({cls})"
            for name, cls in self.tables
        ]
        lines += [f"short sums: {name}: {what}" for name, what in self.short_blocks]
        if self.phase:
            lines.append(f"phase: {self.phase}")
        if self.loss_scale != 1:
            lines.append(
                f"loss scale: layers of 8 or 16 bits have no scale of their own; in a loop of your"
                f" own multiply the loss by {self.loss_scale:g} and divide the gradients by it"
            )
        if self.clips:
            count = f"{len(self.clips)} PACT clip" + ("s" if len(self.clips) > 1 else "")
            lines.append(
                f"{count}: nybble.param_groups(model, lr=...) gives them to the optimizer with a"
                " rate of their own"
            )
        return "\n".join(lines)


def _columns(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
