"""What users bring by name, `module:NAME`: their recipes, models, tasks and studies.

The module is imported from the current folder too, as `python -m` would. It is the user's own
code, and runs with all that this entails: a run or a study that is continued imports what its
configuration names, so continue only those whose modules you trust. Model files name no module.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from nybble.errors import UserError

__all__ = ["import_own"]


def import_own(name: str, what: str) -> tuple[ModuleType, str]:
    """(the module of `module:NAME`, NAME); `what` it is, for the error.

    Raises:
        UserError: no such form, or the module cannot be imported.

    >>> import_own("math:pi", "The number")[1]
    'pi'
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise UserError(
            f"{what} '{name}': write module:NAME, with NAME as it stands in the module."
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module), attribute
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{what} '{name}' cannot be imported: module '{module}' gave "
            f"{type(error).__name__}: {str(error).rstrip('.')}."
        ) from error
