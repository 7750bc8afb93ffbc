"""Silence of the writes that a checkpoint leaves behind when one of its arrays cannot be written.

Orbax writes the arrays of a checkpoint side by side, each in a task of an event loop. The first failure closes the
loop and is raised; it has all that a user needs. The other writes go on: TensorStore's threads report a closed loop,
and asyncio logs a traceback for each task that nobody waits for, hundreds of lines on a full disk.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any

from orbax.checkpoint.utils import TMP_DIR_SUFFIX


@cache
def hide_abandoned_writes() -> None:
    """Hides what abandoned writes report from now on in this process; all other reports are as before."""
    report = sys.unraisablehook

    def report_others(found: Any) -> None:
        if found.object is not None or str(found.exc_value) != "Event loop is closed":
            report(found)

    sys.unraisablehook = report_others
    logging.getLogger("asyncio").addFilter(_is_other)


def _is_other(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio is about anything but a write to an unfinished checkpoint."""
    error = record.exc_info and record.exc_info[1]
    return TMP_DIR_SUFFIX not in str(error)
