"""Reading of files that hold bare numbers in arrays, whose sampling rate, unit and leads the user names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import MICROVOLT, Layout, Recording
from etp_jax.errors import EtpError


def read_npy(path: Path, layout: Layout) -> Recording:
    """Reads a NumPy file of one array, samples by leads or leads by samples."""
    # A mapped file is checked against the size that its header claims; without, memory is taken first.
    array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    return recording_of(array, layout, path)


def recording_of(array: NDArray[Any], layout: Layout, path: Path) -> Recording:
    """Returns the array, [T, leads] or [leads, T] or [T] for a single lead, as a recording."""
    fs, scale = rate_and_scale(layout, path)
    if array.dtype.kind not in "iuf":
        raise EtpError(f"unreadable signal: {path.name} holds {array.dtype}, not numbers")
    samples = _by_samples(np.asarray(array, np.float64), layout.leads, path)
    return Recording(samples * scale, fs, tuple(layout.leads))


def rate_and_scale(layout: Layout, path: Path) -> tuple[float, float]:
    """Returns the layout's sampling rate and its microvolts per unit."""
    if layout.fs is None or not 0 < layout.fs < math.inf:
        raise EtpError(f"sampling rate: {path.name} does not contain it; give --fs")
    if layout.unit not in MICROVOLT:
        raise EtpError(f"unit: {layout.unit!r} is not one of {', '.join(MICROVOLT)}")
    return layout.fs, MICROVOLT[layout.unit]


def _by_samples(array: NDArray[np.float64], leads: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Returns the array as [samples, leads], transposed if it is [leads, samples]."""
    if array.ndim == 1 and len(leads) == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape.count(len(leads)) != 1:
        shape = " x ".join(map(str, array.shape))
        raise EtpError(f"lead count: {path.name} holds {shape} numbers for {len(leads)} leads; name them with --leads")
    return array if array.shape[1] == len(leads) else array.T
