"""The index of a split: where its records are, and everything about them but their signals."""

from __future__ import annotations

import contextlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.files import whole_file
from etp_jax.shards.record import TEXT_LISTS, SplitColumns

INDEX_FOLDER = ".index"


@dataclass(frozen=True)
class Index:
    """Where the records of a split lie, and all of them but the signals."""

    places: NDArray[np.int64]
    """[N, 3]: number of the shard, offset of the payload in it, bytes of the payload."""
    columns: SplitColumns


def save_index(index: Index, path: Path, fingerprint: str) -> None:
    """Writes the index beside the shards; a folder that cannot be written goes without."""
    columns = vars(index.columns)
    arrays = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
    lists = {name: column for name, column in columns.items() if name not in arrays}
    text = np.frombuffer(json.dumps({"fingerprint": fingerprint, **lists}).encode(), np.uint8)
    with contextlib.suppress(OSError):  # a read-only folder: the index is made again next time
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, places=index.places, text=text, **arrays)


def load_index(path: Path, fingerprint: str) -> Index | None:
    """The saved index; None if there is none, or one of other shards, or a damaged one."""
    try:
        with np.load(path) as arrays:
            columns: dict[str, Any] = json.loads(arrays["text"].tobytes())
            if columns.pop("fingerprint") != fingerprint:
                return None
            columns |= {name: arrays[name] for name in ("age", "lead_mask")}
            for name in (*TEXT_LISTS, "likelihoods"):
                columns[name] = [tuple(row) for row in columns[name]]
            return Index(arrays["places"], SplitColumns(**columns))
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile):
        return None
