"""Clean stop on signals: SIGTERM and Ctrl-C end a run after a step, not within it."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignals:
    """Context manager that catches SIGTERM and Ctrl-C, so that the current step can be finished and saved.

    With several hosts, JAX's preemption service catches SIGTERM on any host and chooses a step at which all hosts stop.
    """

    def __init__(self) -> None:
        """Prepares the handlers, which are installed by the `with` block."""
        self._received: int | None = None
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Installs the signal handlers."""
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        again = self._received is not None
        self._received = number
        message = "already stopping" if again else "this step is finished and saved first"
        print(f"\n{signal.Signals(number).name}: {message}", file=sys.stderr, flush=True)

    def reached(self) -> int | None:
        """Returns the signal to stop for, or None; the same on all hosts. Must be called once after every dispatch."""
        if jax.process_count() > 1:
            self._asked += 1  # counts calls, not steps: the service chooses the next number as the one to stop at
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(self._asked) else None
        return self._received
