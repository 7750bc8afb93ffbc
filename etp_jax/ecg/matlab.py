"""Reading of MATLAB files that are not WFDB's, in a child process that may crash."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import lru_cache
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from etp_jax.ecg import matlab_child
from etp_jax.ecg.bare_numbers import recording_among
from etp_jax.ecg.leads import Layout, Recording
from etp_jax.errors import EtpError

TIMEOUT = 120.0
"""Longest time that reading a file may take, in seconds."""
_lock = threading.Lock()


def read_matlab(path: Path, layout: Layout) -> Recording:
    """Reads a MATLAB file of one matrix, of one vector, or of one vector per lead, also within a structure.

    Raises:
      EtpError: the file holds none of these, or several; or the layout does not fit it.
    """
    return recording_among(_load(path), layout, path)


def _load(path: Path) -> dict[str, Any]:
    """Returns the variables of a MATLAB file: numbers, texts, or None for anything else."""
    with _lock:
        child = _child(os.getpid())
        try:
            child.connection.send(str(path.resolve()))
            if not child.connection.poll(TIMEOUT):
                raise EtpError(f"unreadable signal: {path.name} is not read within {TIMEOUT:g} s")
            answer = child.connection.recv()
        except BaseException as error:
            _child.cache_clear()
            child.process.kill()
            code = child.process.wait()
            if isinstance(error, EOFError | ConnectionError):
                raise EtpError(
                    f"unreadable signal: {path.name} is damaged: it ends the reader of MATLAB files ({code})"
                ) from None
            raise
    if isinstance(answer, ModuleNotFoundError):
        raise EtpError(
            f"unreadable signal: {path.name} is of MATLAB 7.3, which needs {answer.name}; "
            "pip install 'etp-jax[clinical]', or save it with -v7"
        )
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Child:
    """A process that runs `matlab_child.py`; it ends when this process ends."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        program = [sys.executable, "-P", matlab_child.__file__, str(theirs.fileno())]
        # A session of its own, so that Ctrl-C reaches it only through this process.
        self.process = subprocess.Popen(
            program, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()


@lru_cache(maxsize=1)
def _child(owner: int) -> _Child:
    """Returns the child of process `owner`, which reads all its MATLAB files; a forked process gets its own."""
    return _Child()
