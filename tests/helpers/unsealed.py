"""JSON files without the digests of their own fields, so that a changed field reaches what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etp_jax.files import SEAL
from etp_jax.shards.writer import DIGESTS


def unsealed(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file as an earlier version wrote it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if name not in (SEAL, DIGESTS)}


def unseal(path: Path) -> None:
    """Removes the digests from a file; a file without any keeps its bytes."""
    content = unsealed(path)
    if content != json.loads(path.read_text(encoding="utf-8")):
        path.write_text(json.dumps(content), encoding="utf-8")
