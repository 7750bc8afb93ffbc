"""The exception class for mistakes that a user can fix, and how its messages name options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_in_python: ContextVar[bool] = ContextVar("in_python", default=False)
LONGEST = 2000
"""Longest message, in characters; the middle of a longer one, which quotes a file, is left out."""


class EtpError(Exception):
    """An error that the user can fix; the message names the file or record, what is wrong, and what to do.

    The command line prints the message on one line and exits with status 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        """Takes the message, made one line of at most `LONGEST` characters: what it quotes may have line breaks."""
        message, half = " ".join(message.splitlines()), LONGEST // 2
        super().__init__(message if len(message) <= LONGEST else f"{message[: half - 3]} … {message[-half:]}")


def one_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty; the error's type where it has no message.

    A KeyError's message is only the key; the line then tells that it is missing.
    """
    if isinstance(error, KeyError):
        return f"lacks {error}"
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


@contextmanager
def python_interface() -> Iterator[None]:
    """Makes the messages within name options as arguments of Python, not of the command line."""
    token = _in_python.set(True)
    try:
        yield
    finally:
        _in_python.reset(token)


def in_python() -> bool:
    """Whether the caller is within `python_interface`."""
    return _in_python.get()


def option(name: str, value: str = "") -> str:
    """Returns how the user gives an option: `--unit uV`, or `unit="uV"` within `python_interface`."""
    if _in_python.get():
        name = name.replace("-", "_")
        return f'{name}="{value}"' if value else f"{name}=..."
    return f"--{name} {value}".strip()


def listed(names: Sequence[str], shown: int = 8, longest: int = 80) -> str:
    """Lists names that come from data: at most `shown` of them, each cut at `longest` characters."""
    more = f" and {len(names) - shown} more" * (len(names) > shown)
    return ", ".join(name[:longest] for name in names[:shown]) + more
