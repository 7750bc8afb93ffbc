"""Reading of files that hold bare numbers in arrays, whose sampling rate, unit and leads the user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Layout, Recording, lead_of
from etp_jax.ecg.stated import FEW, check_scale, field_of, is_times, stated
from etp_jax.errors import EtpError, option

NAME_ONE = "name one of them as FILE#ROW, or with --row-column in a table"


def read_npy(path: Path, layout: Layout) -> Recording:
    """Reads a NumPy file of one array, samples by leads or leads by samples."""
    # A mapped file is checked against the size that its header claims; without, memory is taken first.
    array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 3:
        raise EtpError(f"stack: {path.name} holds {len(array)} ECGs; {NAME_ONE}")
    return recording_of(array, layout, path)


def recording_among(variables: Mapping[str, Any], layout: Layout, path: Path) -> Recording:
    """Finds the ECG among named arrays: one matrix, one vector, or one vector per lead.

    Other arrays may state its leads, sampling rate and unit.

    Args:
      variables: arrays of numbers or texts by name, `ECG.data` or `ECG/data` for one in a structure; None for anything
        else.
      layout: sampling rate, unit and leads.
      path: file that holds the arrays.

    Raises:
      EtpError: the arrays are none of these, or several; or the layout does not fit them.
    """
    known = {name: np.squeeze(value) for name, value in variables.items() if value is not None}
    arrays = {name: value for name, value in known.items() if value.dtype.kind in "iuf"}
    matrices = {name: value for name, value in arrays.items() if value.ndim > 1 and not _is_flags(value)}
    vectors = {name: value for name, value in arrays.items() if value.ndim == 1 and value.size}
    leads = {name: value for name, value in vectors.items() if lead_of(field_of(name))}
    if leads and not matrices:
        others = {name: value for name, value in known.items() if name not in leads}
        return _one_per_lead(leads, others, layout, path)
    if len(vectors) > 1:
        vectors = {name: value for name, value in vectors.items() if not is_times(name, value, value.shape)}
    signals = list((matrices or vectors).items())
    if len(signals) != 1:
        shapes = [f"{name} ({' x '.join(map(str, value.shape))})" for name, value in signals]
        found = ", ".join(shapes or variables) or "nothing"
        what = f"{len(shapes)} arrays of samples, not one: {found}"
        raise EtpError(f"unreadable signal: {path.name} holds {what}; save one matrix, samples by leads")
    ((name, signal),) = signals
    return recording_of(signal, layout, path, (), {other: value for other, value in known.items() if other != name})


def _one_per_lead(
    leads: dict[str, NDArray[Any]], others: dict[str, NDArray[Any]], layout: Layout, path: Path
) -> Recording:
    """Joins the vectors of the leads; other vectors, such as a time axis, are left out with a note."""
    lengths = {name: len(value) for name, value in leads.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise EtpError(f"unreadable signal: the leads of {path.name} have several lengths: {found}")
    signal = np.column_stack(list(leads.values()))
    recording = recording_of(signal, layout, path, tuple(map(field_of, leads)), others)
    unused = [name for name, value in others.items() if value.dtype.kind in "iuf" and value.ndim]
    notes = tuple(f"array {name} left out" for name in unused)
    return replace(recording, notes=(*recording.notes, *notes))


def recording_of(
    array: NDArray[Any],
    layout: Layout,
    path: Path,
    leads: Sequence[str] = (),
    others: Mapping[str, NDArray[Any]] | None = None,
) -> Recording:
    """Returns the array, [T, leads] or [leads, T] or [T] for a single lead, as a recording.

    Args:
      array: numbers.
      layout: sampling rate, unit and leads.
      path: file that holds the array.
      leads: leads that the file names; empty: those of the layout.
      others: arrays beside it, which may state its leads, sampling rate and unit.
    """
    if array.dtype.kind not in "iuf":
        raise EtpError(f"unreadable signal: {path.name} holds {array.dtype}, not numbers")
    if _is_flags(array):
        raise EtpError(f"unreadable signal: {path.name} holds only 0 and 1, which are flags and no samples")
    check_scale(others or {}, array, path)
    said = stated(others or {}, array.shape, layout, path)
    layout = said.layout
    fs, leads = rate(layout, path), tuple(leads) or said.channels or layout.named
    samples = _by_samples(np.asarray(array, np.float64), leads, path)
    notes = (*said.notes, *["no unit given: mV assumed"] * (layout.unit is None))
    with np.errstate(over="ignore", invalid="ignore"):  # damaged files hold huge numbers
        samples = samples * layout.scale
    return Recording(samples, fs, leads, notes, layout.unit or "mV")


def _is_flags(array: NDArray[Any]) -> bool:
    """Whether an array holds 0 and 1 only, as MATLAB stores logical ones."""
    return bool(array.any() and np.isin(array.flat[:FEW], (0, 1)).all() and np.isin(array, (0, 1)).all())


def rate(layout: Layout, path: Path) -> float:
    """Returns the layout's sampling rate; raises EtpError if it has none."""
    if layout.fs is None:
        raise EtpError(f"sampling rate: {path.name} does not contain it; give {option('fs')}")
    return layout.fs


def _by_samples(array: NDArray[np.float64], leads: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Returns the array as [samples, leads], transposed if it is [leads, samples]."""
    if array.ndim == 1 and len(leads) == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape.count(len(leads)) != 1:
        shape = " x ".join(map(str, array.shape))
        known = f"{path.name} holds {shape} numbers for {len(leads)} leads"
        raise EtpError(f"lead count: {known}; name them with {option('leads')}")
    return array if array.shape[1] == len(leads) else array.T
