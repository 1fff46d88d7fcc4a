"""The training loop: one run, from its configuration to its result.

Every step is a function of the state before it and of (seed, epoch, step): the batch, its
augmentation and the global generators' seeds are derived from the position. So a run that continues
from a checkpoint takes the same steps as one that was never stopped, and runs of different recipes
with one seed see the same initial weights and batches.

    train(config) -> the record that is also written to OUT/result.json
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nybble.convert import loss_scale
from nybble.errors import UserError
from nybble.nn.hooks import hook_steps
from nybble.training import diagnose
from nybble.training.blame import described, raise_if_the_models
from nybble.training.config import TrainConfig
from nybble.training.epochs import finish_epoch
from nybble.training.evaluate import evaluate
from nybble.training.files import disk_errors
from nybble.training.folder import check_folder, claim_folder
from nybble.training.inputs import call, detached, laid_out
from nybble.training.looking import Looks
from nybble.training.machine import commit
from nybble.training.noise import gradient_to_noise
from nybble.training.optimizers import build_optimizer, clip_gradients_, set_lr, unscale_
from nybble.training.phases import Phases
from nybble.training.prepare import begin, build_model
from nybble.training.progress import Reporter, clock, waiting, with_unit
from nybble.training.record import run_record
from nybble.training.result import read_result, write_result
from nybble.training.resuming import resume, save
from nybble.training.saved import measure_saved_bytes
from nybble.training.seeds import derive, globals_restored, seed_globals
from nybble.training.signals import Interrupted, StopRequest
from nybble.training.state import RunState
from nybble.training.tasks import make_task
from nybble.training.tasks.base import Inputs
from nybble.training.tensorboard import check_tensorboard, make_writer
from nybble.training.watch import GradientWatch


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says; return the result, the content of OUT/result.json.

    A run that is finished already is not repeated under `resume`: its result is returned.

    Raises:
        UserError: bad input, a folder that holds something else, a full disk.
        NonFiniteError: the loss or a gradient became NaN or infinite; names step and layer.
        Interrupted: SIGINT or SIGTERM arrived; the run is saved and can be resumed.
    """
    config = config.resolved()
    check_folder(config)
    if config.tensorboard:
        check_tensorboard()
    if config.resume:
        finished = read_result(config.run_folder())
        if finished is not None and finished.get("status") == "complete":
            return finished
    threads = torch.get_num_threads()
    try:
        with globals_restored():
            return Run(config).train()
    finally:
        torch.set_num_threads(threads)


class NonFiniteError(UserError):
    """Training stopped because a number was NaN or infinite."""


class Run:
    """One run: task, model, optimizer, and the state that a checkpoint holds."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config = config.resolved()
        self.folder = config.run_folder()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        with waiting(f"loading {config.data}", config.quiet):
            self.task = make_task(config)
        seed_globals(derive(config.seed, "init"))
        self.model, self.recipe = build_model(config, self.task)
        self.start = begin(self.model, config)
        self.optimizer = build_optimizer(self.model, config)
        hook_steps(self.model, self.optimizer)
        self.about = self.task.describe()
        if self.start is not None:
            self.about["start"] = self.start["sha256"]
        self.state = RunState(loss_scale=config.loss_scale or loss_scale(self.model))
        self.watch = GradientWatch(self.model, self.task.steps_per_epoch)
        self.total_steps = config.epochs * self.task.steps_per_epoch
        self.phases = Phases(self.recipe, self.total_steps)
        self.commit = commit()
        self.carried: Any = None
        self.saved_at: int | None = None
        self.looks = Looks(self)
        self.looked: dict[str, Any] | None = None
        self.writer: Any = None

    @property
    def done(self) -> int:
        """Training steps taken since the beginning."""
        return self.state.epoch * self.task.steps_per_epoch + self.state.step

    # -- the run ------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Run to the end, or until a signal or an error stops it."""
        with (
            StopRequest() as self.stop,
            Reporter(claim_folder(self.config), self.config.quiet) as self.reporter,
        ):
            self.reporter.say(self.headline())
            resume(self)
            if self.config.tensorboard:
                self.writer = make_writer(self.folder, self.done)
            self.looks.begin(self.looked)
            self.write("running")
            self.reporter.start(self.total_steps, self.done)
            try:
                if self.start is not None and not self.state.before:
                    self.test_the_start()
                while self.state.epoch < self.config.epochs:
                    while self.state.step < self.task.steps_per_epoch:
                        self.check_stop()
                        self.step()
                        self.looks.check()
                        every = self.config.checkpoint_every
                        if every and self.done % every == 0:
                            self.save()
                    finish_epoch(self)
                self.save()
                self.looks.close()
            except (Exception, SystemExit) as error:
                self.looks.close()
                self.note_failure(error)
                raise_if_the_models(error, self.config.model, f"step {self.done + 1}", self.folder)
                raise
            finally:
                if self.writer is not None:
                    self.writer.close()
            record = self.write("complete")
            self.reporter.say(f"finished: {self.folder}")
        return record

    def headline(self) -> str:
        config, about = self.config, self.about
        return (
            f"{config.task}: {about['name']} ({about['train']} train, {about['test']} test), "
            f"{config.model}, recipe {config.recipe}, seed {config.seed}, "
            f"{config.epochs} epoch{_s(config.epochs)} of {self.task.steps_per_epoch} "
            f"step{_s(self.task.steps_per_epoch)}, {torch.get_num_threads()} "
            f"thread{_s(torch.get_num_threads())} -> {self.folder}"
        )

    def step(self) -> None:
        """One training step: batch, forward, backward, optimizer."""
        state, config = self.state, self.config
        started, cpu_started = time.perf_counter(), time.process_time()
        if self.phases.enter(self.model, state, self.done):
            self.reporter.say(f"step {self.done + 1}: the last phase of {config.recipe} begins")
        set_lr(self.optimizer, self.phases.factor(config.schedule, self.done, config.warmup))
        inputs, target = self.batch()
        began_with = self.carried
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self.model.train()
        seed_globals(derive(config.seed, "step", state.epoch, state.step))
        output, loss = self.forward(inputs, target, began_with)
        value = float(loss.detach())
        if value - value != 0:  # NaN or infinite
            raise self.non_finite(f"the loss is {value}", before, inputs, target, began_with)
        self.optimizer.zero_grad(set_to_none=True)
        self.backward(loss)
        if diagnose.gradients_finite(self.model):
            self.watch.observe(state.step)
            if self.phases.looks(self.done, state):
                self.look(before, inputs, target, began_with)
            if config.clip_norm and clip_gradients_(self.optimizer, config.clip_norm):
                state.clipped += 1
            self.optimizer.step()
        elif state.loss_scale > 1:
            self.skip()
        else:
            raise self.non_finite("a gradient is not finite", before, inputs, target, began_with)
        state.loss_sum += value
        output = detached(output)
        if self.task.scores_training:
            with torch.no_grad():
                state.add_score(self.task.score(output, target))
        self.carried = detached(self.task.carry(began_with, output))
        state.step += 1
        seconds = time.perf_counter() - started
        state.cpu_seconds += time.process_time() - cpu_started
        state.seconds += seconds
        state.elapsed += seconds
        state.step_ms.append(1000 * seconds)
        self.reporter.step(self.done, self.progress_line())
        if self.writer is not None:
            self.writer.add_scalar("train/loss_step", value, self.done)

    def batch(self) -> tuple[Inputs, Any]:
        inputs, target = self.task.batch(self.state.epoch, self.state.step)
        return laid_out(inputs, self.config.channels_last), target

    def forward(self, inputs: Inputs, target: Any, carried: Any) -> tuple[Any, Tensor]:
        """Output and loss; the first step of a run also counts the bytes saved for backward."""
        if self.state.saved_bytes is not None:
            output = call(self.model, inputs, carried)
            return output, self.task.loss(output, target)
        with measure_saved_bytes(self.model) as saved:
            output = call(self.model, inputs, carried)
            loss = self.task.loss(output, target)
        self.state.saved_bytes = saved.release()
        return output, loss

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss; computed on the scaled loss, divided exactly afterwards."""
        scale = self.state.loss_scale
        if scale == 1:
            loss.backward()
            return
        (loss * scale).backward()
        unscale_(self.model.parameters(), scale)

    def look(
        self, before: list[tuple[Tensor, Tensor]], inputs: Inputs, target: Any, carried: Any
    ) -> None:
        """Compare this step's gradient with its noise, for a recipe whose tail waits for that."""

        def repeat() -> Tensor:
            seed_globals(derive(self.config.seed, "step", self.state.epoch, self.state.step))
            return self.task.loss(call(self.model, inputs, carried), target)

        ratio = gradient_to_noise(self.model, before, repeat, self.state.loss_scale)
        if self.phases.saw(self.done, ratio, self.state):
            self.reporter.say(
                f"step {self.done + 1}: the gradient is {ratio:.3f} times its quantisation noise"
            )

    def skip(self) -> None:
        """A gradient overflowed: take no step, and halve the loss scale (Micikevicius et al. 2018).

        It never grows again, so a run that keeps overflowing ends at 1 with an error.
        """
        state = self.state
        self.looks.forget()
        state.loss_scale /= 2
        state.skipped += 1
        self.warn(
            f"step {self.done + 1} was skipped: a gradient is not finite; the loss scale is now "
            f"{state.loss_scale:g}"
        )

    def test_the_start(self) -> None:
        """Test the model as it came, and leave no trace in it (a test may set clips)."""
        saved = {key: tensor.clone() for key, tensor in self.model.state_dict().items()}
        loss, score, _ = self.evaluate()
        self.model.load_state_dict(saved)
        self.state.before = {"test_loss": loss, f"test_{self.task.metric}": score}
        self.reporter.say(f"before the first step: test loss {loss:.4f}{self.shown(score)}")

    def train_metric(self) -> float | None:
        """The metric of the epoch's training batches so far; None where they are not scored."""
        return self.task.summarise([tuple(self.state.score)]) if self.state.score else None

    def shown(self, value: float | None) -> str:
        """The metric with its name and unit, or nothing."""
        if value is None:
            return ""
        return f" {self.task.metric} {with_unit(value, self.task.unit, self.task.digits)}"

    def evaluate(self) -> tuple[float, float, dict[str, float]]:
        """Mean loss, metric and extra numbers of the test set; leaves the state as it was."""

        def watch(loss: float, inputs: Inputs, carried: Any) -> None:
            self.check_stop()
            if loss - loss != 0:  # NaN or infinite: the metric of such an output means nothing
                run = partial(call, self.model, inputs, carried)
                raise self.bad_test(
                    f"loss is {loss}. The first non-finite value arose "
                    f"{diagnose.locate_forward(self.model, run)}"
                )

        self.check_stop()
        found = evaluate(self.model, self.task, watch=watch)
        if not math.isfinite(found.metric):
            raise self.bad_test(f"{self.task.metric} is {found.metric}")
        return found.loss, found.metric, found.extras

    def bad_test(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"Training stopped after step {self.done} (the end of epoch "
            f"{self.state.epoch + 1}): the test {what}."
        )

    # -- stopping and saving --------------------------------------------------------------------

    def check_stop(self) -> None:
        """After SIGINT or SIGTERM: save, and raise Interrupted."""
        if self.stop.signum is None:
            return
        self.save()
        name = signal.Signals(self.stop.signum).name
        raise Interrupted(
            f"stopped by {name} after step {self.done} of {self.total_steps}; "
            f"the run is saved in {self.folder}",
            self.stop.signum,
        )

    def save(self) -> None:
        """Write a checkpoint, unless the newest one is of this step."""
        save(self)

    def warn(self, text: str) -> None:
        """A warning on the screen, in the log and in the result."""
        self.state.warnings.append(text)
        self.reporter.say(f"warning: {text}")

    def non_finite(
        self,
        what: str,
        before: list[tuple[Tensor, Tensor]],
        inputs: Inputs,
        target: Any,
        carried: Any,
    ) -> NonFiniteError:
        """Repeat the step from the state before it, and say where the trouble began."""
        with torch.no_grad():
            for buffer, value in before:
                if buffer.shape == value.shape:
                    buffer.copy_(value)

        def repeat() -> Tensor:
            seed_globals(derive(self.config.seed, "step", self.state.epoch, self.state.step))
            loss = self.task.loss(call(self.model, inputs, carried), target)
            return loss * self.state.loss_scale

        place = diagnose.locate(self.model, repeat, inputs)
        return NonFiniteError(
            f"Training stopped at step {self.done + 1} (epoch {self.state.epoch + 1}, step "
            f"{self.state.step + 1}): {what}. The first non-finite value arose {place}. "
            "A smaller --lr or a longer --warmup often helps."
        )

    def note_failure(self, error: BaseException) -> None:
        """Leave a log and a result that say why; the error itself goes on to the caller."""
        stopped = isinstance(error, Interrupted)
        with suppress(UserError):  # a full disk is often the error itself
            self.reporter.note(f"{'' if stopped else 'failed: '}{described(error)}")
            self.write("interrupted" if stopped else "failed", error=str(error))

    # -- records ------------------------------------------------------------------------------

    def progress_line(self) -> str:
        state = self.state
        recent = statistics.median(state.step_ms[1:][-50:] or state.step_ms)  # the first warms up
        left = (self.total_steps - self.done) * recent / 1000
        return (
            f"epoch {state.epoch + 1}/{self.config.epochs} "
            f"step {state.step}/{self.task.steps_per_epoch}  "
            f"loss {state.loss_sum / state.step:.4f}{self.shown(self.train_metric())}  "
            f"{recent:.1f} ms/step  {clock(left)} left"
        )

    def write(self, status: str, error: str | None = None) -> dict[str, Any]:
        """Write result.json and return its content."""
        self.looks.note()
        record = run_record(self, status, error)
        with disk_errors(f"The result in {self.folder}"):
            return write_result(self.folder, record)


def _s(number: int) -> str:
    return "" if number == 1 else "s"
