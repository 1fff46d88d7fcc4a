"""The folder of a run: whose it is, and that nobody else writes to it.

    OUT/config.json, log.txt, result.json, checkpoints/, tensorboard/ (if asked for)

Nothing is ever overwritten: a folder with other files, another configuration, a recipe that has
changed since (config.json has the `definition` of each) or a run that needs --resume is refused.
The log file is locked while a process trains there; the system drops the lock when the process
dies, however it dies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from nybble.errors import UserError
from nybble.nn.inputs import SIGNED
from nybble.recipes.definition import changed, definitions
from nybble.recipes.earlier import as_before
from nybble.training.checkpoint import load_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.files import disk_errors, write_json
from nybble.training.result import FILE as RESULT_FILE

CONFIG_FILE = "config.json"
LOG_FILE = "log.txt"
CHECKPOINTS = "checkpoints"
SCHEMA = "nybble.config"
SCHEMA_VERSION = 3
"""Version 1 left the task's defaults (a learning rate) open; they are filled in when it is read.
Up to version 2 `sun2020` learned clips of signed inputs too (`as_meant`)."""


def check_folder(config: TrainConfig, *, recipes: bool = True) -> None:
    """UserError unless `config` may write to its folder. Writes nothing.

    recipes: whether they must say what they said when the run began.
    """
    folder = config.run_folder()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"The output {folder} is a file, not a folder; choose another --out.")
    entries = [path.name for path in folder.iterdir() if not path.name.endswith(".tmp")]
    if not entries or entries == [LOG_FILE]:
        return
    path = folder / CONFIG_FILE
    if CONFIG_FILE not in entries:
        raise UserError(
            f"The output folder {folder} is not empty and holds no nybble run "
            f"({', '.join(sorted(entries)[:3])}); choose another --out."
        )
    differences = _differences(path, config.identity())
    if differences:
        raise UserError(
            f"The output folder {folder} holds another run ({'; '.join(differences)}); "
            "choose another --out."
        )
    others = changed(_recipes(path), definitions(recipes_of(config))) if recipes else []
    if others:
        raise UserError(
            f"The output folder {folder} holds a run of another '{others[0]}': what this recipe "
            "says has changed since the run began. Give it as it was, or choose another --out."
        )
    if not config.resume:
        raise UserError(
            f"The output folder {folder} holds this run already; add --resume to continue it "
            "(or to see its result), or choose another --out."
        )


def claim_folder(config: TrainConfig) -> IO[str]:
    """Make the folder, lock it, write config.json; return the open log file, which is the lock."""
    folder = config.run_folder()
    with disk_errors(f"The output folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        log = open(folder / LOG_FILE, "a", encoding="utf-8")  # noqa: SIM115 (the reporter closes it)
        try:
            _lock(log, folder)
            if not (folder / CONFIG_FILE).exists():
                write_json(
                    folder / CONFIG_FILE,
                    {
                        "schema": SCHEMA,
                        "schema_version": SCHEMA_VERSION,
                        "config": config.resolved().to_dict(),
                        "recipes": definitions(recipes_of(config)),
                    },
                )
        except BaseException:
            log.close()
            raise
    return log


def recipes_of(config: TrainConfig) -> list[str]:
    """The recipes that a run names.

    >>> recipes_of(TrainConfig(recipe="luq", rules=(("head", "int8"),)))
    ['luq', 'int8']
    """
    return [config.recipe, *(recipe for _, recipe in config.rules or ())]


def in_use(folder: Path) -> bool:
    """Whether another process trains in `folder` now.

    >>> in_use(Path("no such folder"))
    False
    """
    try:
        with open(folder / LOG_FILE, encoding="utf-8") as log:
            _lock(log, folder)
    except UserError:
        return True
    except OSError:
        return False
    return False


def _lock(log: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"Another process is training in {folder}; wait for it or choose another --out."
        ) from None


def _read(path: Path) -> dict[str, Any]:
    """The identity of the run that config.json describes, whichever version wrote it."""
    try:
        record = json.loads(path.read_text())
        config, version = record["config"], record.get("schema_version", 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not the configuration of a nybble run ({error}); choose another --out."
        ) from None
    if not isinstance(config, dict) or not isinstance(version, int):
        raise UserError(f"{path} is not the configuration of a nybble run; choose another --out.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}; this nybble reads up to {SCHEMA_VERSION}. "
            "Update nybble, or choose another --out."
        )
    try:
        return TrainConfig.from_dict(as_meant(config, version, path.parent)).identity()
    except (UserError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be used: {error}; choose another --out.") from None


def _recipes(path: Path) -> dict[str, str]:
    """What the recipes said when the run began; empty where config.json does not say."""
    try:
        found = json.loads(path.read_text()).get("recipes")
    except (OSError, ValueError, AttributeError):
        found = None
    return found if isinstance(found, dict) else {}


def as_meant(config: dict[str, Any], version: int, folder: Path) -> dict[str, Any]:
    """`config`, which `version` of config.json holds, with recipes that say what they did then.

    A recipe's text stays where both meanings are one: in a run of which no layer has seen negative
    inputs, as of ReLU networks, or that has not begun.
    """
    if version >= SCHEMA_VERSION or not _saw_negative_inputs(folder):
        return config
    rules = [[name, as_before(recipe)] for name, recipe in config.get("rules") or ()]
    return {**config, "recipe": as_before(config.get("recipe", "sun2020")), "rules": rules}


def _saw_negative_inputs(folder: Path) -> bool:
    try:
        found = load_checkpoint(folder / CHECKPOINTS)
    except UserError:  # damaged: unknown
        return True
    if found is None:
        return (folder / RESULT_FILE).exists()
    kinds = (t for key, t in found.content["model"].items() if key.endswith("nybble_input_kind"))
    return any(bool((kind == SIGNED).any()) for kind in kinds)


def _differences(path: Path, asked: dict[str, Any]) -> list[str]:
    there = _read(path)
    return [
        f"{name} is {there[name]!r} there, {value!r} was asked for"
        for name, value in asked.items()
        if there[name] != value
    ]
