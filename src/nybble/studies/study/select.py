"""A part of a study, and a study of the data that is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nybble.errors import UserError, suggest
from nybble.own import import_own
from nybble.recipes import get_recipe
from nybble.studies.study.grid import Study, StudyTask


def select(
    study: Study,
    *,
    tasks: Sequence[str] = (),
    recipes: Sequence[str] = (),
    seeds: Sequence[int] = (),
    data: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Study:
    """The study with only these tasks, and these recipes and seeds in place of its own.

    data: by task, what its runs read in place of their own; what is said of TASK holds for
    TASK+CONDITION too.

    Raises:
        UserError: a task that the study has not, or an unknown recipe.

    >>> from nybble.studies.ready import get_study
    >>> part = select(get_study("recipes", quick=True), tasks=["vision"], seeds=[7])
    >>> [task.name for task in part.tasks], part.seeds
    (['vision'], (7,))
    """
    for recipe in recipes:
        get_recipe(recipe)
    data = data or {}
    known = [task.name for task in study.tasks]
    bases = [name.partition("+")[0] for name in known]
    for name in (*tasks, *data):
        if name not in known and (name in tasks or name not in bases):
            raise UserError(
                f"study '{study.name}' has no task '{name}': it has {', '.join(known)}."
                f"{suggest(name, known)}"
            )
    kept = []
    for task in study.tasks:
        if tasks and task.name not in tasks:
            continue
        config = replace(
            task.config,
            data=data.get(task.name, data.get(task.name.partition("+")[0], task.config.data)),
            threads=threads or task.config.threads,
        )
        kept.append(
            replace(
                task,
                config=config,
                recipes=None if recipes else task.recipes,
                seeds=None if seeds else task.seeds,
            )
        )
    return replace(
        study,
        tasks=tuple(kept),
        notes=_notes(study, tuple(kept)),
        recipes=tuple(recipes) or study.recipes,
        seeds=tuple(seeds) or study.seeds,
    )


def available(study: Study) -> Study:
    """The study without the tasks whose data is not on this machine, each with a note.

    Raises:
        UserError: the data of none is here.
    """
    notes = {task.name: note for task in study.tasks if (note := missing(task))}
    if len(notes) == len(study.tasks):
        raise UserError(f"study '{study.name}': {'; '.join(notes.values())}.")
    kept = tuple(task for task in study.tasks if task.name not in notes)
    return replace(study, tasks=kept, notes=(*_notes(study, kept), *notes.values()))


def _notes(study: Study, kept: tuple[StudyTask, ...]) -> tuple[str, ...]:
    """Those that are not about left out tasks alone: a note may begin with their names, as in
    `lstm, gpt: ...`."""
    here, every = {task.name for task in kept}, {task.name for task in study.tasks}

    def suits(note: str) -> bool:
        about = set(note.partition(":")[0].split(", "))
        return not about <= every or bool(about & here)

    return tuple(filter(suits, study.notes))


def missing(task: StudyTask) -> str:
    """Why a task's data cannot be read here and what to do, or nothing.

    Data that is not in the registry (of a task of the user's own) is not looked for.
    """
    from nybble.training.data.registry import SOURCES

    name = task.config.resolved().data
    kind, _, argument = name.partition(":")
    source = SOURCES.get(kind)
    if source is None or argument or source.argument == "required":
        return ""
    found = source.find()
    if found.path is not None or not found.looked_in:
        return ""
    # A source without its argument is the one that was not found.
    takes = source.argument != "none" and ":" in source.usage
    hint = f", or --data {task.name}={source.usage}" if takes else ""
    return (
        f"left out: the task {task.name}, whose data '{name}' is not here ({source.install}{hint})"
    )


def own_study(name: str) -> Study:
    """A study of the user's own: `module:NAME`, imported from the current folder too.

    Raises:
        UserError: the module cannot be imported, or NAME in it is no `Study`.
    """
    module, attribute = import_own(name, "The study")
    found = getattr(module, attribute, None)
    if not isinstance(found, Study):
        what = "is not there" if found is None else f"is {type(found).__name__}, no Study"
        raise UserError(f"The study '{name}': '{attribute}' {what}.")
    return found
