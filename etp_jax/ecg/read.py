"""Reading of one ECG from a file of any kind; `READERS` lists the kinds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from etp_jax.ecg import csv_signal
from etp_jax.ecg.bare_numbers import read_npy
from etp_jax.ecg.bounded import bounded
from etp_jax.ecg.channels import name_channels, unreadable
from etp_jax.ecg.clinical import read_clinical
from etp_jax.ecg.dicom import read_dicom
from etp_jax.ecg.edf import read_edf
from etp_jax.ecg.leads import RATES, Layout, Recording
from etp_jax.ecg.matlab import read_matlab
from etp_jax.ecg.missing import without_marks
from etp_jax.ecg.parquet import read_parquet, read_parquet_row
from etp_jax.ecg.person import read_person
from etp_jax.ecg.stacks import read_arrays, read_row
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.ecg.wfdb_header import find
from etp_jax.errors import EtpError

READERS: dict[str, Callable[[Path, Layout], Recording]] = {
    ".edf": read_edf,
    ".bdf": read_edf,
    ".rec": read_edf,
    ".mat": bounded(read_matlab),
    ".npy": read_npy,
    ".npz": read_arrays,
    **dict.fromkeys((".h5", ".hdf5"), bounded(read_arrays)),
    ".parquet": bounded(read_parquet),
    ".dcm": read_dicom,
    **dict.fromkeys((".xml", ".scp", ".ecg", ".mwf", ".mfer", ".json"), bounded(read_clinical)),
    **dict.fromkeys(csv_signal.SUFFIXES, csv_signal.read_csv_signal),
}
"""Reader of each suffix, in lower case. A reader may raise any exception, which becomes one EtpError."""
ROW_READERS: dict[str, Callable[[Path, str, Layout], Recording]] = {
    **dict.fromkeys((".npz", ".npy"), read_row),
    **dict.fromkeys((".h5", ".hdf5"), bounded(read_row)),
    ".parquet": bounded(read_parquet_row),
}
"""Reader of one ECG of a file with many, by suffix."""
_ROW = re.compile(rf"(?P<file>.*(?:{'|'.join(map(re.escape, ROW_READERS))}))#(?P<row>.+)", re.IGNORECASE | re.DOTALL)
WFDB = (".hea", ".dat")
SUFFIXES = tuple(suffix for suffix in (*WFDB, *READERS) if not suffix.startswith((".txt", ".json")))
"""Suffixes of the files that are ECGs wherever they are found; a text file is read only if it is named."""


def read_signal(path: Path, layout: Layout) -> Recording:
    """Reads one ECG.

    Args:
      path: the file. `.hea`, `.dat` and no suffix mean WFDB, as do `.mat`, and a suffix that is not read, if a header
        of the same name exists. Upper-case suffixes are read too. A DICOM file may have any name without a suffix that
        is read. `FILE#ROW` is one ECG of a file with many (HDF5, npz, npy, Parquet).
      layout: sampling rate, unit and leads of files that do not state them. Its leads also name the channels of a file
        whose own names denote no lead.

    Raises:
      EtpError: the file is missing, unreadable or of an unknown kind, or the layout does not fit it. The message is
        `kind: detail`.
    """
    layout.check()
    path, row = split_row(path)
    suffix = ".dcm" if _is_dicom(path) else suffix_of(path)
    record = path.with_suffix("") if suffix in SUFFIXES else path
    with unreadable(path.name):
        if suffix in ("", *WFDB) or ((suffix not in READERS or suffix == ".mat") and _has_header(record)):
            recording = read_wfdb(record)
        elif suffix not in READERS:
            raise EtpError(f"kind not read: {suffix}; read are {', '.join((*WFDB, *READERS))}")
        elif not path.is_file():
            raise EtpError(f"missing file: {path.name}")
        elif row:
            recording = ROW_READERS[suffix](path, row, layout)
        else:
            recording = READERS[suffix](path, layout)
        if not RATES[0] <= recording.fs <= RATES[1]:
            raise EtpError(f"sampling rate: {recording.fs:g} Hz of {path.name} is not between 1 Hz and 1 MHz")
        if math.isnan(recording.age) and not recording.sex:
            age, sex = read_person(path)
            recording = replace(recording, age=age, sex=sex)
        recording = name_channels(recording, layout, path.name)
        # EDF has no mark of missing samples: there, a value far from all others is the limit of the amplifier.
        return recording if READERS.get(suffix) is read_edf else without_marks(recording)


def split_row(path: Path) -> tuple[Path, str]:
    """Splits `FILE#ROW` into file and row; the row is empty if the path names a whole file."""
    match = _ROW.fullmatch(str(path))
    return (Path(match["file"]), match["row"]) if match and not path.exists() else (path, "")


def suffix_of(path: Path) -> str:
    """Returns the suffix that decides how a file is read, in lower case: `.csv.gz` for a compressed table."""
    double = "".join(path.suffixes[-2:]).lower()
    return double if double in READERS else path.suffix.lower()


def _is_dicom(path: Path) -> bool:
    """Whether a file whose suffix is not read is DICOM: these are often named by a number (`1.2.840.113619.2`)."""
    if suffix_of(path) in READERS or path.suffix.lower() in WFDB or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _has_header(record: Path) -> bool:
    return find(Path(f"{record}.hea")).exists()
