"""Digest of a checkpoint or run folder: size and SHA-256 of its files, written last to find damage before use.

Sizes are compared first: a file that grew is found without reading it, however large it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from etp_jax.errors import EtpError, one_line
from etp_jax.files import sha256, write_text
from etp_jax.paths import inside, read_file

FILE = "digest.json"
STAMPS = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files of a checkpoint that Orbax completes after the digest. They hold the time of the save, which nothing uses."""


def write_digest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes the digest of files in a folder, to a file beside them; without `names`, of all of them."""
    names = _names(folder) if names is None else names
    files = {name: folder / name for name in names}
    digests = {name: sha256(path) for name, path in files.items()}
    sizes = {name: _size(path) for name, path in files.items()}
    write_text(folder / FILE, _text({"sha256": digests, "bytes": sizes}))


def forget(folder: Path) -> None:
    """Deletes the digest of a folder, before its files are written anew."""
    (folder / FILE).unlink(missing_ok=True)


def has_digest(folder: Path) -> bool:
    """Whether a folder has a digest; checkpoints of earlier versions have none."""
    return (folder / FILE).exists()


def damage(folder: Path, part: str = "") -> str:
    """Compares the files of a folder with its digest.

    Args:
      folder: the folder.
      part: beginning of the names of the files to compare.

    Returns:
      What is wrong with the first file that is missing or differs; "" if nothing is wrong.
    """
    try:
        text = read_file(folder / FILE).decode()
        content = json.loads(text)
        if text != _text(content):
            return f"{FILE} was changed"
        digests, sizes = content["sha256"], content.get("bytes", {})  # the first digests had no sizes
        files = {name: inside(folder, name) for name in sorted(digests) if name.startswith(part)}
        for name, path in files.items():
            if not path.is_file():
                return f"{name} is missing"
            if _size(path) != sizes.get(name, _size(path)):
                return f"{name} was changed"
        for name, path in files.items():
            if sha256(path) != digests[name]:
                return f"{name} was changed"
    except (EtpError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"it cannot be compared with {FILE}: {one_line(error)[:100]}"
    return ""


def _names(folder: Path) -> list[str]:
    """Relative names of the files of a folder that a digest covers."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [name for name in names if name not in (FILE, *STAMPS)]


def _size(path: Path) -> int:
    return path.stat().st_size


def _text(content: dict[str, dict[str, Any]]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
