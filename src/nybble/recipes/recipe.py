"""A recipe is data: six slots, an accumulator, ordered layer rules, and where it comes from.

    spec    what every layer does that no rule speaks of
    rules   tried in order; the first that matches a layer decides what it does instead
    source  the paper

`convert` resolves it: for each layer the user's rules come first, then the recipe's, then `spec`.
A new recipe is one short file with a builder function and one line in `registry.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nybble.errors import UserError, suggest
from nybble.ops.spec import LayerSpec
from nybble.recipes.tail import Tail

LayerType = Literal[
    "conv1x1",
    "depthwise",
    "transposed",
    "conv",
    "linear",
    "recurrent",
    "time-loop",
    "embedding",
    "attention",
]
Position = Literal["first", "last"]
Family = Literal["bottleneck", "depthwise-separable"]


OPTIONAL: tuple[LayerType, ...] = ("embedding", "attention")
"""Types of layers that stay in float32 unless a rule names their type, or them by their name."""


@dataclass(frozen=True)
class LayerFacts:
    """What a rule may ask of a layer: its name, its types, its position, the network's family.

    A Gemm of a recurrent layer is a layer here (`lstm.hh_l0`), and so is a projection of
    `nn.MultiheadAttention`; `owner` is the name of the whole. `depth`: the share of the layers
    that begin before this one does, from 0 up to but without 1.
    """

    name: str
    types: frozenset[str]
    position: frozenset[str]
    family: frozenset[str] = frozenset()
    owner: str | None = None
    depth: float = 0.0

    def named(self, pattern: str) -> bool:
        """Whether a rule's name means this layer.

        >>> facts = LayerFacts("net.hh_l0", frozenset(), frozenset(), owner="net")
        >>> facts.named("net"), facts.named("net.hh_l0"), facts.named("net.hh_l1")
        (True, True, False)
        """
        names = [self.name] if self.owner is None else [self.name, self.owner]
        return any(name_matches(pattern, name) for name in names)


@dataclass(frozen=True)
class Rule:
    """One exception: `spec` for the layers that meet every condition that is set.

    name: exact module name, or `re:` and a regular expression that is searched in the name.
    type: `conv1x1`, `depthwise`, `transposed`, `conv`, `linear`, `recurrent` (each Gemm of an RNN,
    LSTM or GRU) or `time-loop` (those of its hidden state, one step after the other); `embedding`
    (tables) and `attention` (the products Q K^T and P V), which no other rule speaks of;
    position: `first` or `last` in module order;
    share: only the last `share` of the layers, in module order;
    family: only in networks of this family: `bottleneck` (most dense convolutions are 1x1, as in
    ResNet-50) or `depthwise-separable` (MobileNet). `spec=None` leaves the layer in float32.
    """

    spec: LayerSpec | None
    name: str | None = None
    type: LayerType | None = None
    position: Position | None = None
    family: Family | None = None
    why: str = ""
    share: float | None = None

    def matches(self, layer: LayerFacts) -> bool:
        """Whether the rule speaks of this layer."""
        if self.name is not None and not layer.named(self.name):
            return False
        if self.type is not None and self.type not in layer.types:
            return False
        # The name of a whole does not bring in what is optional of it.
        itself = self.name is not None and name_matches(self.name, layer.name)
        if self.type is None and not itself and layer.types.intersection(OPTIONAL):
            return False
        if self.position is not None and self.position not in layer.position:
            return False
        if self.share is not None and layer.depth < 1.0 - self.share:
            return False
        return self.family is None or self.family in layer.family

    def describe(self) -> str:
        """The conditions in words.

        >>> Rule(None, position="first").describe()
        'first layer'
        """
        words = [self.position or "", self.type or "", "layer"]
        text = " ".join(word for word in words if word)
        if self.share is not None:
            text = f"last {self.share:.0%} of the {text}s"
        if self.name is not None:
            text += f" named {self.name}"
        if self.family is not None:
            text += f" of a {self.family} network"
        return text

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "spec": None if self.spec is None else self.spec.to_dict(),
            "name": self.name,
            "type": self.type,
            "position": self.position,
            "family": self.family,
            **({} if self.share is None else {"share": self.share}),
            "why": self.why,
        }


def name_matches(pattern: str, name: str) -> bool:
    """Exact equality, or a regular expression behind `re:`.

    >>> name_matches("head", "head"), name_matches("re:down", "layer2.downsample.0")
    (True, True)
    """
    if not pattern.startswith("re:"):
        return pattern == name
    try:
        return re.search(pattern[3:], name) is not None
    except re.error as error:
        raise UserError(f"rule {pattern!r} is not a regular expression: {error}") from error


@dataclass(frozen=True)
class Switch:
    """An open point of a recipe's source, as a choice: its values, its default and the reason.

    choices: empty where any text may be given, to a function of a user's own.
    """

    name: str
    choices: tuple[str, ...]
    default: str
    why: str

    def check(self, recipe: str, value: str) -> str:
        """`value` if it is one of the choices, else a UserError."""
        if self.choices and value not in self.choices:
            raise UserError(
                f"{recipe}: switch {self.name}={value} is not known:"
                f" use {' | '.join(self.choices)}.{suggest(value, self.choices)}"
            )
        return value


@dataclass(frozen=True)
class Recipe:
    """A way of training in few bits; see the module. Frozen, printable, serialisable.

    candidates: settings of the switches, as `factor=1.848+phases=odd-even`, among which a
    comparison looks for the best one unless it is told otherwise.
    tail: the last phase of a run, in which some operands are wider; None: there is one phase.
    """

    name: str
    title: str
    source: str
    spec: LayerSpec
    rules: tuple[Rule, ...] = ()
    switches: tuple[Switch, ...] = ()
    candidates: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = field(default=())
    tail: Tail | None = None

    def resolve(self, layer: LayerFacts) -> tuple[LayerSpec | None, Rule | None]:
        """What `layer` does, and the rule that said so (None: the recipe's own spec)."""
        for rule in self.rules:
            if rule.matches(layer):
                return rule.spec, rule
        return (None if layer.types.intersection(OPTIONAL) else self.spec), None

    def named_spec(self, layer: LayerFacts) -> LayerSpec | None:
        """What `layer` does where a user's rule names this recipe for it: the recipe's own spec.

        Exemptions by position, family or kind are what such a rule lifts. The form that a time loop
        needs is no exemption: without it the loop would leave the native backend.
        """
        inside = layer.types & {"time-loop"}
        return self.resolve(LayerFacts("", inside, frozenset()))[0] if inside else self.spec

    @property
    def loss_scale(self) -> float:
        """A power of two by which training loops multiply the loss and divide the gradients, for
        the layers that need one (`LayerSpec.loss_scale`); `nybble.loss_scale(model)` asks a model.
        """
        specs = [self.spec, *(rule.spec for rule in self.rules)]
        return max(spec.loss_scale for spec in specs if spec is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, for records and checkpoints."""
        data = {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "spec": self.spec.to_dict(),
            "rules": [rule.to_dict() for rule in self.rules],
            "loss_scale": self.loss_scale,
            "settings": dict(self.settings),
        }
        if self.tail is not None:
            data["tail"] = self.tail.to_dict()
        return data


def read_settings(recipe: str, switches: Sequence[Switch], given: dict[str, str]) -> dict[str, str]:
    """The switches' values: the defaults, replaced by what was given and is allowed."""
    names = [switch.name for switch in switches]
    for name in given:
        if name not in names:
            known = ", ".join(names) or "none"
            raise UserError(
                f"{recipe} has no switch {name!r} (it has: {known}).{suggest(name, names)}"
            )
    return {s.name: s.check(recipe, given.get(s.name, s.default)) for s in switches}
