"""Program of the child process that `bounded.py` starts, and whose end it survives."""

from __future__ import annotations

import resource
import signal
import sys
from contextlib import nullcontext
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from etp_jax.ecg.channels import allowance, unreadable
from etp_jax.errors import EtpError, python_interface

LINUX = sys.platform == "linux"
COPIES = 4
"""How many times an ECG is in memory: as stored, as numbers, in microvolts, and as the answer."""
LEAST_S, BYTES_PER_S = 8.0, 2**20
"""Time of the processor for a file of any size, and more for a large one. Then SIGPROF ends this process: a circle in a
damaged HDF5 file keeps its library busy forever."""


def answer_to(module: str, name: str, path: Path, arguments: tuple[Any, ...], in_python: bool) -> Any:
    """Calls a reader; returns what it reads, or the `EtpError` that is the reason why it cannot be read."""
    try:
        reader = getattr(import_module(module), name)
        with unreadable(path.name), python_interface() if in_python else nullcontext():
            most = COPIES * allowance(path)
            _limit_memory(most)
            signal.setitimer(signal.ITIMER_PROF, LEAST_S + path.stat().st_size / BYTES_PER_S)
            try:
                return reader(path, *arguments)
            except MemoryError:
                raise EtpError(f"size: {path.name} takes more than {most / 2**30:.3g} GiB of memory") from None
    except EtpError as error:
        return EtpError(str(error))  # without the traceback, whose frames hold arrays and open files
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(more: int) -> None:
    """Limits the address space of this process, so that a small file which claims a huge array is refused."""
    if LINUX:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = taken + more
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def serve(connection: Connection) -> None:
    """Answers each request until the parent ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash writes nothing
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(answer_to(*request))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
