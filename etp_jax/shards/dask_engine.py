"""The engine that runs the tasks of a shard folder on a Dask cluster (extra `dask`): `etp prep --dask`.

The scheduler may be one that dask-jobqueue, Kubernetes or Coiled has started. It gives the task of a lost worker to
another worker. Source and output must be on storage that all workers share.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any

import etp_jax
from etp_jax.errors import EtpError, one_line
from etp_jax.files import read_json
from etp_jax.shards.folder import CLAIM, NOTES
from etp_jax.shards.killed import forget_marks, note_killed
from etp_jax.shards.pool import R, T, killed_message

LOCAL = "local"
CONNECT_S = 10
"""Seconds to wait for the scheduler; twice as long if it takes the connection and says nothing."""
QUEUE = 256
"""Largest number of tasks that the scheduler holds, and so of workers that have work. A task may take a megabyte."""
BLAMED = 3
"""Number of times that a task is given to the cluster again which Dask blames for lost workers, though it had not begun
a record: Dask blames all tasks of a lost worker."""
LOOK_S = 0.05
"""Seconds between two looks for a task that has ended."""
WITHOUT_WORKER_S = 120
"""Seconds without any worker after which a local cluster is given up: Dask starts a lost worker again within a few
seconds, but not one that ends while it is started. The workers of other clusters may wait in a queue for long."""
SAME = ("numpy", "scipy")
"""Packages besides this one whose versions must agree, since the bytes of the shards depend on them."""
_one_shard = threading.Lock()
"""Held while a worker process writes a shard: some readers collect Python's warnings, which is for one thread only."""


def check_scheduler(where: str) -> str:
    """Checks the value of --dask, without connecting.

    Returns:
      The scheduler's address, or `local`.

    Raises:
      EtpError: the extra is not installed, or the value is neither `local` nor an address nor a scheduler's file.
    """
    if find_spec("distributed") is None:
        raise EtpError("--dask needs another package; pip install 'etp-jax[dask]'")
    if where == LOCAL or re.fullmatch(r"(?:tcp|tls|ws|wss)://[^\s/]+:\d{1,5}", where):
        return where
    if "://" in where or not where.endswith(".json"):
        raise EtpError(f"--dask {where!r}: must be {LOCAL}, tcp://HOST:PORT or the JSON file of a scheduler")
    advice = "--dask takes the file that `dask scheduler --scheduler-file` writes"
    address = read_json(Path(where), advice).get("address")
    if not isinstance(address, str) or "://" not in address:
        raise EtpError(f"{where}: holds no address of a scheduler; {advice}")
    return address


@contextmanager
def dask_engine(where: str, workers: int, source: Path) -> Iterator[_Dask]:
    """Connects to a scheduler, or starts a local cluster, until the context ends.

    Args:
      where: value of --dask.
      workers: number of worker processes of a local cluster.
      source: absolute path of the file or folder that the tasks read.

    Raises:
      EtpError: the scheduler does not answer, or a worker has another version or does not see the source.
    """
    address = check_scheduler(where)
    import distributed  # pyright: ignore[reportMissingImports]

    with _quiet_logs():
        if address == LOCAL:
            options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
            cluster: Any = distributed.LocalCluster(workers, **options, silence_logs=logging.CRITICAL)
        else:
            cluster = address
        client = _connect(cluster, f"--dask {where}: no Dask scheduler answers at {address}")
        try:
            sizes = {str(source): _size(source)} if source.exists() else {}  # a missing one is an error of its reader
            conditions = _Conditions({"etp-jax": etp_jax.__version__, **_versions()}, sizes)
            found: dict[str, Any] = client.run(_difference, conditions, on_error="return")
            for worker, difference in found.items():
                if difference:
                    raise EtpError(f"worker {worker}: {_reason(difference)}")
            yield _Dask(client, conditions, local=address == LOCAL)
        finally:
            client.close()
            if address == LOCAL:
                cluster.close()


def _connect(cluster: Any, message: str) -> Any:
    """Returns a client of a scheduler (address or local cluster); raises EtpError if none answers in time."""
    import distributed  # pyright: ignore[reportMissingImports]

    answers: queue.Queue[Any] = queue.Queue()

    def connect() -> None:
        try:
            answers.put(distributed.Client(cluster, timeout=CONNECT_S, set_as_default=False))
        except (OSError, ValueError) as error:
            answers.put(error)

    # In a thread, since Dask waits forever for a server that takes the connection and says nothing.
    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=2 * CONNECT_S)
    except queue.Empty:
        answer = TimeoutError(f"nothing within {2 * CONNECT_S} s")
    if isinstance(answer, Exception):
        raise EtpError(f"{message} ({one_line(answer)})")
    return answer


@dataclass(frozen=True)
class _Conditions:
    """What a worker must have in common with this process."""

    versions: dict[str, str]
    """Version of each package."""
    sizes: dict[str, int]
    """Size of each file in bytes; -1 for a folder."""


@dataclass(frozen=True)
class _Dask:
    """Engine of the workers of a Dask cluster."""

    client: Any
    conditions: _Conditions
    local: bool
    """Whether this process has started the workers."""

    def __call__(self, work: Callable[[T], R], tasks: Sequence[T], out: Path) -> Iterator[tuple[T, R]]:
        """See `pool.Engine`."""
        import distributed  # pyright: ignore[reportMissingImports]
        from distributed.comm.core import CommClosedError  # pyright: ignore[reportMissingImports]

        forget_marks(out)
        claim = out / NOTES / CLAIM
        conditions = _Conditions(self.conditions.versions, {**self.conditions.sizes, str(claim): _size(claim)})
        waiting: Iterator[T] = iter(tasks)
        running: dict[Any, T] = {}
        blamed = Counter[str]()
        done: Any = distributed.as_completed(loop=self.client.loop)
        try:
            while True:
                for task in islice(waiting, QUEUE - len(running)):
                    future = self.client.submit(_on_worker, work, task, conditions, pure=False)
                    running[future] = task
                    done.add(future)
                if not running:
                    return
                self._wait(done, out)
                future = next(done)
                task = running.pop(future)
                try:
                    result = future.result()
                except distributed.KilledWorker:
                    records, blamed[task.file] = note_killed(out, task.file), blamed[task.file] + 1
                    if records or blamed[task.file] > BLAMED:
                        raise EtpError(killed_message(out, records)) from None
                    waiting = chain([task], waiting)
                    continue
                yield task, result
        except ModuleNotFoundError as error:
            raise EtpError(f"a worker of the cluster: {_reason(error)}") from None
        except (CancelledError, CommClosedError):
            raise EtpError(f"{out}: the Dask scheduler was lost; run it again to continue") from None
        finally:
            if self.client.status == "running":
                self.client.cancel(list(running), force=True)

    def _wait(self, done: Any, out: Path) -> None:
        """Waits until a task has ended; raises EtpError if a local cluster has lost its workers."""
        last_seen = last_looked = time.monotonic()
        while not done.has_ready():
            time.sleep(LOOK_S)
            now = time.monotonic()
            if not self.local or now - last_looked < 1:
                continue
            last_looked = now
            if self.client.nthreads():
                last_seen = now
            elif now - last_seen > WITHOUT_WORKER_S:
                raise EtpError(f"{out}: the cluster has lost all its workers; run it again to continue")


def _on_worker(work: Callable[[T], R], task: T, conditions: _Conditions) -> R:
    """Runs one task in a worker process, which may have joined the cluster a moment ago."""
    import distributed  # pyright: ignore[reportMissingImports]

    if difference := _difference(conditions):
        raise EtpError(f"worker {distributed.get_worker().address}: {difference}")
    with _one_shard:
        return work(task)


def _difference(conditions: _Conditions) -> str:
    """Returns what this process lacks of the conditions; empty if nothing."""
    own = {"etp-jax": etp_jax.__version__, **_versions()}
    for name, expected in conditions.versions.items():
        if own[name] != expected:
            return f"has {name} {own[name]} instead of {expected}; install the same versions everywhere"
    for path, size in conditions.sizes.items():
        if _size(Path(path)) != size:
            return f"does not see {path}; source and output must be on storage that all workers share"
    return ""


def _reason(difference: str | Exception) -> str:
    if isinstance(difference, ModuleNotFoundError):
        return f"has no module {difference.name}; install the same etp-jax on all workers"
    return difference if isinstance(difference, str) else one_line(difference)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Hides what Dask logs about lost workers and schedulers: one line of ours follows, or the task runs elsewhere."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _versions() -> dict[str, str]:
    found = {}
    for name in SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "of unknown version"
    return found


def _size(path: Path) -> int:
    """Size of a file in bytes; -1 for a folder with content; -2 if there is none, as where nothing is mounted."""
    try:
        if path.is_file():
            return path.stat().st_size
        with os.scandir(path) as entries:
            return -1 if next(entries, None) else -2
    except OSError:
        return -2
