"""Published splits: records and labels from CSV files, matched by the names of records and columns. No jax.

A folder holds `*_train.csv`, `*_val.csv` and `*_test.csv`, as the MERL benchmark publishes them for PTB-XL, CPSC2018
and Chapman-Shaoxing-Ningbo. The order of columns differs between its files, so columns are matched by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.files import read_csv
from etp_jax.tasks.task import Task

SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Name of a split in this package, by the end of the file name."""
RECORD: dict[str, Callable[[str], str]] = {
    "ecg_path": lambda path: PurePosixPath(path).stem,
    "filename": str,
    "ecg_id": lambda number: number.removesuffix(".0"),
}
"""Columns that may identify the record, with a function that extracts its identifier; the first match is used."""

PUBLISHED_SPLIT = "published split"
"""Start of a result's description of its records, if their labels are published ones."""


@dataclass(frozen=True)
class PublishedSplit:
    """Records of one split with their labels."""

    record_ids: tuple[str, ...]
    """Identifiers of N records."""
    y_NC: NDArray[np.bool_]
    """Labels [N, C] of the task's C classes."""


def labels_digest(splits: Mapping[str, PublishedSplit]) -> str:
    """SHA-256 of published records and labels, which identifies them in a result."""
    digest = hashlib.sha256()
    for name, split in sorted(splits.items()):
        digest.update("\n".join([name, *split.record_ids, ""]).encode())
        digest.update(split.y_NC.tobytes())
    return digest.hexdigest()


def read_published(folder: Path, task: Task) -> dict[str, PublishedSplit]:
    """Reads the published splits of a task.

    Args:
      folder: folder with one CSV file per split.
      task: its class codes name the columns. PTB-XL's codes may lack their underscores (`NST` for `NST_`).

    Returns:
      The splits by name, `train`, `validation` and `test`, as far as there are files.

    Raises:
      EtpError: there is no file at all, or a split has several; a class has no column; a label is neither 0 nor 1; or a
        record occurs twice.
    """
    found: dict[str, PublishedSplit] = {}
    for end, split in SPLITS.items():
        files = sorted(folder.glob(f"*_{end}.csv"))
        if len(files) > 1:
            raise EtpError(f"{folder}: {len(files)} files end in _{end}.csv; name the folder of one task")
        if files:
            found[split] = _read_split(files[0], task)
    if not found:
        raise EtpError(f"{folder}: no *_train.csv, *_val.csv or *_test.csv there")
    return found


def _read_split(path: Path, task: Task) -> PublishedSplit:
    columns, rows = read_csv(path, "get the file again")
    record = next((column for column in RECORD if column in columns), None)
    if record is None:
        raise EtpError(f"{path}: no column names the record; expected one of {', '.join(RECORD)}")
    record_ids = tuple(RECORD[record](row[record]) for row in rows)
    twice = next((name for name, count in Counter(record_ids).items() if count > 1), None)
    if twice is not None:
        raise EtpError(f"{path}: record {twice} occurs twice")
    y_NC = np.zeros((len(rows), len(task.classes)), bool)
    for c, code in enumerate(c.code for c in task.classes):
        column = code if code in columns else code.strip("_")
        if column not in columns:
            raise EtpError(f"{path}: no column {code}; are these the labels of {task.name}?")
        y_NC[:, c] = [_label(row[column], path, column) for row in rows]
    return PublishedSplit(record_ids, y_NC)


def _label(value: str, path: Path, column: str) -> bool:
    if value not in ("0", "1", "0.0", "1.0"):
        raise EtpError(f"{path}: column {column} contains {value!r}; a label must be 0 or 1")
    return value.startswith("1")
