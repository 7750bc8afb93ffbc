"""Work on the shards of a folder, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

from etp_jax.errors import EtpError

T = TypeVar("T")


def run_all(work: Callable[[T], Any], tasks: Sequence[T], workers: int, out: Path) -> Iterator[T]:
    """Does the work of every task and yields each task when it is done.

    Args:
      work: can be pickled, as can the tasks, where there are several workers.
      tasks: independent of each other.
      workers: processes; 1: this one.
      out: what the work makes, for the message.

    Raises:
      EtpError: a worker was killed; or what the work raises.
    """
    if workers <= 1:
        for task in tasks:
            work(task)
            yield task
        return
    # Fresh processes rather than forks: progress bars and numerical libraries hold threads that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_die_with_parent) as pool:
        running = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BrokenProcessPool:
            raise EtpError(f"{out}: a worker process was killed (out of memory?); run it again to go on") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _die_with_parent() -> None:
    """Lets a worker end when the main process is killed, instead of waiting for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
