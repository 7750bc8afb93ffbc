"""Reading of files that hold bare numbers in arrays, whose sampling rate, unit and leads the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Layout, Recording
from etp_jax.errors import EtpError


def read_npy(path: Path, layout: Layout) -> Recording:
    """Reads a NumPy file of one array, samples by leads or leads by samples."""
    # A mapped file is checked against the size that its header claims; without, memory is taken first.
    array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    return recording_of(array, layout, path)


def recording_of(array: NDArray[Any], layout: Layout, path: Path, leads: Sequence[str] = ()) -> Recording:
    """Returns the array, [T, leads] or [leads, T] or [T] for a single lead, as a recording.

    Args:
      array: numbers.
      layout: sampling rate, unit and leads.
      path: file that holds the array.
      leads: leads that the file names; empty: those of the layout.
    """
    if array.dtype.kind not in "iuf":
        raise EtpError(f"unreadable signal: {path.name} holds {array.dtype}, not numbers")
    fs, leads = rate(layout, path), tuple(leads) or layout.named
    samples = _by_samples(np.asarray(array, np.float64), leads, path)
    notes = ("no unit given: mV assumed",) * (layout.unit is None)
    return Recording(samples * layout.scale, fs, leads, notes, layout.unit or "mV")


def rate(layout: Layout, path: Path) -> float:
    """Returns the layout's sampling rate, and checks the layout."""
    layout.check()
    if layout.fs is None:
        raise EtpError(f"sampling rate: {path.name} does not contain it; give --fs")
    return layout.fs


def _by_samples(array: NDArray[np.float64], leads: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Returns the array as [samples, leads], transposed if it is [leads, samples]."""
    if array.ndim == 1 and len(leads) == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape.count(len(leads)) != 1:
        shape = " x ".join(map(str, array.shape))
        raise EtpError(f"lead count: {path.name} holds {shape} numbers for {len(leads)} leads; name them with --leads")
    return array if array.shape[1] == len(leads) else array.T
