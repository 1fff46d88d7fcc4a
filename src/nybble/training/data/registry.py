"""The names that `--data` accepts. A new source is one file and one line here."""

from __future__ import annotations

from nybble.errors import UserError, suggest
from nybble.training.data import cifar10, fashion_mnist, folder, hf, mnist5k, mnist10k
from nybble.training.data.base import DataOptions, ImageData, Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        mnist5k.SOURCE,
        mnist10k.SOURCE,
        fashion_mnist.SOURCE,
        cifar10.SOURCE,
        folder.SOURCE,
        hf.SOURCE,
    )
}


def load_data(name: str, options: DataOptions | None = None) -> ImageData:
    """Load the data set that the user calls `name`, for example "mnist5k" or "folder:photos".

    UserError: an unknown name (with the nearest one), a missing set (with the install command),
    or files that cannot be used.
    """
    kind, colon, argument = name.partition(":")
    if kind not in SOURCES:
        usages = ", ".join(source.usage for source in SOURCES.values())
        raise UserError(f"Unknown data '{name}'; choose one of {usages}.{suggest(kind, SOURCES)}")
    source = SOURCES[kind]
    if source.argument == "required" and not argument:
        raise UserError(f"The data '{name}' needs what follows the colon: {source.usage}.")
    if colon and source.argument == "none":
        raise UserError(f"The data '{kind}' takes nothing after a colon; write {source.usage}.")
    return source.load(argument, options or DataOptions())
