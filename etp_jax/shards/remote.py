"""Staging of remote shard folders (`gs://`, `s3://`, any fsspec URL): they are copied to the local disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from etp_jax.errors import EtpError, one_line
from etp_jax.files import sha256, whole_file
from etp_jax.json_text import parse_json
from etp_jax.paths import inside
from etp_jax.shards.reader import BUILD_TYPES
from etp_jax.shards.record import BUILD_FILE

THREADS = 8
"""Number of files copied in parallel."""
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
"""Package that fsspec needs for each URL scheme."""


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
      EtpError: the URL cannot be read, the disk is too full, a file differs from `build.json` or has a name that leads
        out of the folder, or the default staging folder belongs to another user.
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
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _complete(files, source, root, folder, build_file, say)
    except OSError as error:
        raise EtpError(f"{folder}: {error.strerror or error}; name a --data.stage-dir that can be written") from error
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
    try:
        return fsspec.core.url_to_fs(source)
    except ImportError as error:
        package = PACKAGES.get(source.partition("://")[0])
        advice = f"`pip install {package}`" if package else str(error)
        raise EtpError(f"{source}: reading this needs another package: {advice}") from None
    except ValueError as error:
        raise EtpError(f"{source}: {error}; name a folder, or a URL such as gs://bucket/folder") from None


def _read(files: Any, source: str, root: str) -> bytes:
    try:
        return files.cat_file(f"{root}/{BUILD_FILE}")
    except FileNotFoundError:
        raise EtpError(f"{source}: no finished shard folder ({BUILD_FILE} is missing); copy all of it there") from None
    except Exception as error:  # every storage system has its own exception classes
        raise EtpError(f"{source}: cannot be read ({_first_line(error)})") from error


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
                files.get_file(f"{root}/{shard['file']}", file.name)
            except Exception as error:
                raise EtpError(f"{source}/{shard['file']}: cannot be copied ({_first_line(error)})") from error
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
        list(pool.map(copy, missing))
    with whole_file(folder / BUILD_FILE) as file:
        file.write(build_file)


def _size(path: Path) -> int:
    """Size of a file, in bytes; -1 if it does not exist."""
    return path.stat().st_size if path.exists() else -1


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
