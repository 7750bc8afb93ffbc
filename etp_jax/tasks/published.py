"""Splits as others published them: records and labels from CSV files, by the names of records and columns. No jax.

A folder holds `*_train.csv`, `*_val.csv` and `*_test.csv`, as the MERL benchmark publishes them for PTB-XL, CPSC2018
and Chapman-Shaoxing-Ningbo. The order of columns differs between its files; names decide.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.tasks.task import Task

SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Our name of a split by the end of a file's name."""
RECORD: dict[str, Callable[[str], str]] = {
    "ecg_path": lambda path: PurePosixPath(path).stem,
    "filename": str,
    "ecg_id": lambda number: number.removesuffix(".0"),
}
"""Columns that may name the record, the first that a file has, and how to read it."""


@dataclass(frozen=True)
class PublishedSplit:
    """Records of a split with their labels."""

    record_ids: tuple[str, ...]
    y_NC: NDArray[np.bool_]


def read_published(folder: Path, task: Task) -> dict[str, PublishedSplit]:
    """Reads the published splits of a task.

    Args:
      folder: with one CSV file a split.
      task: its classes name the columns. PTB-XL's codes may have lost their underscores (`NST` for `NST_`).

    Returns:
      `train`, `validation` and `test`, those of which there is a file.

    Raises:
      EtpError: no or several files for a split, no column for a class, a label that is neither 0 nor 1, or a record
        twice.
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
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    record = next((column for column in RECORD if column in columns), None)
    if record is None:
        raise EtpError(f"{path}: no column names the record; it is one of {', '.join(RECORD)}")
    record_ids = tuple(RECORD[record](row[record]) for row in rows)
    twice = next((name for name, count in Counter(record_ids).items() if count > 1), None)
    if twice is not None:
        raise EtpError(f"{path}: record {twice} stands there twice")
    y_NC = np.zeros((len(rows), len(task.classes)), bool)
    for c, code in enumerate(c.code for c in task.classes):
        column = code if code in columns else code.strip("_")
        if column not in columns:
            raise EtpError(f"{path}: no column {code}; are these the labels of {task.name}?")
        y_NC[:, c] = [_label(row[column], path, column) for row in rows]
    return PublishedSplit(record_ids, y_NC)


def _label(value: str | None, path: Path, column: str) -> bool:
    if value not in ("0", "1", "0.0", "1.0"):
        raise EtpError(f"{path}: column {column} holds {value!r}, a label is 0 or 1")
    return value.startswith("1")
