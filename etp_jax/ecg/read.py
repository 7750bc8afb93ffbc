"""Reading of one ECG from a file of any kind; `READERS` lists the kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from etp_jax.ecg.arrays import rate_and_scale, read_npy
from etp_jax.ecg.channels import name_channels, unreadable
from etp_jax.ecg.edf import read_edf
from etp_jax.ecg.leads import Layout, Recording
from etp_jax.ecg.matlab import read_matlab
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.ecg.wfdb_header import find
from etp_jax.errors import EtpError


def _read_csv(path: Path, layout: Layout) -> Recording:
    fs, scale = rate_and_scale(layout, path)
    table = pd.read_csv(path)
    return Recording(table.to_numpy(np.float64) * scale, fs, tuple(map(str, table.columns)))


READERS: dict[str, Callable[[Path, Layout], Recording]] = {
    ".edf": read_edf,
    ".bdf": read_edf,
    ".rec": read_edf,
    ".mat": read_matlab,
    ".npy": read_npy,
    ".csv": _read_csv,
}
"""Reader of each suffix, in lower case. A reader may raise any exception, which becomes one EtpError."""
SUFFIXES = (".hea", ".dat", *READERS)
"""Suffixes that are read, in lower case; the first two are WFDB's."""
RATES = (1.0, 1e6)
"""Lowest and highest sampling rate that is accepted, in Hz."""


def read_signal(path: Path, layout: Layout) -> Recording:
    """Reads one ECG.

    Args:
      path: the file. `.hea`, `.dat` and no suffix mean WFDB, as do `.mat`, and a suffix that is not read, if a header
        of the same name exists. Upper-case suffixes are read too.
      layout: sampling rate, unit and leads of files that hold bare numbers. Its leads also name the channels of a file
        whose own names denote no lead.

    Raises:
      EtpError: the file is missing, unreadable or of an unknown kind, or the layout does not fit it. The message is
        `kind: detail`.
    """
    suffix = path.suffix.lower()
    record = path.with_suffix("") if suffix in SUFFIXES else path
    with unreadable(path.name):
        if suffix in ("", ".hea", ".dat") or ((suffix not in READERS or suffix == ".mat") and _has_header(record)):
            recording = read_wfdb(record)
        elif suffix not in READERS:
            raise EtpError(f"kind not read: {suffix}; read are {', '.join(SUFFIXES)}")
        elif not path.is_file():
            raise EtpError(f"missing file: {path.name}")
        else:
            recording = READERS[suffix](path, layout)
        if not RATES[0] <= recording.fs <= RATES[1]:
            raise EtpError(f"sampling rate: {recording.fs:g} Hz of {path.name} is not between 1 Hz and 1 MHz")
        return name_channels(recording, layout, path.name)


def _has_header(record: Path) -> bool:
    return find(Path(f"{record}.hea")).exists()
