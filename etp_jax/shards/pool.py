"""Engines that run the tasks of a shard folder. The one of this module runs them in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Protocol, TypeVar

from etp_jax.errors import EtpError
from etp_jax.shards.folder import NOTES
from etp_jax.shards.killed import KILLED, end_without_mark, forget_marks, note_killed


class ShardTask(Protocol):
    """One shard to write."""

    @property
    def file(self) -> str:
        """File name of the shard."""
        ...


T = TypeVar("T", bound=ShardTask)
R = TypeVar("R")


class Engine(Protocol):
    """Runs tasks that do not depend on each other."""

    def __call__(self, work: Callable[[T], R], tasks: Sequence[T], out: Path) -> Iterator[tuple[T, R]]:
        """Calls `work` on every task, and yields each task with its result when it is done, in any order.

        Args:
          work: idempotent function of a task. It and the tasks must be picklable.
          tasks: one task a shard.
          out: shard folder, which has been claimed.

        Raises:
          EtpError: a worker process was killed; the message names the record that `work` had marked
            (`killed.marking`). Exceptions of `work` are passed on.
        """
        ...


@dataclass(frozen=True)
class Processes:
    """Engine of worker processes on this machine; with one, this process does the work."""

    workers: int = 1

    def __call__(self, work: Callable[[T], R], tasks: Sequence[T], out: Path) -> Iterator[tuple[T, R]]:
        """See `Engine`."""
        forget_marks(out)
        if self.workers <= 1:
            for task in tasks:
                yield task, work(task)
            return
        # Spawned processes, not forked ones: progress bars and numerical libraries hold threads that a fork ends.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, initializer=_begin_worker) as pool:
            running = {pool.submit(work, task): task for task in tasks}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            except BrokenProcessPool:
                pool.shutdown()  # waits until the other workers have ended, and with them their marks
                raise EtpError(killed_message(out, note_killed(out))) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


ONE_PROCESS = Processes()


def killed_message(out: Path, records: Sequence[str]) -> str:
    """Returns the error's message after a worker process was killed, with the records that it was reading, if any."""
    if not records:
        return f"{out}: a worker process was killed (out of memory?); run it again to continue"
    return (
        f"{out}: a worker process was killed while it read record {', '.join(records)} (a damaged file, or out of "
        f"memory?); run it again to continue without it, or delete {out / NOTES / KILLED} first to try it again"
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
