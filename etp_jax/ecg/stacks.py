"""Reading of files that hold many ECGs in one array: HDF5, npz and npy; one row is read at a time."""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.bare_numbers import NAME_ONE, recording_among, recording_of
from etp_jax.ecg.channels import check_memory, clinical_extra
from etp_jax.ecg.leads import Layout, Recording
from etp_jax.ecg.stated import FEW, is_per_row
from etp_jax.errors import EtpError
from etp_jax.npz import read_header

OPEN_FILES = 32
"""Number of stacks that a process keeps open; CODE-15 has 18."""
PADDING = "zeros at both ends of a row are no signal; left out"
_ID = re.compile(
    r"(?!.*(?:patient|subject|person|lead|label|class)[^/]*$)(?:.*[_ ./-])?(?P<word>id|uid|key|name)s?", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Ids:
    """The id of each row of a stack, sorted for search."""

    name: str
    keys: NDArray[Any]
    rows: NDArray[np.intp]
    counts: NDArray[np.intp]

    def row_of(self, key: str, path: Path) -> int:
        """Returns the number of the row that has the id; raises EtpError unless there is one."""
        found: Any = _text(key)
        if self.keys.dtype.kind in "iu":
            found = int(float(key)) if re.fullmatch(r"-?\d+(?:\.0+)?", key) else None
        place = None if found is None else int(np.searchsorted(self.keys, found))
        if place is None or place == len(self.keys) or self.keys[place] != found:
            raise EtpError(f"stack: no row of {path.name} has {self.name} {key}")
        if self.counts[place] > 1:
            raise EtpError(f"stack: {self.counts[place]} rows of {path.name} have {self.name} {key}")
        return int(self.rows[place])


def choose_ids(columns: Mapping[str, NDArray[Any]], path: Path) -> Ids | None:
    """Chooses the array of ids among those with one value per row, by its name; None if there is none."""
    found = []
    for name, values in columns.items():
        if _ID.fullmatch(name) and values.dtype.kind in "iufSUO":
            texts = values if values.dtype.kind in "iu" else np.array([_text(value) for value in values])
            found.append(Ids(name, *np.unique(texts, return_index=True, return_counts=True)))
    unique = [ids for ids in found if len(ids.keys) == sum(ids.counts)] or found
    if len(unique) > 1:
        raise EtpError(f"stack: {path.name} has several arrays of ids: {', '.join(ids.name for ids in unique)}")
    return unique[0] if unique else None


def _text(value: Any) -> str:
    """Returns an id as text; `7.0` is the id 7 in a column of floating-point numbers."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def place_of(row: str, ids: Ids | None, count: int, path: Path) -> tuple[int, tuple[str, ...]]:
    """Returns the number of a row: that of its id, or the number itself, with a note, if the stack has no ids."""
    if ids is not None:
        return ids.row_of(row, path), ()
    if not re.fullmatch(r"\d+(?:\.0+)?", row) or int(float(row)) >= count:
        raise EtpError(f"stack: {path.name} has no ids; {row!r} is no number of a row from 0 to {count - 1}")
    return int(float(row)), ("stack without ids: rows are counted from 0",)


def trimmed(recording: Recording) -> Recording:
    """Removes the samples at both ends at which all leads are exactly 0, with which stacks fill short ECGs."""
    live = np.flatnonzero(recording.signal.any(axis=1))
    if not len(live) or len(live) == len(recording.signal):
        return recording
    signal = recording.signal[live[0] : live[-1] + 1]
    notes = (PADDING,) * (len(signal) < len(recording.signal))
    return replace(recording, signal=signal, notes=(*recording.notes, *notes))


def read_arrays(path: Path, layout: Layout) -> Recording:
    """Reads a file of one ECG: one matrix, or one vector per lead.

    Raises:
      EtpError: the file holds many ECGs, or the layout does not fit it.
    """
    arrays = _OPEN[path.suffix.lower()](path)  # not kept open, so that the caller may write it anew
    for name, array in arrays.items():
        if array.ndim == 3:
            raise EtpError(f"stack: {path.name} holds {len(array)} ECGs in {name}; {NAME_ONE}")
    check_memory(path, 8 * sum(math.prod(array.shape) for array in arrays.values()))
    found = {name: np.asarray(array[()]) for name, array in arrays.items() if array.dtype.kind in "iuf"}
    found |= _beside({name: array for name, array in arrays.items() if name not in found})
    return recording_among({**dict.fromkeys(arrays), **found}, layout, path)


def read_row(path: Path, row: str, layout: Layout) -> Recording:
    """Reads one ECG of a stack, [N, T, leads] or [N, leads, T]; [N, T] for a single lead.

    Args:
      path: the file.
      row: id of the row in the stack's array of ids; its number from 0 if the stack has none; or the name of an array
        that holds this ECG alone.
      layout: sampling rate, unit and leads.

    Raises:
      EtpError: the stack has no such row, or several arrays of ECGs, or the layout does not fit it.
    """
    stamp = _stamp(path)
    arrays = _opened(path, *stamp)
    if row in arrays and arrays[row].ndim == 2:
        check_memory(path, 8 * math.prod(arrays[row].shape))
        others = _beside({name: array for name, array in arrays.items() if array.ndim < 2})
        return trimmed(recording_of(arrays[row][()], layout, path, (), others))
    stacks = {name: array for name, array in arrays.items() if array.ndim == 3}
    stacks = stacks or {name: array for name, array in arrays.items() if array.ndim == 2}
    if len(stacks) != 1:
        found = ", ".join(f"{name} ({' x '.join(map(str, array.shape))})" for name, array in arrays.items())
        raise EtpError(f"stack: {path.name} holds {len(stacks)} arrays of ECGs, not one: {found or 'nothing'}")
    (stack,) = stacks.values()
    check_memory(path, 8 * math.prod(stack.shape[1:]))
    number, notes = place_of(row, _ids(path, *stamp), len(stack), path)
    others = _beside({name: array for name, array in arrays.items() if array.ndim < 2})
    columns = [name for name, array in arrays.items() if is_per_row(name) and array.shape == (len(stack),)]
    others |= {name: np.asarray(arrays[name][number]) for name in columns}
    recording = trimmed(recording_of(np.asarray(stack[number]), layout, path, (), others))
    return replace(recording, notes=(*recording.notes, *notes))


def _beside(arrays: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Reads the small ones of the arrays beside the signals, which may state leads, sampling rate and unit."""
    return {name: np.asarray(array[()]) for name, array in arrays.items() if array.size <= FEW}


def _stamp(path: Path) -> tuple[int, int, int]:
    """Returns what a cached file must share: time and size of the file, and the process, as HDF5 survives no fork."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, os.getpid()


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, *stamp: int) -> Mapping[str, Any]:
    """Returns the arrays of a file by name, without reading them; a process opens a file once."""
    return _OPEN[path.suffix.lower()](path)


@lru_cache(maxsize=OPEN_FILES)
def _ids(path: Path, *stamp: int) -> Ids | None:
    arrays = _opened(path, *stamp)
    count = max(len(array) for array in arrays.values() if array.ndim in (2, 3))
    named = {name: array for name, array in arrays.items() if _ID.fullmatch(name)}
    columns = {name: array for name, array in named.items() if array.shape in ((count,), (count, 1))}
    for name, array in named.items():
        match = _ID.fullmatch(name)
        if not columns and array.ndim == 1 and match and match["word"].lower() in ("id", "uid"):
            raise EtpError(f"stack: {path.name} holds {count} ECGs and {len(array)} ids in {name}")
    check_memory(path, 8 * count * len(columns))
    return choose_ids({name: np.ravel(array[()]) for name, array in columns.items()}, path)


def _open_hdf5(path: Path) -> Mapping[str, Any]:
    with clinical_extra(path.name):
        import h5py
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        for key, value in item.attrs.items():
            attribute = np.asarray(value)
            if attribute.ndim < 2 and attribute.dtype.kind in "iufUSO":
                found[f"{name}.{key}"] = attribute
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:  # of any path, also outside the archive
                raise EtpError(f"unreadable signal: {name} of {path.name} is in another file; copy it into this one")
            found[name] = item

    file = h5py.File(path, "r", locking=False)
    visit("", file)
    file.visititems(visit)
    return found


def _open_npz(path: Path) -> Mapping[str, Any]:
    """Maps the arrays of a zip file that are stored as they are; reads those that are compressed."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        check_memory(path, sum(info.file_size for info in packed))
        for info in archive.infolist():
            with archive.open(info) as member:
                shape, by_columns, dtype = read_header(member, info.file_size, info.filename)
                start = member.tell()
                order: Any = "F" if by_columns else "C"
                if info in packed or not shape:
                    array = np.frombuffer(member.read(), dtype).reshape(shape, order=order)
                else:
                    file.seek(info.header_offset + 26)
                    lengths = sum(struct.unpack("<HH", file.read(4)))
                    offset = info.header_offset + 30 + lengths + start
                    array = np.memmap(path, dtype, "r", offset, shape, order)
            found[info.filename.removesuffix(".npy")] = array
    return found


def _open_npy(path: Path) -> Mapping[str, Any]:
    return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}


_OPEN: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".npz": _open_npz,
    ".npy": _open_npy,
}
