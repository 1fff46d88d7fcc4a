"""Where npm puts packages: ./node_modules, the folders of NODE_PATH, and npm's global folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from nybble.training.data.base import Found


def find(inside: Path, marker: str) -> Found:
    """Look for the folder `inside` (package name and what follows it) that holds a file `marker`.

    npm itself is asked for its global folder only when the package is nowhere nearer.
    """
    places = [Path("node_modules")]
    places += [Path(entry) for entry in os.environ.get("NODE_PATH", "").split(os.pathsep) if entry]
    there = next((place for place in places if (place / inside / marker).is_file()), None)
    if there is None and (root := global_root()) is not None:
        places.append(root)
        there = root if (root / inside / marker).is_file() else None
    return Found(
        str(there / inside) if there is not None else None,
        tuple(str(place / inside) for place in places),
    )


@lru_cache(maxsize=1)
def global_root() -> Path | None:
    """What `npm root -g` answers; None without npm."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    try:
        answer = subprocess.run(
            [npm, "root", "-g"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip()) if answer.stdout.strip() else None
