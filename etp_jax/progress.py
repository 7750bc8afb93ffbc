"""Progress of long work: a bar on a terminal, a plain line now and then in a log, nothing with `etp --quiet`."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

EVERY_S = 30
"""Between the lines of a log; what is done sooner leaves none."""
LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"

quiet = False
"""Whether `etp` was told to show no progress."""


class Bar(tqdm):
    """tqdm's bar, or lines that end where standard error is no terminal."""

    def __init__(self, *args: Any, disable: bool = False, **options: Any) -> None:
        """Takes tqdm's arguments."""
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
        """Writes the bar, or a line."""
        if not self._plain:
            return bool(super().display(msg, pos))
        if msg is None:
            print(self, file=sys.stderr, flush=True)
        return False

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        """Prints a message beside the bar, or among the lines."""
        if sys.stderr.isatty():
            super().write(s, file, end, nolock)
        else:
            print(s, file=file, end=end, flush=True)

    def close(self) -> None:
        """Ends with a line, if there was one before and it does not say the same."""
        shown = self._plain and not self.disable and self.last_print_t >= self.start_t + EVERY_S
        if shown and self.n > self.last_print_n:
            self.display()
        super().close()
