"""What a recipe's text meant to earlier versions: defaults that have changed since, spelt out.

Run folders hold a recipe as it was asked for, `sun2020`, and a switch that it leaves out has
today's default. Files of `nybble.save` and results hold every setting and need none of this.
"""

from __future__ import annotations

SIGNED = {"sun2020": "signed=symmetric", "sun2020-strict": "signed=symmetric"}
"""Recipe -> the default of `signed` up to version 2 of config.json; now it is `sawb`."""


def as_before(text: str) -> str:
    """`text`, which an earlier version wrote, as it has to be written today.

    >>> as_before("sun2020"), as_before("sun2020:factor=1.848")
    ('sun2020:signed=symmetric', 'sun2020:factor=1.848+signed=symmetric')
    >>> as_before("sun2020:signed=two_sided"), as_before("hfp8")
    ('sun2020:signed=two_sided', 'hfp8')
    """
    base, _, switches = text.partition(":")
    given = [part for part in switches.split("+") if part]
    if base not in SIGNED or any(part.startswith("signed=") for part in given):
        return text
    return f"{base}:{'+'.join([*given, SIGNED[base]])}"
