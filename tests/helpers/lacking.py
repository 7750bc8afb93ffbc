"""Packages that cannot be imported, as where an extra is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etp_jax.ecg import bounded


@contextmanager
def lacking(package: str, folder: Path) -> Iterator[None]:
    """Hides a package from the process that reads files of some kinds.

    Args:
      package: name of the package.
      folder: folder for a module of this name, which fails.
    """
    missing = f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
    (folder / f"{package}.py").write_text(missing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        bounded._child.cache_clear()
        yield
    bounded._child.cache_clear()
