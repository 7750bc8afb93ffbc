"""Paths that come from data: cells of tables, headers of signals, and the JSON files of a shard folder or a model.

And what is at a path: only files are read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from etp_jax.errors import EtpError

LONGEST = 255
"""Longest name of a file in most file systems, in bytes."""
MOST_TEXT = 32 * 2**20
"""Largest JSON or other file of settings that is read, in bytes. Its values may take 25 times as much memory."""


def real(path: Path) -> Path:
    """Follows all links of a path; those in a circle are left as they are, where `Path.resolve` raises RuntimeError."""
    return Path(os.path.realpath(path))


def regular(path: Path) -> Path:
    """Returns the path of a file that is to be read. A pipe would be waited for, and a device may never end.

    Raises:
      EtpError: a folder, a pipe, a socket or a device has this name, or it is a link to one.
      OSError: there is no file, or it cannot be reached.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise EtpError(f"{path}: is {kind}; a file is needed there")
    return path


def read_file(path: Path, most: int = MOST_TEXT) -> bytes:
    """Reads a whole file, as `regular` allows; raises EtpError if it is larger than `most` bytes."""
    size = regular(path).stat().st_size
    if size > most:
        raise EtpError(f"{path}: has {size:,} bytes; such a file has {most:,} at most")
    return path.read_bytes()


def inside(root: Path, name: str, where: str = "path", subfolders: bool = True) -> Path:
    """Returns the path of a name that comes from data, which must be inside a folder.

    Only the text of the path counts. `root` may be a link, and so may files and folders inside it: big archives are
    often linked. Whoever can make a link in a folder can also put the file itself there.

    Args:
      root: the folder.
      name: path relative to `root`, or an absolute path inside it.
      where: what holds the name; begins the error's message.
      subfolders: whether the file may be in a subfolder; otherwise it must be a bare name that is not hidden.

    Raises:
      EtpError: the name is empty or leads out of the folder, or is no bare name where it must be one.
    """
    if any(len(part.encode(errors="replace")) > LONGEST for part in name.split("/")):
        raise EtpError(f"{where}: a name of {len(name)} characters is too long")
    bare = "/" not in name and not name.startswith(".")
    if not name or "\0" in name or not (bare or subfolders):
        raise EtpError(f"{where}: {name!r} is not the name of a file in the folder")
    if not name.startswith("/") and ".." not in name.split("/"):
        return root / name
    for base in (os.path.abspath(root), os.path.realpath(root)):  # noqa: PTH100 - Path.absolute keeps `..`
        path = Path(os.path.normpath(Path(base, name)))
        if path.is_relative_to(base) and path != Path(base):
            return root / path.relative_to(base)
    raise EtpError(f"{where}: {name!r} leads out of the folder {root}")
