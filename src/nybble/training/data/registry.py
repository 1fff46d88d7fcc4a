"""The names that `--data` accepts. A new source is one file and one line here.

The file has `SOURCE` (or `SOURCES`, a tuple); a source says which tasks it is for, and `load` gives
that task's own data class. Names are unique over all tasks.
"""

from __future__ import annotations

import importlib
from typing import Any

from nybble.errors import UserError, suggest
from nybble.training.data.base import Source

MODULES: tuple[str, ...] = (
    # vision
    "mnist5k",
    "mnist10k",
    "fashion_mnist",
    "cifar10",
    "folder",
    "hf",
    "image_files",
    # language
    "text.brown",
    "text.lines",
    "text.verses",
    "text.pairs",
    "text.table",
    # speech
    "audio.voices",
    "audio.fsdd",
    "audio.sounds",
    "audio.connected_digits",
    "audio.transcripts",
)
"""Files of this folder ("text.brown" is text/brown.py). They import their packages in `load`."""


def _sources() -> dict[str, Source]:
    found: dict[str, Source] = {}
    for name in MODULES:
        module = importlib.import_module(f"nybble.training.data.{name}")
        sources: tuple[Source, ...] = getattr(module, "SOURCES", None) or (module.SOURCE,)
        found.update((source.name, source) for source in sources)
    return found


SOURCES: dict[str, Source] = _sources()


def sources_of(task: str) -> dict[str, Source]:
    """The sources that the task can use, by name.

    >>> list(sources_of("vision"))[:2]
    ['mnist5k', 'mnist10k']
    """
    return {name: source for name, source in SOURCES.items() if task in source.tasks}


def load_data(name: str, options: Any = None, task: str = "vision") -> Any:
    """Load the data set that the user calls `name`, for example "mnist5k" or "folder:photos".

    options: what the loaders of the task take (`DataOptions` for vision); None: their defaults.
    The result is the task's own data class.

    UserError: an unknown name (with the nearest one), a missing set (with the install command),
    or files that cannot be used.
    """
    kind, colon, argument = name.partition(":")
    usable = sources_of(task)
    if kind not in usable:
        usages = ", ".join(source.usage for source in usable.values())
        if kind in SOURCES:
            others = " and ".join(SOURCES[kind].tasks)
            raise UserError(
                f"The data '{name}' is for {others}, not for {task}; choose one of {usages}."
            )
        raise UserError(f"Unknown data '{name}'; choose one of {usages}.{suggest(kind, usable)}")
    source = usable[kind]
    if source.argument == "required" and not argument:
        raise UserError(f"The data '{name}' needs what follows the colon: {source.usage}.")
    if colon and source.argument == "none":
        raise UserError(f"The data '{kind}' takes nothing after a colon; write {source.usage}.")
    return source.load(argument, options)
