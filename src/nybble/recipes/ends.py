"""The layers that recipes keep wide by their place: the first, the last, the last share of them.

first_last=fp16     FP16 first and last layer: IBM's convention, what `sun2020` does, and so what
                    makes recipes comparable; fp32 leaves them alone, same quantises them too
"""

from __future__ import annotations

from nybble.ops.spec import LayerSpec
from nybble.recipes.parts import optional_rules, uniform_spec
from nybble.recipes.recipe import Rule, Switch

__all__ = ["EMBEDDING", "FIRST_LAST", "common_rules"]

FIRST_LAST = Switch(
    "first_last",
    ("fp16", "fp32", "same"),
    "fp16",
    "the first and the last layer stay wide in nearly every method; FP16 as in sun2020, so that"
    " recipes differ in what is between; same: no exception",
)
EMBEDDING = tuple(
    Switch(kind, ("no", "yes"), "no", f"{what}: float32 unless asked, as in sun2020")
    for kind, what in (
        ("embedding", "tables of nn.Embedding"),
        ("attention", "the products QK^T and PV of attention"),
    )
)


def common_rules(settings: dict[str, str], spec: LayerSpec) -> list[Rule]:
    """The rules of `FIRST_LAST` and `EMBEDDING`, in their order."""
    rules = optional_rules(settings, spec)
    if settings["first_last"] != "same":
        wide = uniform_spec("fp16") if settings["first_last"] == "fp16" else None
        rules += [
            Rule(wide, position="first", why="wide by convention"),
            Rule(wide, position="last", why="wide by convention"),
        ]
    return rules
