"""`nybble.watch(model, every=N)`: look at a model's layers while it trains, in any loop.

    with nybble.watch(model, every=100, to="watch.jsonl") as watch:
        ...                      # an ordinary loop
    watch.records                # every look, a Record each
    watch.alarms                 # what went wrong, one clear line each

Steps are counted by the training forwards of the model. Numbers of an accelerator stay there and
are read every `FLUSH` looks, at `flush()` and at the end; it is not waited for in between. Those of
the CPU are read when the next step begins.
Looking changes no result: weights after any number of steps are the same 32 bits with and without.

on_alarm: "warn" (a Python warning, or `say`), "stop" (raises AlarmError at the next step's begin),
"raise-precision" (the layer goes on at 8 bits, then at 16, and that is recorded).

Not done here: models under torch.compile, which are not looked at while compiled code runs.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, get_args

import torch
from torch import nn

from nybble.errors import UserError, suggest
from nybble.formats import Format
from nybble.nn.registry import quantized_layers
from nybble.watching.alarms import Alarm, Alarms
from nybble.watching.observer import Observer, Pending
from nybble.watching.precision import raise_precision, set_precision
from nybble.watching.record import OPERANDS, SCHEMA, Record

__all__ = ["AlarmError", "OnAlarm", "Watch", "watch"]

OnAlarm = Literal["warn", "stop", "raise-precision"]
EVERY: Final = 100
FLUSH: Final = 256


class AlarmError(UserError):
    """Training was stopped by an alarm, as `on_alarm="stop"` asked."""


def watch(
    model: nn.Module,
    every: int = EVERY,
    *,
    to: str | Path | None = None,
    tensorboard: Any = None,
    on_alarm: OnAlarm = "warn",
    say: Callable[[str], None] | None = None,
) -> Watch:
    """Look at every converted layer of `model` once in `every` training steps.

    to: a file of JSON lines, appended to. tensorboard: a SummaryWriter. say: what a warning calls
    in place of `warnings.warn`.

    Raises:
        UserError: `every` below 1, an unknown `on_alarm`, a model that is watched already.

    >>> import nybble
    >>> model = nybble.convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), "luq")
    >>> with watch(model, every=1) as seen:
    ...     model(torch.randn(4, 8)).sum().backward()
    >>> sorted({record.operand for record in seen.records})
    ['grad_input', 'grad_weight', 'input', 'weight']
    """
    return Watch(model, every, to=to, tensorboard=tensorboard, on_alarm=on_alarm, say=say)


class _Hook:
    """The hook that begins a step. Copies and pickles of a model do nothing in its place."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.watch._begin(module)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(module: nn.Module, inputs: Any) -> None:
    """In the place of a hook that stayed with the model it came from."""


class Watch:
    """See the module. `step`: training steps so far; `records`, `alarms`, `raised` (layer to the
    precision that it got), `looked`: how many looks were read."""

    def __init__(
        self,
        model: nn.Module,
        every: int = EVERY,
        *,
        to: str | Path | None = None,
        tensorboard: Any = None,
        on_alarm: OnAlarm = "warn",
        say: Callable[[str], None] | None = None,
        steps: Callable[[], int] | None = None,
        keep: bool = True,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UserError(f"watch: every must be a whole number of steps from 1, not {every!r}.")
        if on_alarm not in get_args(OnAlarm):
            choices = get_args(OnAlarm)
            raise UserError(
                f"watch: on_alarm is {', '.join(choices)}, not {on_alarm!r}."
                f"{suggest(str(on_alarm), choices)}"
            )
        if not isinstance(model, nn.Module):
            raise UserError(f"watch: give a model, a torch.nn.Module, not {model!r:.60}.")
        self.model, self.every, self.on_alarm = model, every, on_alarm
        self.step = 0
        self.keep, self._steps = keep, steps
        self.records: list[Record] = []
        self.alarms: list[Alarm] = []
        self.raised: dict[str, str] = {}
        self.looked = 0
        self._say = say or (lambda text: warnings.warn(text, stacklevel=3))
        self._to = None if to is None else Path(to)
        self._tensorboard = tensorboard
        self._rules = Alarms()
        self._formats: dict[str, list[float]] = {}
        self._stopped: Alarm | None = None
        self._observers: list[Observer] = []
        order = itertools.count()
        for name, layer in quantized_layers(model):
            if layer.nybble_observer is not None:
                raise UserError("watch: this model is watched already; close that watch first.")
            self._observers.append(Observer(layer, name, order))
        if not self._observers:
            raise UserError("watch: the model has no converted layer; call nybble.convert first.")
        self._write_head()  # before anything is attached: a file that cannot be written ends here
        for observer in self._observers:
            observer.layer.nybble_observer = observer
        # A tensor of the CPU is read without waiting. What changes the run must not depend on when
        # numbers are read, so that a run that was stopped and resumed is the same.
        devices = {observer.layer.weight.device.type for observer in self._observers}
        self._eager = devices <= {"cpu"} or on_alarm == "raise-precision"
        self.layers = tuple(observer.name for observer in self._observers)
        self._hook = model.register_forward_pre_hook(_Hook(self))

    # ---- the loop -----------------------------------------------------------------------------

    def _begin(self, module: nn.Module) -> None:
        if not (module.training and torch.is_grad_enabled()):
            for observer in self._observers:  # a test between two steps is no part of a look
                observer.due = False
            return
        if torch._C._current_graph_task_id() != -1:
            return  # a recomputation during backward
        self.check()
        number = self.step + 1 if self._steps is None else self._steps()
        if number == self.step:
            return  # the same step once more: a look at its noise, say
        if self._eager:
            self.flush()
        self.step = number
        count = max(1, len(self._observers))
        for place, observer in enumerate(self._observers):
            turn = (self.step - 1 + place * self.every // count) % self.every == 0
            observer.begin(self.step, turn)

    @property
    def stopped(self) -> bool:
        """Whether an alarm waits to be raised by the next `check`."""
        return self._stopped is not None

    def check(self) -> None:
        """Read what has come together; after an alarm under `on_alarm="stop"`, raise it.

        Raises:
            AlarmError: the alarm.
        """
        if sum(len(observer.found) for observer in self._observers) >= FLUSH:
            self.flush()
        if self._stopped is not None:
            alarm, self._stopped = self._stopped, None
            raise AlarmError(f"training was stopped by an alarm: {alarm.text}")

    def forget(self) -> None:
        """Drop the looks of this step: it was skipped, as after an overflow under a loss scale."""
        for observer in self._observers:
            observer.found = [seen for seen in observer.found if seen.step != self.step]

    def flush(self) -> list[Record]:
        """Read what was seen since the last time: new records, alarms, lines in the file."""
        pending: list[Pending] = []
        for observer in self._observers:
            pending += observer.found
            observer.found = []
        self.looked += len(pending)
        pending.sort(key=lambda p: p.order)
        new = [self._record(p) for p in pending]
        lines = []
        for record, seen in zip(new, pending, strict=True):
            lines += self._grid(seen.slot.format)
            lines.append(record.to_json())
            for alarm in self._rules.judge(record):
                lines.append(json.dumps(self._raise(alarm)))
        if self.keep:
            self.records += new
        self._write(lines)
        self._draw(new)
        return new

    def _record(self, seen: Pending) -> Record:
        figures = seen.numbers.read()
        return Record(
            step=seen.step,
            layer=seen.layer,
            operand=seen.operand,
            format=seen.slot.format.name,
            bits=seen.slot.format.bits,
            alpha=[] if seen.alpha is None else [float(a) for a in seen.alpha.reshape(-1)],
            flips=None if seen.flips is None else float(seen.flips),
            **figures,
        )

    def _raise(self, alarm: Alarm) -> dict[str, Any]:
        self.alarms.append(alarm)
        told = alarm.to_dict()
        text = alarm.text
        if self.on_alarm == "raise-precision":
            layer = next(o.layer for o in self._observers if o.name == alarm.layer)
            name = raise_precision(layer)
            if name is not None:
                self.raised[alarm.layer] = name
                told["raised_to"] = name
                text += f". The layer goes on as in the recipe {name}"
        if self.on_alarm == "stop" and self._stopped is None:
            self._stopped = alarm
        self._say(text)
        return told

    # ---- where it goes ------------------------------------------------------------------------

    def _write_head(self) -> None:
        if self._to is None:
            return
        if self._to.is_file() and self._to.stat().st_size:
            with self._to.open("rb") as file:
                first = file.readline(4096)
            if SCHEMA.encode() not in first:
                raise UserError(f"watch: {self._to} holds something else; give a file of its own.")
            if not self._to.read_bytes().endswith(b"\n"):
                self._write([""])  # a crash cut the last line off: the next begins on its own
            return
        self._write([json.dumps({"schema": SCHEMA, "every": self.every})])

    def _grid(self, fmt: Format) -> list[str]:
        """The values of a format by code, once in a file."""
        if fmt.bits > 4 or fmt.name in self._formats:
            return []
        self._formats[fmt.name] = [float(v) for v in fmt.values()]
        return [json.dumps({"format": fmt.name, "values": self._formats[fmt.name]})]

    def _write(self, lines: list[str]) -> None:
        if self._to is None or not lines:
            return
        try:
            with self._to.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise UserError(f"watch: {self._to} cannot be written: {error}.") from error

    def _draw(self, records: list[Record]) -> None:
        if self._tensorboard is None:
            return
        for record in records:
            place = f"{record.layer}/{record.operand}"
            for name in ("underflow", "saturation", "scale", "snr_db", "cosine", "norm_ratio"):
                value = getattr(record, name)
                if value is not None:
                    self._tensorboard.add_scalar(f"watch/{place}/{name}", value, record.step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold so that a resumed run raises the same alarms; what has been
        seen is read first, since the tensors themselves are not kept."""
        self.flush()
        return {
            "rules": self._rules.state(),
            "raised": dict(self.raised),
            "bursts": {o.name: o.burst.levels for o in self._observers if o.burst is not None},
        }

    def load_state_(self, state: dict[str, Any]) -> None:
        """The inverse of `state`: layers that had got more bits get them again."""
        self._rules.load_state_(state["rules"])
        self.raised = dict(state["raised"])
        for observer in self._observers:
            if observer.name in self.raised:
                set_precision(observer.layer, self.raised[observer.name])
            if observer.name in state["bursts"]:
                observer.resume(state["bursts"][observer.name])

    def latest(self, layer: str, operand: str) -> Record | None:
        """The last look at an operand of a layer.

        Raises:
            UserError: no such layer.
        """
        if operand not in OPERANDS:
            raise UserError(
                f"watch: an operand is {', '.join(OPERANDS)}, not '{operand}'."
                f"{suggest(operand, OPERANDS)}"
            )
        if layer not in self.layers:
            raise UserError(
                f"watch: no converted layer is called '{layer}'.{suggest(layer, self.layers)}"
            )
        found = [r for r in self.records if (r.layer, r.operand) == (layer, operand)]
        return found[-1] if found else None

    def close(self) -> None:
        """Read the rest and take the observers off; the records stay."""
        try:
            if self._observers:
                self.flush()
        finally:  # a full disk must not leave the model watched
            for observer in self._observers:
                if getattr(observer.layer, "nybble_observer", None) is observer:
                    observer.layer.nybble_observer = None
            self._observers = []
            self._hook.remove()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None:
            self.check()  # an alarm of the last step
