"""Digest of a checkpoint: the SHA-256 of each of its files, written last, so that damage is found before it is used."""

from __future__ import annotations

import json
from pathlib import Path

from etp_jax.errors import one_line
from etp_jax.files import sha256, write_text

FILE = "digest.json"
STAMPS = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files of a checkpoint that Orbax completes after the digest. They hold the time of the save; nothing reads them."""


def write_digest(folder: Path) -> None:
    """Writes the digest of all files in a folder, to a file beside them."""
    write_text(folder / FILE, _text({name: sha256(path) for name, path in _files(folder).items()}))


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
        text = (folder / FILE).read_text(encoding="utf-8")
        digests = json.loads(text)["sha256"]
        if text != _text(digests):
            return f"{FILE} was changed"
        files = _files(folder)
        for name in sorted(digests):
            if name.startswith(part) and name not in files:
                return f"{name} is missing"
            if name.startswith(part) and sha256(files[name]) != digests[name]:
                return f"{name} was changed"
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        return f"it cannot be compared with {FILE}: {one_line(error)[:100]}"
    return ""


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their relative names; a name in a digest is looked up here and never opened itself."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if name not in (FILE, *STAMPS)}


def _text(digests: dict[str, str]) -> str:
    return json.dumps({"sha256": digests}, indent=1, sort_keys=True) + "\n"
