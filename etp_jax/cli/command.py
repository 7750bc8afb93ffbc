"""The description of a command: its options and its function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from etp_jax.errors import EtpError
from etp_jax.plain import plain


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


def show(text: object, file: TextIO | None = None) -> None:
    """Prints a result; characters from files that would control the terminal are shown as codes."""
    print(plain(str(text)), file=file, flush=True)


def check_positive(**options: float) -> None:
    """Raises EtpError for an option, named in Python's spelling, that is not positive or not a finite number."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise EtpError(f"--{name.replace('_', '-')} is {value}; it must be positive")
