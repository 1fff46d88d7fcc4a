"""Rules over the looks at a layer: what is wrong, where, since when, and what to do about it.

    dead          every number of the gradient became zero, or the layer's input is zero, in each of
                  the last `LOOKS` looks
    saturated     more than a share of the numbers lie beyond the largest value (gradients 2 %,
                  inputs 20 %, weights 20 %), in each of the last looks
    collapsed     at most two of a 4-bit format's codes are used, or one code holds 99.5 %
    oscillating   more than 10 % of the weights go back and forth between codes
    diverging     PACT's clip is not above zero, or eight times what it was at the first look and
                  still growing
    non-finite    a NaN or infinity in an operand

The thresholds are chosen here, so that healthy runs of the ready recipes raise none (a test trains
some); the failures that they name are those of science: underflow of all gradients, a scale that no
longer follows, weights that oscillate between two codes (Nagel et al. 2022), clips that diverge.

An alarm is raised once for a layer, operand and kind; again only after it has gone away.

Not done here: accuracy, learning rates, the loss. Those are the training loop's own.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from dataclasses import asdict, dataclass
from typing import Any, Final

from nybble.watching.record import Record

__all__ = ["KINDS", "Alarm", "Alarms"]

LOOKS: Final = 3
KINDS: Final = ("dead", "saturated", "collapsed", "oscillating", "diverging", "non-finite")
_BEYOND: Final = {"input": 0.2, "weight": 0.2, "grad_input": 0.02, "grad_weight": 0.02}
_ONE_CODE: Final = 0.995
_FEW_CODES: Final = 2
_LIVE: Final = 64
_FLIPS: Final = 0.1
_GROWTH: Final = 8.0

_REMEDIES: Final = {
    "dead": "give its gradient a scale of its own (gradscale) or 8 bits, or lower the rate",
    "saturated": "let its scale follow the tensor (gradscale_start=fit, hindsight) or raise it",
    "collapsed": "let its scale follow the tensor, or keep this layer at 8 bits",
    "oscillating": "lower the learning rate, or end in high precision (a recipe with a tail)",
    "diverging": "give clips a smaller rate (nybble.param_groups), or take sawb in place of pact",
    "non-finite": "lower the learning rate or lengthen the warm-up; keep this layer at 16 bits",
}


@dataclass(frozen=True)
class Alarm:
    """One line names layer, operand, step and a remedy."""

    step: int
    kind: str
    layer: str
    operand: str
    what: str

    @property
    def remedy(self) -> str:
        """What to try first."""
        return _REMEDIES[self.kind]

    @property
    def text(self) -> str:
        """The line.

        >>> print(Alarm(9, "dead", "conv1", "grad_weight", "every number became zero").text)
        step 9: layer 'conv1', grad_weight: dead: every number became zero. Remedy: give its
        gradient a scale of its own (gradscale) or 8 bits, or lower the rate
        """
        layer = self.layer.encode("unicode_escape").decode()  # a name may hold a line break
        return (
            f"step {self.step}: layer '{layer}', {self.operand}: {self.kind}: {self.what}. "
            f"Remedy: {self.remedy}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        data = asdict(self)
        return {"alarm": data.pop("kind"), **data, "text": self.text}


class Alarms:
    """Judges records as they come.

    >>> rules = Alarms()
    >>> look = Record(1, "fc", "grad_weight", "fp4_radix4", 4, underflow=1.0, rms=1e-9)
    >>> [rules.judge(look) for _ in range(3)][-1][0].kind
    'dead'
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], deque[Record]] = defaultdict(lambda: deque(maxlen=LOOKS))
        self._clips: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LOOKS))
        self._first_clip: dict[str, float] = {}
        self._raised: set[tuple[str, str, str]] = set()

    def judge(self, record: Record) -> list[Alarm]:
        """The alarms that this record raises."""
        history = self._last[record.layer, record.operand]
        history.append(record)
        found = dict(self._found(record, list(history)))
        raised = []
        for kind in KINDS:
            key = (record.layer, record.operand, kind)
            if kind not in found:
                self._raised.discard(key)
            elif key not in self._raised:
                self._raised.add(key)
                raised.append(Alarm(record.step, kind, record.layer, record.operand, found[kind]))
        return raised

    def state(self) -> dict[str, Any]:
        """What was seen so far, JSON-able."""
        return {
            "last": [[r.to_json() for r in records] for records in self._last.values()],
            "clips": {name: list(clips) for name, clips in self._clips.items()},
            "first": dict(self._first_clip),
            "raised": [list(key) for key in sorted(self._raised)],
        }

    def load_state_(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for lines in state["last"]:
            for line in lines:
                record = Record.from_dict(json.loads(line))
                self._last[record.layer, record.operand].append(record)
        for name, clips in state["clips"].items():
            self._clips[name].extend(clips)
        self._first_clip.update(state["first"])
        self._raised.update((a, b, c) for a, b, c in state["raised"])

    def _found(self, record: Record, history: list[Record]) -> list[tuple[str, str]]:
        if not record.finite:
            return [("non-finite", f"NaN or infinity in the {record.operand} of this layer")]
        found: list[tuple[str, str]] = []
        whole = len(history) == LOOKS
        gradient = record.operand.startswith("grad")
        if whole and all(_dead(one) for one in history):
            what = "every number of the gradient became zero" if gradient else "it is all zero"
            return [("dead", f"{what} in {LOOKS} looks")]
        limit = _BEYOND[record.operand]
        if whole and all((one.saturation or 0.0) > limit for one in history):
            share = 100 * min(one.saturation or 0.0 for one in history)
            found.append(
                ("saturated", f"{share:.0f} % or more lie beyond the largest value, scale "
                 f"{record.scale:.3g}, in {LOOKS} looks")
            )  # fmt: skip
        if whole and record.bits == 4 and all(_collapsed(one) for one in history):
            most = 100 * max(record.histogram) / sum(record.histogram)
            found.append(
                ("collapsed", f"{record.used} of 16 codes are used, one of them for {most:.1f} %")
            )
        if record.flips is not None and record.flips > _FLIPS:
            found.append(
                ("oscillating", f"{100 * record.flips:.0f} % of the weights go back and forth")
            )
        if record.operand == "input" and record.alpha:
            found += self._clip(record)
        return found

    def _clip(self, record: Record) -> list[tuple[str, str]]:
        clip = record.alpha[0]
        first = self._first_clip.setdefault(record.layer, clip)
        history = self._clips[record.layer]
        history.append(clip)
        if clip <= 0:
            return [("diverging", f"PACT's clip is {clip:.3g}, so every input is clipped")]
        grows = len(history) == LOOKS and all(
            a < b for a, b in zip(history, list(history)[1:], strict=False)
        )
        if grows and first > 0 and clip > _GROWTH * first:
            return [("diverging", f"PACT's clip is {clip:.3g} and grows; it began at {first:.3g}")]
        return []


def _dead(record: Record) -> bool:
    if record.operand.startswith("grad"):
        return record.underflow == 1.0 or record.zeros == 1.0
    return record.operand == "input" and record.zeros == 1.0


def _collapsed(record: Record) -> bool:
    counts = [float(count) for count in record.histogram]
    total = sum(counts)
    if record.used is None or not total:
        return False
    # Most of a gradient behind a ReLU is zero, and healthy: what was zero before does not count.
    counts[0] = max(0.0, counts[0] - (record.zeros or 0.0) * total)
    live = sum(counts)
    if live < _LIVE:
        return False
    return sum(1 for count in counts if count) <= _FEW_CODES or max(counts) > _ONE_CODE * live
