"""Curves: loss, metric, learning rate by epoch; figures of the script, and a table without it."""

from __future__ import annotations

from html import escape
from typing import Any

from nybble.reports.run.data import Run
from nybble.reports.run.markup import details, number, section, table
from nybble.reports.run.sections.content import Content, shown

__all__ = ["curves", "curves_data"]

SENTENCE = (
    "Loss is the error that training makes small: both lines should fall and then level off. A "
    "test line that turns up while the training line falls means that the network learns its "
    "examples by heart; a line that jumps up or breaks off means that training became unstable."
)
_MOST_POINTS = 300
_MOST_TABLES = 12


def curves(content: Content) -> str:
    """The curves' section."""
    with_epochs = [run for run in content.runs if run.epochs]
    if not with_epochs and not any(run.log_curve for run in content.runs):
        text = "No epoch was finished, and the log holds no loss: there is nothing to draw."
        return section("curves", "Curves", SENTENCE, f"<p>{text}</p>")
    figures = ["loss"]
    if with_epochs:
        figures += ["metric"]
        figures += ["lr"] if content.one else ["time"]
    drawn = "".join(
        f'<figure class="js" data-figure="{name}"><figcaption></figcaption></figure>'
        for name in figures
    )
    tables = "".join(
        ("" if content.one else f"<h3>{escape(content.label(run))}</h3>") + _table(run)
        for run in with_epochs[:_MOST_TABLES]
    )
    if len(with_epochs) > _MOST_TABLES:
        tables += f"<p>And {len(with_epochs) - _MOST_TABLES} more runs.</p>"
    if tables:
        tables = details("The numbers, as a table", tables)
    return section("curves", "Curves", SENTENCE, f'<div class="figures">{drawn}</div>', tables)


def _table(run: Run) -> str:
    name = run.metric
    head = ("epoch", "training loss", "test loss", f"test {name}", "learning rate", "ms a step")
    rows = [
        [
            number(epoch.get("epoch"), 6),
            number(epoch.get("train_loss"), 5),
            number(epoch.get("test_loss"), 5),
            shown(run, epoch.get(f"test_{name}")),
            number(epoch.get("lr")),
            number(epoch.get("step_ms"), 4),
        ]
        for epoch in thinned(run.epochs)
    ]
    return table(head, rows)


def thinned(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `_MOST_POINTS` of them, the last one among them.

    >>> len(thinned([{"epoch": i} for i in range(1000)])), thinned([{}, {}])
    (250, [{}, {}])
    """
    every = -(-len(epochs) // _MOST_POINTS)
    return epochs[::-1][:: max(1, every)][::-1]


def curves_data(run: Run) -> dict[str, Any]:
    """What the script draws of a run."""
    epochs = thinned(run.epochs)

    def column(key: str, scale: float = 1.0) -> list[float | None]:
        values = [epoch.get(key) for epoch in epochs]
        return [
            None if isinstance(v, bool) or not isinstance(v, int | float) else rounded(scale * v)
            for v in values
        ]

    return {
        "epoch": column("epoch"),
        "train_loss": column("train_loss"),
        "test_loss": column("test_loss"),
        "train_metric": column(f"train_{run.metric}", run.scale),
        "test_metric": column(f"test_{run.metric}", run.scale),
        "lr": column("lr"),
        "seconds": column("elapsed_seconds"),
        "log": [[rounded(x), rounded(y)] for x, y in run.log_curve],
    }


def rounded(value: float) -> float | None:
    """Six digits, which is more than a curve shows; None for what is not finite.

    >>> rounded(1 / 3), rounded(float("nan"))
    (0.333333, None)
    """
    return float(f"{value:.6g}") if abs(value) < float("inf") else None
