"""Sample folders that take long to write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory


def written_once(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Makes a function that writes a folder, the same every time, write it once a process and copy it from then on.

    wfdb takes 50 ms to write a record.
    """

    @cache
    def original() -> TemporaryDirectory[str]:
        folder = TemporaryDirectory()  # removed when the process ends
        write(Path(folder.name) / "written")
        return folder

    @wraps(write)
    def copy(folder: Path) -> Path:
        return shutil.copytree(Path(original().name) / "written", folder)

    return copy
