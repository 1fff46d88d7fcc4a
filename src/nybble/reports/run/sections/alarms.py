"""Alarms of the looks, and the warnings of the run."""

from __future__ import annotations

from html import escape

from nybble.reports.run.markup import bullets, section
from nybble.reports.run.sections.content import Content

__all__ = ["alarms"]

SENTENCE = (
    "While a run trains, rules watch its layers for known ways to fail: gradients that die, scales "
    "that no longer fit, codes that are not used, weights that go back and forth. No line here is "
    "good; a line names the layer, what is wrong, and what to try first."
)
MOST = 200


def alarms(content: Content) -> str:
    """The section."""
    lines: list[str] = []
    for place, run in enumerate(content.runs):
        who = "" if content.one else f"<b>{escape(content.label(run))}</b>: "
        for alarm in run.alarms:
            shown = run.looks is not None and alarm.get("layer") in run.looks.shown
            button = (
                f'<button type="button" class="js go" data-run="{place}" '
                f'data-layer="{escape(str(alarm.get("layer", "")))}" '
                f'data-operand="{escape(str(alarm.get("operand", "")))}" '
                f'data-step="{escape(str(alarm.get("step", 0)))}">show</button>'
                if shown
                else ""
            )
            raised = alarm.get("raised_to")
            more = f" The layer went on as in the recipe {escape(str(raised))}." if raised else ""
            lines.append(f"<li>{who}{escape(str(alarm.get('text', '')))}{more} {button}</li>")
    rest = len(lines) - MOST
    listed = f'<ul class="alarms">{"".join(lines[:MOST])}</ul>' if lines else ""
    if rest > 0:
        listed += f"<p>And {rest} more, which watch.jsonl holds.</p>"
    watched = any(run.looks is not None for run in content.runs)
    if not lines:
        text = (
            "No alarm was raised."
            if watched
            else "No layer was looked at, so no alarm could be raised."
        )
        listed = f'<p class="{"good" if watched else "muted"}">{text}</p>'
    warnings = [
        str(text) if content.one else f"{content.label(run)}: {text}"
        for run in content.runs
        for text in (run.result or {}).get("warnings") or []
        if not any(str(text) == str(alarm.get("text")) for alarm in run.alarms)
    ]
    told = [*warnings[:MOST]]
    if len(warnings) > MOST:
        told.append(f"and {len(warnings) - MOST} more, which result.json holds")
    more = f"<h3>Warnings of the run</h3>{bullets(told)}" if told else ""
    return section("alarms", "Alarms", SENTENCE, listed, more)
