"""PTB-XL (https://physionet.org/content/ptb-xl/), and every folder of the same layout.

The layout is `ptbxl_database.csv` (one row per record), `scp_statements.csv` (the label codes), and WFDB records under
`records100/` and `records500/`.
"""

from __future__ import annotations

import ast
import math
from functools import partial
from pathlib import Path

import numpy as np

from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord, Reject, rejecting, sizes_sha
from etp_jax.data_prep.archives.csv_table import read_table
from etp_jax.ecg.leads import LEADS, Recording, lead_of
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from etp_jax.paths import inside

SECONDS = 10
FILE_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
SPLITS: dict[float, str] = {**dict.fromkeys(range(1, 9), "train"), 9: "validation", 10: "test"}
"""Split of each fold."""
SEXES: dict[float, str] = {0: "male", 1: "female"}
AGE_ABOVE_89 = 300
"""Value with which PTB-XL masks ages above 89; such ages are stored as 90."""
AGE_UNKNOWN = "age is not possible or not understood; stored as unknown"
OLDEST = 120
"""Highest valid age, in years; a higher one counts as unknown."""
MARKS = ("static_noise", "burst_noise", "baseline_drift", "electrodes_problems")
"""Columns that name the disturbed leads of a record; the cells of other records are empty. A table may lack them."""
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold")


def open_archive(source: Path, rate: int = 100, name: str = "ptbxl") -> Archive:
    """Reads the tables of a PTB-XL folder, but no signals.

    A record with a code that is not in `scp_statements.csv` is rejected: with unknown labels it can be used neither for
    training nor for scoring. A record without a report is kept, since it has labels and can be scored.

    Args:
      source: folder of the archive.
      rate: sampling rate of the files to read, 100 or 500 Hz.
      name: name of the data set.

    Raises:
      EtpError: a table is missing, is not UTF-8, or lacks a column; or the rate is not supported.
    """
    if rate not in FILE_COLUMNS:
        raise EtpError(f"rate {rate}: PTB-XL comes at {' and '.join(map(str, FILE_COLUMNS))} Hz")
    database, database_sha = read_table(source / "ptbxl_database.csv", (*COLUMNS, FILE_COLUMNS[rate]))
    statements, statements_sha = read_table(source / "scp_statements.csv", ("Unnamed: 0",))
    codes = frozenset(statements["Unnamed: 0"])
    studies: list[ArchiveRecord] = []
    rejects: list[Reject] = []
    for row in database.to_dict("records"):
        with rejecting(rejects, row["ecg_id"], SPLITS.get(_number(row["strat_fold"]), "")):
            path = inside(source, row[FILE_COLUMNS[rate]])
            studies.append(_study(row, codes, path, rate))
    ages = database["age"].map(_number)
    impossible = int(np.count_nonzero(ages.notna() & (ages != AGE_ABOVE_89) & ~ages.between(0, OLDEST)))
    return Archive(
        name=name,
        fs=rate,
        samples=SECONDS * rate,
        leads=LEADS,
        label_vocabulary=tuple(sorted(codes)),
        studies=tuple(studies),
        rejects=tuple(rejects),
        recipe={"train": "folds 1-8", "validation": "fold 9", "test": "fold 10"},
        source={
            "ptbxl_database.csv": database_sha,
            "scp_statements.csv": statements_sha,
            "signal sizes": sizes_sha(f"{source}/{name}.dat" for name in database[FILE_COLUMNS[rate]]),
        },
        notes={AGE_UNKNOWN: impossible} if impossible else {},
        marks={
            column.replace("_", " "): tuple(
                record_id for record_id, cell in zip(database["ecg_id"], database[column], strict=True) if cell.strip()
            )
            for column in MARKS
            if column in database
        },
    )


def read_folds(database: Path) -> tuple[dict[int, tuple[str, str]], str]:
    """Reads patient and split of each `ecg_id`, for archives with copies of PTB-XL's records.

    Args:
      database: path of `ptbxl_database.csv`.

    Returns:
      Patient and split of each `ecg_id`, and the SHA-256 of the table.

    Raises:
      EtpError: the table is missing, is not UTF-8, or lacks a column.
    """
    columns = ("ecg_id", "patient_id", "strat_fold")
    table, sha = read_table(database, columns)
    rows = table[list(columns)].map(_number).itertuples(index=False)
    usable = [row for row in rows if all(map(math.isfinite, row)) and row[2] in SPLITS]
    return {int(ecg_id): (str(int(patient)), SPLITS[fold]) for ecg_id, patient, fold in usable}, sha


def _study(row: dict[str, str], codes: frozenset[str], path: Path, rate: int) -> ArchiveRecord:
    """Converts one row of the database; raises EtpError if the record cannot be used."""
    fold, patient = _number(row["strat_fold"]), _number(row["patient_id"])
    if not row["ecg_id"]:
        raise EtpError("record id: empty")
    if fold not in SPLITS:
        raise EtpError(f"fold: {row['strat_fold']!r} is not one of 1-10")
    if not math.isfinite(patient):
        raise EtpError(f"patient: {row['patient_id']!r} is no number")
    scp = _scp_codes(row["scp_codes"])
    unknown = sorted(set(scp) - codes)
    if unknown:
        raise EtpError(f"unknown SCP code: {unknown[0]!r} is not in scp_statements.csv")
    age = _number(row["age"])
    return ArchiveRecord(
        record_id=row["ecg_id"],
        patient_id=str(int(patient)),
        split=SPLITS[fold],
        read=partial(_read_signal, path, rate),
        report=row["report"],
        labels=tuple(scp),
        likelihoods=tuple(scp.values()),
        age=90.0 if age == AGE_ABOVE_89 else age if 0 <= age <= OLDEST else math.nan,
        sex=SEXES.get(_number(row["sex"]), ""),
    )


def _scp_codes(text: str) -> dict[str, float]:
    """Parses `{'NORM': 100.0, 'SR': 0.0}` as the likelihood of each code; 0 means present, likelihood unknown."""
    try:
        found = {str(code): float(likelihood) for code, likelihood in ast.literal_eval(text).items()}
    # Deeply nested or overlong text exhausts the parser.
    except (ValueError, SyntaxError, AttributeError, TypeError, OverflowError, RecursionError, MemoryError):
        raise EtpError(f"SCP codes: {text[:60]!r} is not a dictionary of code and likelihood") from None
    if not all(0 <= likelihood <= 100 for likelihood in found.values()):
        raise EtpError(f"SCP codes: {text[:60]!r} has a likelihood that is not from 0 to 100")
    return found


def _number(text: str) -> float:
    """Parses the number in a cell; returns NaN if the cell holds no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_signal(path: Path, rate: int) -> Recording:
    recording = read_wfdb(path)
    if len(recording.channels) != len(LEADS):
        raise EtpError(f"lead count: {len(recording.channels)} instead of {len(LEADS)}")
    missing = [lead for lead in LEADS if lead not in map(lead_of, recording.channels)]
    if missing:
        raise EtpError(f"lead names: {missing[0]} is missing among {' '.join(recording.channels)}")
    if recording.fs != rate or len(recording.signal) != SECONDS * rate:
        raise EtpError(
            f"length: {len(recording.signal)} samples at {recording.fs:g} Hz instead of {SECONDS * rate} at {rate} Hz"
        )
    return recording
