"""The description of a command: its options and its function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command of `etp`."""

    options: type
    """Dataclass of the command's options, parsed by tyro. The first line of its docstring describes the command."""
    run: Callable[[Any], None]
    """Function that runs the command with its options and prints the outcome."""
    default: Callable[[list[str]], Any] | None = None
    """Function that computes the default options from the arguments, for commands with a `--config` recipe."""

    help: Callable[[list[str]], str] | None = None
    """Function that formats the short `--help` from the arguments; `--help-all` then shows all options."""

    @property
    def summary(self) -> str:
        """First line of the docstring of the options."""
        return (self.options.__doc__ or "").splitlines()[0]
