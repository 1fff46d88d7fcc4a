"""The end of `nybble train TASK --help` (and of `compare`): the task's own options and defaults."""

from __future__ import annotations

from collections.abc import Sequence

from nybble.errors import UserError

HELP = ("--help", "-h")


def task_help(arguments: Sequence[str]) -> str | None:
    """Paragraphs for the end of the help that `arguments` ask for; None where they ask for none.

    >>> print(task_help(["train", "vision", "--help"]))
    The task vision measures accuracy; its data is mnist5k and its model resnet8 if not given.
    <BLANKLINE>
    Its own options, as in --set KEY=VALUE:
    <BLANKLINE>
    label_noise: Share of training labels that are made wrong.
    <BLANKLINE>
    imbalance: Long tail: largest training class over the smallest.
    >>> task_help(["train", "vision"]) is None
    True
    """
    if not any(word in HELP for word in arguments):
        return None
    from nybble.training.tasks import TASKS, task_class

    name = arguments[1] if len(arguments) > 1 else ""
    if name not in TASKS and (":" not in name or name.startswith("-")):
        return f"Tasks: {', '.join(TASKS)}; `nybble {arguments[0]} TASK --help` lists a task's own."
    try:
        task = task_class(name)
    except UserError as error:
        return str(error)
    lines = [
        f"The task {name} measures {task.metric}; its data is {task.default_data} and its model "
        f"{task.default_model} if not given."
    ]
    if not task.options:
        lines.append("It has no options of its own (--set).")
    else:
        lines.append("Its own options, as in --set KEY=VALUE:")
    for key, option in task.options.items():
        default = "" if option.default in (None, "") else f" (default: {option.default})"
        choices = f" ({', '.join(option.choices)})" if option.choices else ""
        lines.append(f"{key}: {option.help}{choices}{default}")
    return "\n\n".join(lines)
