"""Reading of one ECG from a WFDB, EDF, MATLAB, NumPy or CSV file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from wfdb.io.convert.edf import read_edf

from etp_jax.ecg import csv_signal
from etp_jax.ecg.leads import MICROVOLT, Layout, Recording
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError

SUFFIXES = (".hea", ".dat", ".mat", ".npy", ".csv", ".tsv", ".edf")


def read_signal(path: Path, layout: Layout) -> Recording:
    """Reads one ECG.

    Args:
      path: the file. `.hea`, `.dat` and no suffix mean WFDB, as does `.mat` if a header of the same name exists.
        `.edf` is EDF. The other files hold bare numbers: `.mat` and `.npy` one array, samples by leads or leads by
        samples; `.csv`, `.tsv` and `.txt` separated values (`csv_signal`).
      layout: sampling rate, unit and leads of files that do not state them.

    Raises:
      EtpError: the file is missing or unreadable, or the layout does not fit it. The message is `kind: detail`.
    """
    if path.name.lower().endswith(csv_signal.SUFFIXES):
        return csv_signal.read_csv_signal(path, layout)
    suffix = path.suffix.lower()
    wfdb_path = path.with_suffix("") if suffix in SUFFIXES else path
    if suffix in ("", ".hea", ".dat") or suffix not in SUFFIXES or Path(f"{wfdb_path}.hea").exists():
        return read_wfdb(wfdb_path)
    if not path.is_file():
        raise EtpError(f"missing file: {path.name}")
    if suffix == ".edf":
        return _read_edf(path)
    layout.check()
    if layout.fs is None:
        raise EtpError(f"sampling rate: {path.name} does not contain it; give --fs")
    try:
        array = np.load(path, allow_pickle=False) if suffix == ".npy" else _only_array(path)
        signal = _by_samples(np.asarray(array, np.float64), layout.named, path) * layout.scale
        notes = ("no unit given: mV assumed",) * (layout.unit is None)
        return Recording(signal, layout.fs, layout.named, notes, layout.unit or "mV")
    # numpy and scipy raise these on truncated or damaged files and on other formats; they share no base class.
    except (ValueError, TypeError, OSError, EOFError, NotImplementedError, MatReadError) as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None


def _only_array(path: Path) -> NDArray[Any]:
    """Returns the only numeric matrix of a MATLAB file."""
    matrices = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    numeric = [name for name, value in matrices.items() if value.dtype.kind in "iuf" and min(value.shape) > 1]
    if len(numeric) != 1:
        raise ValueError(f"holds {len(numeric)} matrices of numbers ({', '.join(matrices) or 'nothing'}), not one")
    return matrices[numeric[0]]


def _by_samples(array: NDArray[np.float64], leads: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Returns the array as [samples, leads], transposed if it is [leads, samples]."""
    if array.ndim == 1 and len(leads) == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape.count(len(leads)) != 1:
        shape = " x ".join(map(str, array.shape))
        raise EtpError(f"lead count: {path.name} holds {shape} numbers for {len(leads)} leads; name them with --leads")
    return array if array.shape[1] == len(leads) else array.T


def _read_edf(path: Path) -> Recording:
    """Reads those channels of an EDF file that are voltages."""
    try:
        record: Any = read_edf(str(path), encoding="latin-1")
    # wfdb raises these on files that are not EDF; it has no exception class of its own.
    except (ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError, struct.error) as error:
        raise EtpError(f"unreadable signal: {path.name} is not an EDF file ({error})") from None
    kept = [number for number, unit in enumerate(record.units) if unit in MICROVOLT]
    if not kept:
        raise EtpError(f"unit: {path.name} is in {', '.join(record.units)}, none of {', '.join(MICROVOLT)}")
    if len({record.samps_per_frame[number] for number in kept}) > 1:
        raise EtpError(f"frames: the signals of {path.name} have several sampling rates, which is not supported")
    scales = [MICROVOLT[record.units[number]] for number in kept]
    return Recording(record.p_signal[:, kept] * scales, float(record.fs), tuple(record.sig_name[n] for n in kept))
