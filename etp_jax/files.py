"""Atomic writing of files, JSON files and digests, locks on folders, and readable file system errors."""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from etp_jax.errors import EtpError, one_line
from etp_jax.json_text import Schema, check_types, parse_json
from etp_jax.paths import MOST_TEXT, read_file, regular

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without room, and of a user without quota."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that gets its name only when all data is on the disk; after an error no file is left."""
    _remove_abandoned(path.parent.absolute())
    # The temporary name is hidden, so that an unfinished shard is not mistaken for a shard.
    owner = f"{machine()}-{os.getpid()}-{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{owner}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # of a write, which knows no name
            raise OSError(error.errno, f"{error.strerror} after {temporary.stat().st_size} bytes", str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@cache
def machine() -> str:
    """Names where a process number means one process: the host, its last start, and the container."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{socket.gethostname()}-{started}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # no Linux
        return socket.gethostname()


@lru_cache(256)  # a run's checkpoints are a new folder each
def _remove_abandoned(folder: Path) -> None:
    """Removes, once for each folder, the temporary files of killed processes of this machine and container."""
    for path in folder.glob(f".*.{glob.escape(machine())}-*-*.tmp"):
        number = path.name.removesuffix(".tmp").split("-")[-2]
        if number.isdecimal() and not _lives(int(number)):
            with suppress(OSError):  # the file of another user
                path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # a process of another user, or no number of one
        return True
    return True


def write_text(path: Path, text: str) -> None:
    r"""Writes a UTF-8 text file completely or not at all; bytes of names that are not UTF-8 appear as `\udcff`."""
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


SEAL = "own_sha256"
"""Field of a JSON file of figures: SHA-256 of its other fields, which a flipped digit does not fit."""


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with `SEAL`, which `check_seal` compares with the rest."""
    return {**content, SEAL: _own_sha256(content)}


def check_seal(path: Path, content: dict[str, Any], advice: str) -> None:
    """Raises EtpError if a file's JSON object was changed after it was sealed; files of earlier versions have no seal.

    Args:
      path: the file, for the message.
      content: its content.
      advice: what to do if it is damaged, for the message.
    """
    if SEAL in content and content[SEAL] != _own_sha256(content):
        raise EtpError(f"{path}: was changed after it was written; {advice}, or delete {SEAL} in it if you changed it")


def _own_sha256(content: dict[str, Any]) -> str:
    """SHA-256 of the fields of a JSON object but `SEAL`, whatever their order and the spaces between them."""
    read_again = json.loads(json.dumps({name: value for name, value in content.items() if name != SEAL}))
    return hashlib.sha256(json.dumps(read_again, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, advice: str, schema: Schema = object) -> dict[str, Any]:
    """The JSON object in a file, checked as `parse_json` does.

    Args:
      path: the file.
      advice: what to do if it is missing or damaged; ends the message of the error.
      schema: types of its fields, see `json_text.Schema`.

    Raises:
      EtpError: the file is missing, cannot be read, holds no JSON object, or was changed after it was sealed.
    """
    try:
        content = parse_json(read_file(path))
        if isinstance(content, dict):
            check_types(content, schema)
    except FileNotFoundError:
        raise EtpError(f"{path}: no such file; {advice}") from None
    except (OSError, ValueError) as error:
        raise EtpError(f"{path}: cannot be read ({one_line(error)}); {advice}") from None
    if not isinstance(content, dict):
        raise EtpError(f"{path}: holds no JSON object; {advice}")
    check_seal(path, content, advice)
    return content


def read_csv(path: Path, advice: str) -> tuple[list[str], list[dict[str, str]]]:
    """Reads a CSV file in UTF-8 whose first line names the columns.

    Args:
      path: the file.
      advice: what to do if it is damaged; ends the message of the error.

    Returns:
      The names of the columns, and the rows, each with all columns.

    Raises:
      EtpError: the file is no such table, or a row has more or fewer cells than the first.
      OSError: there is no file, or it cannot be reached.
    """
    with regular(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns, rows = list(reader.fieldnames or ()), []
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"line {reader.line_num} has another number of cells than the first")
                rows.append(row)
        except (ValueError, csv.Error) as error:
            raise EtpError(f"{path}: cannot be read ({one_line(error)}); {advice}") from None
    return columns, rows


def check_can_write(path: Path, advice: str = "name another place") -> None:
    """Checks before long work that a file or folder can be made at a path; folders above it may be made with it.

    Args:
      path: the file or folder.
      advice: what to do otherwise, for the message.

    Raises:
      EtpError: the folder that it would be made in is read-only, or is a file; or a pipe, a socket or a device has
        this name, which a file would replace.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise EtpError(f"{path}: is a pipe, a socket or a device; {advice}")
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise EtpError(f"{path}: cannot be written ({place} is a file); {advice}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise EtpError(f"{path}: cannot be written ({place} is read-only); {advice}")


def keep_other_kinds(path: Path, what: str, holds: Callable[[bytes], bool]) -> None:
    """Checks an output's path before long work: a file there may be replaced if it is of the same kind, or empty.

    Args:
      path: the output.
      what: name of the kind, for the message.
      holds: whether a file of this content is of the kind.

    Raises:
      EtpError: the file is of another kind, or a folder has this name, or nothing can be written there.
    """
    check_can_write(path)
    if path.is_dir():
        raise EtpError(f"{path}: is a folder; name a file for {what}")
    if path.is_file() and (content := _start(path)) and not holds(content):
        raise EtpError(f"{path}: holds something other than {what}; choose another file, or delete it first")


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_TEXT)


def has_fields(*fields: str) -> Callable[[bytes], bool]:
    """Returns a function that tells whether a file's content is a JSON object with these fields."""

    def holds(content: bytes) -> bool:
        try:
            found = parse_json(content)
        except ValueError:
            return False
        return isinstance(found, dict) and found.keys() >= set(fields)

    return holds


def begins(start: bytes) -> Callable[[bytes], bool]:
    """Returns a function that tells whether a file's content begins with these bytes."""
    return lambda content: content.startswith(start)


ZIP = b"PK"
"""First bytes of a zip file, as which numpy writes `.npz`."""


def holds_all(*parts: bytes) -> Callable[[bytes], bool]:
    """Returns a function that tells whether a file's content contains all of these bytes."""
    return lambda content: all(part in content for part in parts)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_lock(folder: Path) -> BinaryIO:
    """Opens a folder's file to be locked. It is neither emptied nor a link: the folder may come from someone else.

    Raises:
      EtpError: the file is a link.
      OSError: it cannot be made or written.
    """
    path = folder / ".lock"
    try:  # a pipe of this name is opened, not waited for
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise EtpError(f"{path}: is a link; delete it") from None
        raise
    return os.fdopen(number, "rb", buffering=0)


@contextmanager
def alone_in(folder: Path, taken: str) -> Iterator[None]:
    """Locks a folder against a second process. The lock is released when the process ends, for whatever reason.

    Raises:
      EtpError: another process holds the lock, and the message is `taken`; or the file of the lock is a link.
    """
    with open_lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EtpError(taken) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
                raise
        yield


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, quotes the system's message for a full disk or a used quota.

    Libraries raise errors of their own types, which all quote it.
    """
    while error is not None:
        if any(os.strerror(number) in str(error) for number in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Converts an OSError, such as a full disk, into an EtpError that names the file, or `out`."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EtpError(f"{where}: {error.strerror}; fix this and run the same command again to continue") from None
