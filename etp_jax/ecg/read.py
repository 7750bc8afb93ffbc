"""One ECG in a file of any common kind: WFDB, EDF, MATLAB, NumPy, CSV."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from wfdb.io.convert.edf import read_edf

from etp_jax.ecg.leads import MICROVOLT, Layout, Recording
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError

SUFFIXES = (".hea", ".dat", ".mat", ".npy", ".csv", ".edf")


def read_signal(path: Path, layout: Layout) -> Recording:
    """Reads one ECG.

    Args:
      path: `.hea`, `.dat` or no suffix is WFDB, and so is `.mat` beside a header of its name; `.edf`; the others hold
        bare numbers: `.mat`, `.npy` one array, samples by leads or leads by samples; `.csv` a column for each lead.
      layout: of bare numbers.

    Raises:
      EtpError: the file is missing or cannot be read, or the layout does not fit it; `kind: detail`.
    """
    suffix = path.suffix.lower()
    wfdb_path = path.with_suffix("") if suffix in SUFFIXES else path
    if suffix in ("", ".hea", ".dat") or suffix not in SUFFIXES or Path(f"{wfdb_path}.hea").exists():
        return read_wfdb(wfdb_path)
    if not path.is_file():
        raise EtpError(f"missing file: {path.name}")
    if suffix == ".edf":
        return _read_edf(path)
    fs, scale = _check(layout, path)
    try:
        if suffix == ".csv":
            table = pd.read_csv(path)
            return Recording(table.to_numpy(np.float64) * scale, fs, tuple(map(str, table.columns)))
        array = np.load(path, allow_pickle=False) if suffix == ".npy" else _only_array(path)
        return Recording(_by_samples(np.asarray(array, np.float64), layout.leads, path) * scale, fs, layout.leads)
    # What numpy, pandas and scipy raise on files that are cut, damaged or of another kind; they have none in common.
    except (ValueError, TypeError, OSError, EOFError, NotImplementedError, MatReadError) as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None


def _check(layout: Layout, path: Path) -> tuple[float, float]:
    """Sampling rate, and microvolt in one unit."""
    if layout.fs is None or not 0 < layout.fs < math.inf:
        raise EtpError(f"sampling rate: {path.name} does not say it; give --fs")
    if layout.unit not in MICROVOLT:
        raise EtpError(f"unit: {layout.unit!r} is not one of {', '.join(MICROVOLT)}")
    return layout.fs, MICROVOLT[layout.unit]


def _only_array(path: Path) -> NDArray[Any]:
    """The one matrix of a MATLAB file."""
    matrices = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    numeric = [name for name, value in matrices.items() if value.dtype.kind in "iuf" and min(value.shape) > 1]
    if len(numeric) != 1:
        raise ValueError(f"holds {len(numeric)} matrices of numbers ({', '.join(matrices) or 'nothing'}), not one")
    return matrices[numeric[0]]


def _by_samples(array: NDArray[np.float64], leads: Sequence[str], path: Path) -> NDArray[np.float64]:
    """[samples, leads], whichever way round the array lies."""
    if array.ndim == 1 and len(leads) == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape.count(len(leads)) != 1:
        shape = " x ".join(map(str, array.shape))
        raise EtpError(f"lead count: {path.name} holds {shape} numbers for {len(leads)} leads; name them with --leads")
    return array if array.shape[1] == len(leads) else array.T


def _read_edf(path: Path) -> Recording:
    """The channels of an EDF file that are voltages."""
    try:
        record: Any = read_edf(str(path), encoding="latin-1")
    # What wfdb raises on files that are no EDF; it has no exception of its own.
    except (ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError, struct.error) as error:
        raise EtpError(f"unreadable signal: {path.name} is no EDF file ({error})") from None
    kept = [number for number, unit in enumerate(record.units) if unit in MICROVOLT]
    if not kept:
        raise EtpError(f"unit: {path.name} is in {', '.join(record.units)}, none of {', '.join(MICROVOLT)}")
    if len({record.samps_per_frame[number] for number in kept}) > 1:
        raise EtpError(f"frames: the signals of {path.name} have several sampling rates, which is not read")
    scales = [MICROVOLT[record.units[number]] for number in kept]
    return Recording(record.p_signal[:, kept] * scales, float(record.fs), tuple(record.sig_name[n] for n in kept))
