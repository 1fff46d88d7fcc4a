"""The errors that users see, and the nearest-name hint they carry.

A `UserError` is bad input: its message is one clear line that says what was asked, what was given
and what to do. The command line prints it on stderr and ends with status 2, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NybbleError(Exception):
    """Base of every error that nybble raises on purpose."""


class UserError(NybbleError, ValueError):
    """Bad input: an unknown name, a wrong shape, a file that cannot be used."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest of `choices`, or an empty string.

    >>> suggest("sun2002", ["sun2020", "fp32"])
    " Did you mean 'sun2020'?"
    >>> suggest("zebra", ["sun2020", "fp32"]), suggest("1", ["-1", "+1"])
    ('', " Did you mean '+1'?")
    >>> suggest("NVFP4", ["ufp4", "nvfp4"])
    " Did you mean 'nvfp4'?"
    """
    known = list(choices)
    near = [f"+{name}"] if f"+{name}" in known else []  # difflib would take -1 for 1
    near = near or [one for one in known if one.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
