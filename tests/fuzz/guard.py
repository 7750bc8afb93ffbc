"""What a reader must not do: run code of a file, unpickle, use the network, start programs, write outside its folder.

An audit hook cannot be removed, so it is installed in a process of its own (`worker.py`).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

TIME_S = 10
"""Longest time for one input, in seconds of the processor, so that a busy machine makes no failures."""
LEAST_MEMORY = 2**30
"""Memory that any input may take, in bytes; a larger one may take twice its size."""
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname")
PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
CHANGES = {
    "os.remove": 1,
    "os.rename": 2,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}
"""Events that change files, and how many of their first arguments are paths. The target of a link is not written."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MAKERS = ("dataclasses", "collections", "functools", "enum", "typing", "attr._make", "_pytest")
"""Modules that build classes from text of their own."""


class ForbiddenError(BaseException):
    """A reader did what it must not; no reader catches it."""


class HangError(BaseException):
    """An input took too long."""


watching = True
"""Whether the hook of this process is active."""
violations: list[str] = []
"""What the hook found. A library in C may drop the exception, so that it is kept here too."""


def install(folder: Path) -> None:
    """Installs the audit hook of this process, which may write in `folder` only from now on."""
    root = os.path.realpath(folder)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and (flaw := _flaw(event, args, root)):
            violations.append(flaw)
            raise ForbiddenError(flaw)

    signal.signal(signal.SIGPROF, _alarm)
    sys.addaudithook(hook)


def _flaw(event: str, args: tuple[Any, ...], root: str) -> str:
    if event == "pickle.find_class":
        # The child that reads some files answers with a pickle of its own.
        return "" if _called_from("bounded.py") else f"unpickles {args[0]}.{args[1]}"
    if event in NETWORK:
        return f"{event} {args[1:]}"
    if event in PROGRAMS:
        return "" if event in ("subprocess.Popen", "os.fork") and _called_from("bounded.py") else f"{event} {args[:2]}"
    if event == "exec":
        return _executes(args[0])
    if event == "open" and isinstance(args[0], str | bytes):
        return _writes(os.fsdecode(args[0]), root) if args[2] & WRITING else ""
    paths = [os.fsdecode(path) for path in args[: CHANGES.get(event, 0)] if isinstance(path, str | bytes | os.PathLike)]
    if event in ("os.remove", "os.rmdir", "os.mkdir") and args[-1] >= 0:  # relative to an open folder
        paths = [str(Path(os.readlink(f"/proc/self/fd/{args[-1]}"), path)) for path in paths]  # noqa: PTH115
    return next(filter(None, (_writes(path, root) for path in paths)), "")


def _executes(code: Any) -> str:
    name = getattr(code, "co_filename", "")
    if name.startswith("<frozen ") or name.startswith("/"):
        return ""
    caller = sys._getframe(3).f_globals.get("__name__", "")
    return "" if caller.startswith(MAKERS) else f"executes code of {name} in {caller}"


def _writes(path: str, root: str) -> str:
    place = os.path.realpath(path)
    return "" if place.startswith((root + os.sep, "/dev/")) or place == root else f"writes {place}"


def _called_from(file: str) -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(f"etp_jax/ecg/{file}"):
            return True
        frame = frame.f_back
    return False


def _alarm(number: int, frame: FrameType | None) -> None:
    raise HangError(f"not finished after {TIME_S} s: {''.join(traceback.format_stack(frame)[-3:])}")


def limit_memory(size: int, taken: int) -> None:
    """Limits the address space of this process for an input of `size` bytes; `taken` is in use already."""
    limit = taken + max(2 * size, LEAST_MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def address_space() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
