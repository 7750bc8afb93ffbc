"""What a command is: its options, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command of `etp`."""

    options: type
    """Dataclass of its options, read by tyro; the first line of its docstring is the command's in every list."""
    run: Callable[[Any], None]
    """Takes the options and prints what was done."""
    default: Callable[[list[str]], Any] | None = None
    """Default of the options where it depends on the arguments themselves: `--config` names a recipe."""

    help: Callable[[list[str]], str] | None = None
    """Short text for `--help`, from the arguments; `--help-all` then shows every option."""

    @property
    def summary(self) -> str:
        """The first line of the options' docstring."""
        return (self.options.__doc__ or "").splitlines()[0]
