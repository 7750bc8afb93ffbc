"""Reading of files whose libraries a damaged file can crash, in a child process with limited memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

from etp_jax.ecg import bounded_child
from etp_jax.errors import EtpError, in_python

TIMEOUT = 120.0
"""Longest time that reading an ECG may take, in seconds."""
T = TypeVar("T")
_lock = threading.Lock()


def bounded(reader: Callable[..., T]) -> Callable[..., T]:
    """Returns a function that calls a reader of this package in the child process.

    Args:
      reader: function of a module of `etp_jax.ecg`, whose first argument is the path of the file.
    """
    return partial(_read, reader.__module__, reader.__name__)


def _read(module: str, name: str, path: Path, *arguments: Any) -> Any:
    """Asks the child to call a reader; a new child is started if the file ends it.

    Raises:
      EtpError: the reader raises it, ends the child, or takes too long.
    """
    with _lock:
        child = _child(os.getpid())
        try:
            child.connection.send((module, name, path.absolute(), arguments, in_python()))
            if not child.connection.poll(TIMEOUT):
                raise EtpError(f"unreadable signal: {path.name} is not read within {TIMEOUT:g} s")
            answer = child.connection.recv()
        except BaseException as error:
            _child.cache_clear()
            child.process.kill()
            code = child.process.wait()
            if isinstance(error, EOFError | ConnectionError) and code == -signal.SIGPROF:
                raise EtpError(
                    f"unreadable signal: {path.name} is damaged: its reader does not come to an end"
                ) from None
            if isinstance(error, EOFError | ConnectionError):
                raise EtpError(f"unreadable signal: {path.name} is damaged: it ends its reader ({code})") from None
            raise
    if isinstance(answer, EtpError):
        raise answer
    return answer


class _Child:
    """A process that runs `bounded_child.py`; it ends when this process ends."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        program = [sys.executable, "-P", bounded_child.__file__, str(theirs.fileno())]
        # Arrow's own allocator reserves a GiB, and glibc 64 MiB for each thread. What a library prints before it ends
        # the process is not for users. A session of its own: Ctrl-C reaches the child only through this process.
        self.process = subprocess.Popen(
            program,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()


@lru_cache(maxsize=1)
def _child(owner: int) -> _Child:
    """Returns the child of process `owner`, which reads all its files; a forked process gets its own."""
    return _Child()
