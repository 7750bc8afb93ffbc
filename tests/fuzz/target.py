"""The types of a fuzz target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

Reader = Callable[[], object]
"""Reads a file of a target by the project's own function."""
Target = Callable[[Path], Mapping[str, Reader]]
"""Writes valid files into a folder, and returns the reader of each file that may be damaged, by its name."""
