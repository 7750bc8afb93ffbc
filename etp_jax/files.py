"""Files that appear whole or not at all, JSON files and digests, and folders that one process works in."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from etp_jax.errors import EtpError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when all of it lies on the disk; after an error nothing is left."""
    # Hidden, so that nobody takes an unfinished shard for a shard.
    # Processes of several hosts or containers may have one number.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
      path: the file.
      advice: what to do if it is missing or damaged; ends the message of the error.

    Raises:
      EtpError: the file is missing, cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EtpError(f"{path}: no such file; {advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EtpError(f"{path}: cannot be read ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise EtpError(f"{path}: holds no JSON object; {advice}")
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def alone_in(folder: Path, taken: str) -> Iterator[None]:
    """Keeps a second process out of a folder; the lock ends with the process, however that ends.

    Raises:
      EtpError: another process is in it; the message is `taken`.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EtpError(taken) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
                raise
        yield


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns what the disk refuses into a user's error."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EtpError(f"{where}: {error.strerror}; put it right and run the same command again to go on") from None
