"""Staging of remote shard folders (`gs://`, `s3://`, any fsspec URL): they are copied to the local disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from etp_jax.errors import EtpError, one_line
from etp_jax.files import open_lock, sha256, whole_file
from etp_jax.json_text import parse_json
from etp_jax.paths import MOST_TEXT, inside, regular
from etp_jax.shards.reader import BUILD_TYPES
from etp_jax.shards.record import BUILD_FILE

THREADS = 8
"""Number of files copied in parallel."""
PACKAGES = {
    **{"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"},
    **{"http": "aiohttp", "https": "aiohttp"},
}
"""Package that fsspec needs for each URL scheme."""
SILENCE = 60.0
"""Longest time in which an HTTP server may send nothing, in seconds."""
SLOWEST = 2**13
"""Lowest mean rate at which a file may arrive once it has taken longer than `SILENCE`, in bytes per second."""


def default_folder() -> Path:
    """Returns the default staging folder: one per user, inside the system's temporary folder ($TMPDIR)."""
    return Path(tempfile.gettempdir()) / f"etp-jax-{os.getuid()}"


def staged(source: str, stage_dir: str = "", say: Callable[[str], None] = print) -> Path:
    """Copies a remote shard folder to the local disk, once per machine; a local path is returned unchanged.

    Every build gets its own folder in `stage_dir`, named by the SHA-256 of its `build.json`. A file gets its name when
    its SHA-256 is that in `build.json`, which is written last; an interrupted copy is completed file by file. Processes
    of one machine wait for the process that copies.

    Args:
      source: path, or fsspec URL.
      stage_dir: folder on a local disk; `default_folder()` if empty.
      say: function that receives one line with the disk space needed, before anything is copied.

    Returns:
      A folder that `Shards` opens.

    Raises:
      EtpError: the URL cannot be read or answers far too slowly, the disk is too full, a file differs from `build.json`
        or has a name that leads out of the folder, or the default staging folder belongs to another user.
    """
    if "://" not in source:
        return Path(source)
    files, root = _open(source)
    build_file = _read(files, source, root)
    parent = Path(stage_dir) if stage_dir else default_folder()
    folder = parent / hashlib.sha256(build_file).hexdigest()[:16]
    try:
        if not stage_dir:
            _make_private(parent)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_lock(folder) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _complete(files, source, root, folder, build_file, say)
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise EtpError(f"{where}: {error.strerror or error}; name a --data.stage-dir that can be written") from error
    return folder


def _make_private(folder: Path) -> None:
    """Makes the folder, or checks that it is the user's own: anyone can make one of this name in a shared folder.

    Raises:
      EtpError: the folder is a link, no folder, of another user, or open to other users.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        defect = "is a link or no folder"
    elif found.st_uid != os.getuid():
        defect = "belongs to another user"
    elif found.st_mode & 0o077:
        defect = "is open to other users"
    else:
        return
    raise EtpError(f"{folder}: {defect}; delete it, or name a --data.stage-dir of your own")


def _open(source: str) -> tuple[Any, str]:
    """Returns the file system and the path of a URL."""
    scheme = source.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(source, **_limits(scheme))
    except ImportError as error:
        package = PACKAGES.get(scheme)
        advice = f"`pip install {package}`" if package else str(error)
        raise EtpError(f"{source}: reading this needs another package: {advice}") from None
    except Exception as error:  # every storage system has its own exception classes
        raise EtpError(f"{source}: {_reason(error)}; name a folder, or a URL such as gs://bucket/folder") from error


def _limits(scheme: str) -> dict[str, Any]:
    """Options of the file system: HTTP's own limit is on the time of a whole file, however large, not on silence."""
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(connect=SILENCE, sock_read=SILENCE)}}


class _Received(fsspec.Callback):
    """Counts the bytes of a file as they arrive, and ends a copy that is too long or far too slow."""

    def __init__(self, most: int) -> None:
        """Takes the largest size of the file."""
        super().__init__()
        self.most = most
        self.start = time.monotonic()

    def relative_update(self, inc: int = 1) -> None:
        """Adds the size of a piece; called for each."""
        super().relative_update(inc)
        if self.value > self.most:
            raise ValueError(f"it is larger than the {self.most} bytes that it may have")
        if self.value < SLOWEST * (time.monotonic() - self.start - SILENCE):
            raise ValueError(f"fewer than {SLOWEST} bytes per second arrive")


def _fetch(files: Any, path: str, to: str, most: int) -> None:
    """Copies one file to the local disk; what goes wrong is an exception of the storage system's own class."""
    if isinstance(files, LocalFileSystem):
        regular(Path(path))  # a pipe would be waited for
    files.get_file(path, to, callback=_Received(most))


def _read(files: Any, source: str, root: str) -> bytes:
    try:
        with tempfile.NamedTemporaryFile(prefix="etp-jax-") as file:
            _fetch(files, f"{root}/{BUILD_FILE}", file.name, MOST_TEXT)
            return Path(file.name).read_bytes()
    except FileNotFoundError:
        raise EtpError(f"{source}: no finished shard folder ({BUILD_FILE} is missing); copy all of it there") from None
    except Exception as error:
        raise EtpError(f"{source}: {BUILD_FILE} cannot be read ({_reason(error)})") from error


def _complete(files: Any, source: str, root: str, folder: Path, build_file: bytes, say: Callable[[str], None]) -> None:
    """Copies the files that are missing in `folder`, and `build.json` last."""
    try:
        splits = parse_json(build_file, {"splits": BUILD_TYPES["splits"]})["splits"]
        shards = [shard for split in splits.values() for shard in split["shards"]]
        paths = {shard["file"]: inside(folder, shard["file"], source, subfolders=False) for shard in shards}
        missing = [shard for shard in shards if _size(paths[shard["file"]]) != shard["bytes"]]
    except ValueError as error:
        raise EtpError(f"{source}: {BUILD_FILE} is damaged ({one_line(error)}); copy the shards there again") from None
    for rest in folder.glob(".*.tmp"):
        rest.unlink()
    needed, free = sum(shard["bytes"] for shard in missing), shutil.disk_usage(folder).free
    if missing:
        say(f"{source}: {len(missing)} of {len(shards)} files to copy to {folder}, {_gb(needed)} of {_gb(free)} free")
    if needed > free:
        raise EtpError(
            f"{folder}: copying {source} needs {_gb(needed)}, {_gb(free)} are free; name another --data.stage-dir"
        )

    def copy(shard: dict[str, Any]) -> None:
        with whole_file(paths[shard["file"]]) as file:
            try:
                _fetch(files, f"{root}/{shard['file']}", file.name, shard["bytes"])
            except FileNotFoundError:
                raise EtpError(f"{source}/{shard['file']}: is missing; copy the shards there again") from None
            except Exception as error:
                raise EtpError(f"{source}/{shard['file']}: cannot be copied ({_reason(error)})") from error
            if _size(Path(file.name)) != shard["bytes"]:
                raise EtpError(
                    f"{source}/{shard['file']}: holds {_size(Path(file.name))} bytes, {BUILD_FILE} says "
                    f"{shard['bytes']}; copy the shards there again"
                )
            if sha256(Path(file.name)) != shard["sha256"]:
                raise EtpError(
                    f"{source}/{shard['file']}: its SHA-256 differs from {BUILD_FILE}; copy the shards there again"
                )

    with ThreadPoolExecutor(THREADS, thread_name_prefix="staging") as pool:
        running = [pool.submit(copy, shard) for shard in missing]
        try:
            for finished in as_completed(running):
                finished.result()
        finally:
            pool.shutdown(cancel_futures=True)
    with whole_file(folder / BUILD_FILE) as file:
        file.write(build_file)


def _size(path: Path) -> int:
    """Size of a file, in bytes; -1 if it does not exist."""
    return path.stat().st_size if path.exists() else -1


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _reason(error: Exception) -> str:
    return f"no answer for {SILENCE:g} s" if isinstance(error, TimeoutError) else one_line(error)[:200]
