"""The index of a split: the positions of its records in the shard files, and all their fields except the signals."""

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
    """Positions of the records of a split, and all their fields except the signals."""

    places: NDArray[np.int64]
    """[N, 3] position of each record: number of its shard, offset and length of its payload, in bytes."""
    columns: SplitColumns


def save_index(index: Index, path: Path, fingerprint: str) -> None:
    """Writes the index into the shard folder; does nothing if the folder is read-only."""
    columns = vars(index.columns)
    arrays = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
    lists = {name: column for name, column in columns.items() if name not in arrays}
    text = np.frombuffer(json.dumps({"fingerprint": fingerprint, **lists}).encode(), np.uint8)
    with contextlib.suppress(OSError):  # a read-only folder: the index is built again next time
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, places=index.places, text=text, **arrays)


def load_index(path: Path, fingerprint: str) -> Index | None:
    """Reads a saved index; returns None if it is missing, damaged, or belongs to other shards."""
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
