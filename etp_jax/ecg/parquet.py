"""Reading of Parquet files: one ECG in columns of samples, or one ECG in each row, in columns of lists."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etp_jax.ecg.arrays import as_recording
from etp_jax.ecg.bare_numbers import NAME_ONE, rate, recording_of
from etp_jax.ecg.channels import check_memory
from etp_jax.ecg.csv_time import check_record, is_time, names_record
from etp_jax.ecg.leads import Layout, Recording, leads_of, split_unit
from etp_jax.ecg.stacks import Ids, choose_ids, place_of, trimmed
from etp_jax.ecg.stated import is_per_row, stated
from etp_jax.errors import EtpError, option


def read_parquet(path: Path, layout: Layout) -> Recording:
    """Reads a file of one ECG, which has a column for each lead and a row for each sample."""
    file, lists = _opened(path, path.stat().st_mtime_ns, os.getpid())
    count = file.metadata.num_rows
    if lists:
        raise EtpError(f"stack: {path.name} holds {count} ECGs; {NAME_ONE}")
    names = list(file.schema_arrow.names)
    chosen = [name for name, lead in zip(names, leads_of(names), strict=True) if lead]
    if not chosen:
        raise EtpError(f"lead names: no column of {path.name} ({', '.join(names)}) is a lead")
    check_memory(path, count * len(chosen) * 8)
    beside = file.read([name for name in names if is_time(name) or names_record(name)])
    beside = beside.to_pandas(ignore_metadata=True)
    for name in filter(names_record, beside):
        check_record(name, beside[name], path.name)
    times = dict(_times(name, beside[name]) for name in filter(is_time, beside))
    said = stated(times, (count,), layout, path)
    frame = file.read(chosen).to_pandas(ignore_metadata=True)
    recording = as_recording(frame, rate(said.layout, path), None, layout.unit)
    notes = [*said.notes, *recording.notes, *(f"column {name} left out" for name in names if name not in chosen)]
    notes += ["no unit given: mV assumed"] * bool(layout.unit is None and recording.unit)
    return replace(recording, notes=tuple(notes))


def read_parquet_row(path: Path, row: str, layout: Layout) -> Recording:
    """Reads one ECG of a file that has an ECG in each row: a list in the column of each lead, or nested lists in one.

    Args:
      path: the file.
      row: id of the row in the column of ids; its number from 0 if there is none.
      layout: sampling rate, unit and leads.
    """
    stamp = path.stat().st_mtime_ns, os.getpid()
    file, lists = _opened(path, *stamp)
    leads = [name for name, lead in zip(lists, leads_of(lists), strict=True) if lead]
    columns = leads or lists
    if len(columns) != 1 and not leads:
        found = ", ".join(columns) or "none"
        raise EtpError(f"stack: {path.name} must have a column of lists for each lead, or one for all; it has {found}")
    number, notes = place_of(row, _ids(path, *stamp), file.metadata.num_rows, path)
    group = 0
    while number >= file.metadata.row_group(group).num_rows:
        number -= file.metadata.row_group(group).num_rows
        group += 1
    beside = [name for name in file.schema_arrow.names if is_per_row(name) and name not in lists]
    table = _group(path, group, (*columns, *beside), *stamp)
    others = {name: np.array(table[name][number].as_py()) for name in beside}
    values = [_numbers(table[name][number].values) for name in columns]
    if len({len(value) for value in values}) > 1:
        raise EtpError(f"stack: the leads of row {row} of {path.name} have several lengths")
    units = {split_unit(name)[1] for name in leads} - {None}
    if len(units) > 1 or (units and layout.unit):
        raise EtpError(
            f"unit: the columns of {path.name} name {', '.join(map(str, units))}; leave out {option('unit')}"
        )
    layout = replace(layout, unit=layout.unit or next(iter(units), None))
    signal: Any = np.column_stack(values) if leads else values[0]
    recording = trimmed(recording_of(signal, layout, path, tuple(leads), others))
    return replace(recording, notes=(*recording.notes, *notes))


def _times(name: str, column: pd.Series) -> tuple[str, NDArray[Any]]:
    """Returns name and values of a column of times; dates become seconds."""
    if not pd.api.types.is_datetime64_any_dtype(column) and not pd.api.types.is_timedelta64_dtype(column):
        return name, column.to_numpy()
    return "time (s)", (column - column.iloc[0]).dt.total_seconds().to_numpy()


def _numbers(values: Any) -> NDArray[Any]:
    """Returns the list of a row, or its nested lists, as an array; NaN where a number is missing."""
    if values is None:
        return np.empty(0)
    if not _is_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    lengths = set(values.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        raise ValueError("its nested lists have several lengths")
    inner = _numbers(values.flatten())
    return inner.reshape(len(values), *lengths, *inner.shape[1:])


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


@lru_cache(maxsize=32)
def _opened(path: Path, *stamp: int) -> tuple[Any, list[str]]:
    """Opens a file; also returns the names of its columns of lists."""
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    return file, [field.name for field in file.schema_arrow if _is_list(field.type)]


@lru_cache(maxsize=32)
def _ids(path: Path, *stamp: int) -> Ids | None:
    file, lists = _opened(path, *stamp)
    names = [name for name in file.schema_arrow.names if name not in lists]
    check_memory(path, 8 * file.metadata.num_rows * len(names))
    frame = file.read(names).to_pandas()
    return choose_ids({name: frame[name].to_numpy() for name in names}, path)


@lru_cache(maxsize=2)
def _group(path: Path, group: int, columns: tuple[str, ...], *stamp: int) -> Any:
    """Reads a group of rows, which is the least that can be read of a Parquet file."""
    file, _ = _opened(path, *stamp)
    check_memory(path, file.metadata.row_group(group).total_byte_size)
    return file.read_row_group(group, columns=list(columns))
