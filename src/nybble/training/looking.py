"""The looks at the layers of a run: `OUT/watch.jsonl`, alarms in the log and the result.

    every layer once in `config.watch` steps, and at most `MOST` times in a run

A run that is shorter than that has one look at every layer. `on_alarm` says what an alarm does:
`warn` writes a line, `stop` saves the run and ends it, `raise-precision` gives the layer 8, then 16
bits and goes on; what was raised is kept with the checkpoint, and a resumed run raises it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nybble.nn.registry import quantized_layers
from nybble.watching import Watch

if TYPE_CHECKING:
    from nybble.training.loop import Run

__all__ = ["MOST", "WATCH_FILE", "Looks", "interval"]

WATCH_FILE: Final = "watch.jsonl"
MOST: Final = 300


def interval(asked: int, total: int) -> int:
    """Steps between two looks at a layer.

    >>> interval(100, 1000), interval(100, 60), interval(100, 100_000)
    (100, 60, 334)
    """
    return max(1, min(asked, total), -(-total // MOST))


class Looks:
    """The watch of a run, or nothing where it asks for none or has no layer of few bits."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.watch: Watch | None = None
        self.before: list[dict[str, Any]] = []

    def begin(self, state: dict[str, Any] | None) -> None:
        """Begin to look; `state`: of the checkpoint from which the run goes on."""
        run, config = self.run, self.run.config
        self.before = list(run.state.alarms)
        if not config.watch or not any(True for _ in quantized_layers(run.model)):
            return
        self.watch = Watch(
            run.model,
            interval(config.watch, run.total_steps),
            to=run.folder / WATCH_FILE,
            tensorboard=run.writer,
            on_alarm=config.on_alarm,  # type: ignore[arg-type]  # checked by the configuration
            say=run.warn,
            steps=lambda: run.done + 1,
            keep=False,
        )
        if state:
            self.watch.load_state_(state)

    def check(self) -> None:
        """After a step: under `stop`, save the run and raise its alarm."""
        if self.watch is None:
            return
        if self.watch.on_alarm == "stop":
            self.watch.flush()
        if self.watch.stopped:
            self.run.save()
        self.watch.check()

    def forget(self) -> None:
        """A step was skipped: what its bad gradients showed is no alarm."""
        if self.watch is not None:
            self.watch.forget()

    def state(self) -> dict[str, Any] | None:
        """For the checkpoint; None where there is nothing to keep."""
        return None if self.watch is None else self.watch.state()

    def note(self) -> None:
        """Bring the run's state up to date: its alarms, and the layers that got more bits."""
        if self.watch is not None:
            new = [alarm.to_dict() for alarm in self.watch.alarms]
            self.run.state.alarms = [*self.before, *new]
            self.run.state.raised = dict(self.watch.raised)

    def close(self) -> None:
        """Read the rest."""
        if self.watch is not None:
            self.watch.close()
            self.note()
