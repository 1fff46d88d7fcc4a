"""What `convert(activations=...)` may compress of what modules keep for their backward pass.

kind       modules                          kept               effect on gradients
norm       BatchNorm1d/2d, LayerNorm        4 bits a value     see `grid.py`
relu       ReLU, ReLU6, LeakyReLU           1 bit a value      none: exact
gelu       GELU, SiLU                       4 bits a value     derivative off by up to 1/22
pool       MaxPool2d, AvgPool2d             index in 4 or 8    none: exact
                                            bits; nothing
dropout    Dropout                          1 bit a value      none: exact
softmax    Softmax                          8 bits a value     probability off by 1/510 of the
                                                               row's largest
attention  scaled_dot_product_attention     q, k, v in 8 bits  scores recomputed from them
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from nybble.errors import UserError, suggest


@dataclass(frozen=True)
class ActivationMemory:
    """The kinds of the table above, each True or False, and how modules work together.

    fuse: BatchNorm followed by ReLU becomes one operation that keeps 4 bits a value for both.
    in_place: a result may be written over the input where nobody else can see that input.

    >>> ActivationMemory(gelu=False).kinds
    ('norm', 'relu', 'pool', 'dropout', 'softmax', 'attention')
    """

    norm: bool = True
    relu: bool = True
    gelu: bool = True
    pool: bool = True
    dropout: bool = True
    softmax: bool = True
    attention: bool = True
    fuse: bool = True
    in_place: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are compressed."""
        names = [field.name for field in fields(self) if field.name not in ("fuse", "in_place")]
        return tuple(name for name in names if getattr(self, name))


NAMED = {
    "4bit": ActivationMemory(),
    "exact": ActivationMemory(norm=False, gelu=False, softmax=False, attention=False),
}
"""By name: everything, and what leaves every gradient as torch computes it."""


def resolve_memory(activations: str | ActivationMemory | None) -> ActivationMemory | None:
    """The options that `convert(activations=...)` stands for; UserError for anything else.

    >>> resolve_memory("exact").norm
    False
    """
    if activations is None or isinstance(activations, ActivationMemory):
        return activations
    if isinstance(activations, str) and activations in NAMED:
        return NAMED[activations]
    if activations in ("unsigned", "signed"):
        raise UserError(
            f"activations={activations!r}: the sign of a layer's inputs is the argument"
            f" inputs={activations!r}"
        )
    names = ", ".join(repr(name) for name in NAMED)
    raise UserError(
        f"activations={activations!r}: use None, {names} or an ActivationMemory."
        f"{suggest(str(activations), list(NAMED))}"
    )
