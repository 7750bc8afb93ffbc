"""A pool of worker processes for the shards of a folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

from etp_jax.errors import EtpError
from etp_jax.shards.folder import NOTES
from etp_jax.shards.killed import KILLED, end_without_mark, forget_marks, note_killed

T = TypeVar("T")


def run_all(work: Callable[[T], Any], tasks: Sequence[T], workers: int, out: Path) -> Iterator[T]:
    """Calls `work` on every task and yields each task when it is done.

    Args:
      work: function of a task; with several workers, it and the tasks must be picklable.
      tasks: tasks that do not depend on each other.
      workers: number of worker processes; with 1, this process does the work.
      out: output of the work, named in error messages.

    Raises:
      EtpError: a worker process was killed; the message names the record that `work` had marked (`killed.marking`).
        Exceptions of `work` are passed on.
    """
    forget_marks(out)
    if workers <= 1:
        for task in tasks:
            work(task)
            yield task
        return
    # Spawned processes, not forked ones: progress bars and numerical libraries hold threads that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker) as pool:
        running = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BrokenProcessPool:
            pool.shutdown()  # waits until the other workers have ended, and with them their marks
            raise EtpError(_killed(out)) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _killed(out: Path) -> str:
    """Notes the records that killed workers had marked; returns the error's message."""
    records = ", ".join(note_killed(out))
    if not records:
        return f"{out}: a worker process was killed (out of memory?); run it again to continue"
    return (
        f"{out}: a worker process was killed while it read record {records} (a damaged file, or out of memory?); run "
        f"it again to continue without it, or delete {out / NOTES / KILLED} first to try it again"
    )


def _begin_worker() -> None:
    """Ends a worker process when the main process is killed; otherwise it would wait for work forever."""
    signal.signal(signal.SIGTERM, end_without_mark)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
