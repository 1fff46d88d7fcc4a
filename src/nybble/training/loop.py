"""The training loop: one run, from its configuration to its result.

Every step is a function of the state before it and of (seed, epoch, step): the batch, its
augmentation and the global generators' seeds are derived from the position. So a run that continues
from a checkpoint takes the same steps as one that was never stopped, and runs of different recipes
with one seed see the same initial weights and batches.

    train(config) -> the record that is also written to OUT/result.json
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from nybble.training import machine, schedule
from nybble.training.config import TrainConfig
from nybble.training.optimizers import build_optimizer, set_lr
from nybble.training.progress import Reporter, clock
from nybble.training.result import write_result
from nybble.training.saved import measure_saved_bytes
from nybble.training.seeds import derive, globals_restored, seed_globals
from nybble.training.state import RunState
from nybble.training.tasks import make_task
from nybble.training.watch import GradientWatch


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says and return the result (docs/training.md describes its fields)."""
    with globals_restored():
        return Run(config).train()


class Run:
    """One run: model, optimizer, state, and the folder they are recorded in."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.task = make_task(config)
        self.model, self.recipe = build(config, self.task)
        self.loss_scale = config.loss_scale or float(getattr(self.recipe, "loss_scale", None) or 1)
        self.optimizer = build_optimizer(self.model, config, self.recipe is not None)
        self.state = RunState()
        self.watch = GradientWatch(self.model, self.task.steps_per_epoch)
        self.total_steps = config.epochs * self.task.steps_per_epoch
        self.folder = config.run_folder()
        self.folder.mkdir(parents=True, exist_ok=True)

    def train(self) -> dict[str, Any]:
        with Reporter(self.folder, self.config.quiet) as self.reporter:
            self.reporter.start(self.total_steps, self.done)
            while self.state.epoch < self.config.epochs:
                while self.state.step < self.task.steps_per_epoch:
                    self.step()
                self.finish_epoch()
        return self.write("complete")

    @property
    def done(self) -> int:
        return self.state.epoch * self.task.steps_per_epoch + self.state.step

    def step(self) -> None:
        state, config, task = self.state, self.config, self.task
        started, cpu_started = time.perf_counter(), time.process_time()
        share = schedule.factor(config.schedule, self.done, self.total_steps, config.warmup)
        set_lr(self.optimizer, share)
        inputs, target = task.batch(state.epoch, state.step)
        seed_globals(derive(config.seed, "step", state.epoch, state.step))
        self.model.train()
        output, loss = self.forward(inputs, target)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.loss_scale if self.loss_scale != 1 else loss).backward()
        if self.loss_scale != 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1 / self.loss_scale)
        self.watch.observe(state.step)
        self.optimizer.step()
        state.loss_sum += float(loss.detach())
        score, count = task.score(output.detach(), target)
        state.score_sum += score
        state.score_count += count
        state.step += 1
        seconds = time.perf_counter() - started
        state.cpu_seconds += time.process_time() - cpu_started
        state.seconds += seconds
        state.elapsed += seconds
        state.step_ms.append(1000 * seconds)
        self.reporter.step(self.done, self.progress_line())

    def forward(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.state.saved_bytes is None:
            with measure_saved_bytes(self.model) as saved:
                output = self.model(inputs)
                loss = self.task.loss(output, target)
            self.state.saved_bytes = saved.release()
        else:
            output = self.model(inputs)
            loss = self.task.loss(output, target)
        return output, loss

    def progress_line(self) -> str:
        state = self.state
        recent = statistics.median(state.step_ms[-50:])
        left = (self.total_steps - self.done) * recent / 1000
        return (
            f"epoch {state.epoch + 1}/{self.config.epochs} "
            f"step {state.step}/{self.task.steps_per_epoch}  "
            f"loss {state.loss_sum / state.step:.4f}  "
            f"{self.task.metric} {100 * state.score_sum / state.score_count:.2f} %  "
            f"{recent:.1f} ms/step  {clock(left)} left"
        )

    def finish_epoch(self) -> None:
        state, metric = self.state, self.task.metric
        started = time.perf_counter()
        test_loss, test_score = self.evaluate()
        record = {
            "epoch": state.epoch + 1,
            "train_loss": state.loss_sum / state.step,
            f"train_{metric}": state.score_sum / state.score_count,
            "test_loss": test_loss,
            f"test_{metric}": test_score,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
            "test_seconds": time.perf_counter() - started,
            "elapsed_seconds": state.elapsed,
            "step_ms": statistics.median(state.step_ms),
            "gradients": self.watch.report(),
        }
        state.epochs.append(record)
        self.reporter.say(
            f"epoch {state.epoch + 1}/{self.config.epochs}  "
            f"train loss {record['train_loss']:.4f} {metric} {100 * record[f'train_{metric}']:.2f} %"
            f"  test loss {test_loss:.4f} {metric} {100 * test_score:.2f} %  "
            f"{record['step_ms']:.1f} ms/step  {clock(state.elapsed)}"
        )
        state.next_epoch()
        self.watch.reset()
        self.write("running")

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        self.model.eval()
        loss_sum = score_sum = 0.0
        count = 0
        for inputs, target in self.task.test_batches():
            output = self.model(inputs)
            score, size = self.task.score(output, target)
            loss_sum += float(self.task.loss(output, target)) * len(target)
            score_sum += score
            count += size
        return loss_sum / count, score_sum / count

    def write(self, status: str) -> dict[str, Any]:
        record = self.record(status)
        write_result(self.folder, record)
        return record

    def record(self, status: str) -> dict[str, Any]:
        state = self.state
        return {
            "status": status,
            "config": {**self.config.to_dict(), "lr": self.config.resolved_lr()},
            "data": self.task.describe(),
            "saved_bytes": state.saved_bytes,
            "machine": machine.machine(),
            "versions": machine.versions(),
            "commit": machine.commit(),
            "epochs": state.epochs,
        }


def build(config: TrainConfig, task: Any) -> tuple[nn.Module, Any]:
    """The model, converted, and its recipe (None for fp32)."""
    seed_globals(derive(config.seed, "init"))
    model = task.model()
    if config.recipe == "fp32":
        return model, None
    import nybble
    from nybble.recipes import get_recipe

    recipe = get_recipe(config.recipe)
    rules = {pattern: None if name == "none" else name for pattern, name in config.rules}
    nybble.convert(
        model,
        recipe,
        rules or None,
        backend=config.backend,
        accumulate=config.accumulate,
        seed=config.seed,
    )
    return model, recipe
