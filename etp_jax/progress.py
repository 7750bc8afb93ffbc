"""Progress display: a bar on a terminal, an occasional plain line in a log, nothing with `etp --quiet`."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from etp_jax.plain import plain, plain_line

EVERY_S = 30
"""Seconds between two lines of a log; work that ends sooner prints no line."""
LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"

quiet = False
"""Whether progress is hidden, as set by `etp --quiet`."""


class Bar(tqdm):
    """tqdm's progress bar; where standard error is not a terminal, separate lines instead."""

    def __init__(self, *args: Any, disable: bool = False, **options: Any) -> None:
        """Creates the bar; takes tqdm's arguments."""
        self._plain = not sys.stderr.isatty()
        if self._plain:
            options |= {"mininterval": EVERY_S, "maxinterval": 2 * EVERY_S, "delay": EVERY_S}
            options |= {"leave": False, "bar_format": LINE}
        super().__init__(*args, disable=disable or quiet, **options)

    def skip(self, steps: int) -> None:
        """Counts steps as done, and leaves the time since the last update out of the rate and of the time left."""
        if self.disable:
            return
        self.unpause()
        self.n += steps
        self.initial = self.last_print_n = self.n

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the bar, or prints a line."""
        if not self._plain:
            return bool(super().display(msg, pos))
        if msg is None:
            print(self, file=sys.stderr, flush=True)
        return False

    def __str__(self) -> str:
        """Returns the bar or line as text; its description may hold names from files."""
        return plain_line(super().__str__())

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        """Prints a message, made safe by `plain`, without breaking the bar, or between two lines."""
        if sys.stderr.isatty():
            super().write(plain(s), file, end, nolock)
        else:
            print(plain(s), file=file, end=end, flush=True)

    def close(self) -> None:
        """Prints a last line if an earlier one was printed and progress was made since."""
        shown = self._plain and not self.disable and self.last_print_t >= self.start_t + EVERY_S
        if shown and self.n > self.last_print_n:
            self.display()
        super().close()
