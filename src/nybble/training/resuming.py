"""What a checkpoint of a run holds, and how a run goes on from one.

Everything that the next step depends on is in it, so that a run that continues takes the same steps
as one that was never stopped; what has changed around it (packages, threads) is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nybble.errors import UserError
from nybble.training.checkpoint import load_checkpoint, save_checkpoint
from nybble.training.folder import CHECKPOINTS
from nybble.training.prepare import environment
from nybble.training.state import RunState

if TYPE_CHECKING:
    from nybble.training.loop import Run

__all__ = ["resume", "save"]


def save(run: Run) -> None:
    """Write a checkpoint of the run, unless the newest one is of this step."""
    if run.saved_at == run.done:
        return
    run.state.gradients = run.watch.state
    looks = run.looks.state()
    run.looks.note()
    content = {
        "model": dict(run.model.state_dict()),
        "optimizer": run.optimizer.state_dict(),
        "state": run.state.to_dict(),
        "data": run.about,
        "environment": environment(),
    }
    if keeps := run.task.keeps():
        content["keeps"] = keeps
    if run.carried is not None:
        content["carried"] = run.carried
    if looks is not None:
        content["looks"] = looks
    save_checkpoint(run.folder / CHECKPOINTS, run.done, content)
    run.saved_at = run.done


def resume(run: Run) -> None:
    """Continue from the newest whole checkpoint, if there is one."""
    if not run.config.resume:
        return
    found = load_checkpoint(run.folder / CHECKPOINTS)
    if found is None:
        run.reporter.say("nothing to resume: starting from the beginning")
        return
    if found.content["data"] != run.about:
        raise UserError(
            f"The data '{run.config.data}' has changed since the run in {run.folder} began; "
            "start a new run with another --out."
        )
    try:
        run.model.load_state_dict(found.content["model"])
        run.optimizer.load_state_dict(found.content["optimizer"])
        # A state of before loss scales were saved has the one that the model asks for.
        known = {"loss_scale": run.state.loss_scale, **found.content["state"]}
        run.state = RunState.from_dict(known)
        run.carried = found.content.get("carried")
        run.looked = found.content.get("looks")
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The checkpoint in {run.folder} does not fit the model '{run.config.model}' "
            f"(has its code changed?): {error}"
        ) from error
    # What the last step was in, since a test may come before the next one.
    run.phases.enter(run.model, run.state, run.done - 1, resumed=True)
    if run.state.gradients:
        run.watch.state = run.state.gradients
    run.saved_at = found.step
    for problem in found.problems:
        run.warn(problem)
    now = environment()
    for key, before in found.content["environment"].items():
        if now.get(key) != before:
            run.warn(
                f"{key} was {before} when the checkpoint was saved and is {now.get(key)}: "
                "the run continues, but may differ in the last bits from an uninterrupted one"
            )
    run.reporter.say(f"resumed after step {run.done} of {run.total_steps}")
