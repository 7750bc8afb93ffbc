"""Records whose reading ended a worker process, by a crash of a library or for want of memory.

A worker marks the record that it works on. The mark of a killed worker stays; the main process then notes its record,
and the next start of the same build leaves it out.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from etp_jax.errors import EtpError
from etp_jax.files import write_text
from etp_jax.json_text import parse_json
from etp_jax.paths import read_file
from etp_jax.shards.folder import NOTES

KILLED = "killed.json"
"""File in the build's own folder that lists the records."""
REASON = "killed: a worker process ended while it read this record (a damaged file, or out of memory)"
_SUFFIX = ".working"
_marks: set[Path] = set()
"""Marks of this process."""


@contextmanager
def marking(out: Path, file: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that marks a record as the one worked on; the mark vanishes at the end, also by an exception.

    Args:
      out: shard folder.
      file: file name of the shard, of which one process at a time works on the records.
    """
    path = out / NOTES / f"{file}{_SUFFIX}"
    _marks.add(path)
    with path.open("wb", buffering=0) as stream:

        def mark(record_id: str) -> None:
            stream.truncate(0)
            os.pwrite(stream.fileno(), record_id.encode(), 0)

        try:
            yield mark
        finally:
            path.unlink(missing_ok=True)
            _marks.discard(path)


def end_without_mark(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM: the pool ends the workers that did nothing wrong in this way."""
    for path in _marks:
        path.unlink(missing_ok=True)
    os._exit(128 + signal.SIGTERM)


def note_killed(out: Path, file: str = "*") -> list[str]:
    """Adds the records that are still marked to the killed ones; returns them.

    Args:
      out: shard folder.
      file: file name of the shard whose worker was killed; all shards if no worker is alive.
    """
    marks = list((out / NOTES).glob(f"{file}{_SUFFIX}"))
    found = [record for record in (read_file(path).decode(errors="replace") for path in marks) if record]
    if found:
        write_text(out / NOTES / KILLED, json.dumps([*killed_records(out), *found]))
    forget_marks(out, file)
    return found


def forget_marks(out: Path, file: str = "*") -> None:
    """Removes the marks of a run that was killed as a whole, which say nothing about their records."""
    for path in (out / NOTES).glob(f"{file}{_SUFFIX}"):
        path.unlink(missing_ok=True)


def killed_records(out: Path) -> list[str]:
    """Returns the ids of the records that are left out."""
    try:
        return parse_json(read_file(out / NOTES / KILLED), [str])
    except (EtpError, FileNotFoundError, ValueError):  # a damaged list is made again by what kills the next worker
        return []
