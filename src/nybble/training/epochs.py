"""The end of an epoch: the test, its record, and what is said of it."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from nybble.training.progress import clock
from nybble.training.record import layers_of

if TYPE_CHECKING:
    from nybble.training.loop import Run

__all__ = ["finish_epoch"]


def finish_epoch(run: Run) -> None:
    """Test, record the epoch, move to the next one."""
    state, metric = run.state, run.task.metric
    started = time.perf_counter()
    test_loss, test_score, extras = run.evaluate()
    nonzero, dead = run.watch.report()
    dead = layers_of(run.model, dead, run.recipe is not None)
    record = {
        "epoch": state.epoch + 1,
        "train_loss": state.loss_sum / state.step,
        f"train_{metric}": run.train_metric(),
        "test_loss": test_loss,
        f"test_{metric}": test_score,
        "test_extras": extras,
        "lr": run.optimizer.param_groups[0]["lr"],
        "seconds": state.seconds,
        "cpu_seconds": state.cpu_seconds,
        "test_seconds": time.perf_counter() - started,
        "elapsed_seconds": state.elapsed,
        "step_ms": statistics.median(state.step_ms),
        "gradients": {"nonzero": nonzero, "dead": dead},
    }
    if run.phases.tail is not None:
        record["phase"] = "tail" if run.phases.started else "main"
    if run.config.clip_norm:
        record["clipped_steps"] = state.clipped
    state.epochs.append(record)
    run.reporter.say(
        f"epoch {state.epoch + 1}/{run.config.epochs}  "
        f"train loss {record['train_loss']:.4f}{run.shown(record[f'train_{metric}'])}  "
        f"test loss {test_loss:.4f}{run.shown(test_score)}  "
        f"{record['step_ms']:.1f} ms/step  {clock(state.elapsed)}"
    )
    for name in dead:
        run.warn(f"layer '{name}' got no weight gradient in the whole of epoch {record['epoch']}")
    if run.writer is not None:
        for key in ("train_loss", f"train_{metric}", "test_loss", f"test_{metric}", "lr"):
            if record[key] is not None:
                run.writer.add_scalar(key.replace("_", "/", 1), record[key], record["epoch"])
    state.next_epoch()
    run.carried = None
    run.watch.reset()
    run.write("running")
