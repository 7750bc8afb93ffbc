"""Reading of MATLAB files that are not WFDB's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.ecg.bare_numbers import recording_among
from etp_jax.ecg.leads import Layout, Recording
from etp_jax.ecg.stated import FEW
from etp_jax.errors import EtpError

HDF5 = b"\x89HDF\r\n\x1a\n"
"""Signature of an HDF5 file; MATLAB 7.3 writes it after a block of 512 bytes."""
NUMBERS = ("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
"""MATLAB's classes of numbers."""


def read_matlab(path: Path, layout: Layout) -> Recording:
    """Reads a MATLAB file of one matrix, of one vector, or of one vector per lead, also within a structure.

    Raises:
      EtpError: the file holds none of these, or several; or the layout does not fit it.
    """
    return recording_among(_arrays_in(path), layout, path)


def _arrays_in(path: Path) -> dict[str, Any]:
    """Returns the variables of a MATLAB file by name, `ECG.data` for a field: numbers, texts, or None."""
    with path.open("rb") as file:
        start = file.read(520)
    found: dict[str, Any] = {}
    if HDF5 in (start[:8], start[512:]):
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise EtpError(
                f"unreadable signal: {path.name} is of MATLAB 7.3, which needs {error.name}; "
                "pip install 'etp-jax[clinical]', or save it with -v7"
            ) from None
        with h5py.File(path) as file:
            _visit_hdf5(file, "", found)
    else:
        from scipy.io import loadmat

        for name, value in loadmat(path).items():
            if not name.startswith("__"):
                _visit(value, name, found)
    return found


def _visit(value: Any, name: str, found: dict[str, Any]) -> None:
    """Adds a variable: the fields of a structure, and the content of a single cell, under their names."""
    if isinstance(value, np.ndarray) and value.dtype.names:
        for field in value.dtype.names:  # of several structures, such as one per channel, only texts are used
            _visit(value[field].flat[0] if value.size == 1 else value[field], f"{name}.{field}", found)
    elif isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind == "O":
        _visit(value.flat[0], name, found)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        texts = [cell.flat[0] for cell in value.flat if isinstance(cell, np.ndarray) and cell.size == 1]
        is_text = len(texts) == value.size and all(isinstance(text, str) for text in texts)
        found[name] = np.array(texts) if texts and is_text else None
    else:
        found[name] = value if isinstance(value, np.ndarray) and value.dtype.kind in "iufU" else None


def _visit_hdf5(group: Any, prefix: str, found: dict[str, Any]) -> None:
    """Adds the datasets of a group; MATLAB stores an array with its axes reversed."""
    for name, item in group.items():
        if name.startswith("#"):  # MATLAB's own tables
            continue
        if getattr(group.get(name, getlink=True), "filename", None):  # a link to another file, with any path
            found[f"{prefix}{name}"] = None
            continue
        if hasattr(item, "items"):
            _visit_hdf5(item, f"{prefix}{name}.", found)
            continue
        kind = item.attrs.get("MATLAB_class", b"double")
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        if kind == "char" or (kind == "cell" and item.dtype.kind == "O" and item.size <= FEW):
            cells = [item] if kind == "char" else [item.file[cell] for cell in item[()].flat]
            found[f"{prefix}{name}"] = np.array([_text_hdf5(cell) for cell in cells])
            continue
        numeric = kind in NUMBERS
        empty = "MATLAB_empty" in item.attrs
        elsewhere = item.is_virtual or item.external
        usable = numeric and not empty and not elsewhere and item.dtype.kind in "iuf"
        found[f"{prefix}{name}"] = item[()].T if usable else None


def _text_hdf5(item: Any) -> str:
    """Returns the text of a dataset of characters; empty if it holds anything else."""
    return "".join(map(chr, item[()].flat)) if getattr(item, "size", 0) <= FEW and item.dtype.kind == "u" else ""
