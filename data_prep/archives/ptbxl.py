"""PTB-XL (https://physionet.org/content/ptb-xl/), and every folder of the same layout.

The layout is `ptbxl_database.csv` (one row per record), `scp_statements.csv` (the label codes), and WFDB records under
`records100/` and `records500/`.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from functools import partial
from pathlib import Path

from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord, Reject, rejecting, sizes_sha
from etp_jax.data_prep.archives.cells import age_of, has_key_twice, is_empty, not_understood, numeric_id, whole_number
from etp_jax.data_prep.archives.csv_table import read_table
from etp_jax.ecg.leads import LEADS, Recording, lead_of
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from etp_jax.paths import inside

SECONDS = 10
FILE_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
SPLITS = {**{str(fold): "train" for fold in range(1, 9)}, "9": "validation", "10": "test"}
"""Split of each fold."""
SEXES = {"": "", "0": "male", "1": "female"}
AGE_ABOVE_89 = "300"
"""Cell with which PTB-XL masks ages above 89; such ages are stored as 90."""
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
    statements, statements_sha = read_table(source / "scp_statements.csv", ())
    codes = frozenset(next(iter(row.values())) for row in statements)  # the column of the codes has no name
    studies: list[ArchiveRecord] = []
    rejects: list[Reject] = []
    notes: Counter[str] = Counter()
    for row in database:
        with rejecting(rejects, row["ecg_id"], SPLITS.get(_cell(row, "strat_fold"), "")):
            study, found = _study(row, codes, source, rate)
            studies.append(study)
            notes.update(found)
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
            "signal sizes": sizes_sha(f"{source}/{row[FILE_COLUMNS[rate]]}.dat" for row in database),
        },
        notes=notes,
        marks={
            column.replace("_", " "): tuple(row["ecg_id"] for row in database if row[column].strip())
            for column in MARKS
            if database and column in database[0]
        },
    )


def read_folds(database: Path) -> tuple[dict[int, tuple[str, str]], str]:
    """Reads patient and split of each `ecg_id`, for archives with copies of PTB-XL's records.

    Args:
      database: path of `ptbxl_database.csv`.

    Returns:
      Patient and split of each `ecg_id` whose rows agree, and the SHA-256 of the table.

    Raises:
      EtpError: the table is missing, is not UTF-8, or lacks a column.
    """
    table, sha = read_table(database, ("ecg_id", "patient_id", "strat_fold"))
    folds: dict[int, tuple[str, str]] = {}
    doubtful: set[int] = set()
    for row in table:
        ecg, fold = numeric_id(row["ecg_id"]), (numeric_id(row["patient_id"]), SPLITS.get(_cell(row, "strat_fold"), ""))
        if ecg and all(fold) and folds.setdefault(int(ecg), fold) != fold:
            doubtful.add(int(ecg))
    return {ecg: fold for ecg, fold in folds.items() if ecg not in doubtful}, sha


def _study(row: dict[str, str], codes: frozenset[str], source: Path, rate: int) -> tuple[ArchiveRecord, list[str]]:
    """Converts one row of the database; also returns what was assumed. Raises EtpError if it cannot be used."""
    fold, patient = _cell(row, "strat_fold"), numeric_id(row["patient_id"])
    if not row["ecg_id"].strip():
        raise EtpError("record id: empty")
    if fold not in SPLITS:
        raise EtpError(f"fold: {row['strat_fold'][:60]!r} is not one of 1-10")
    if not patient:
        raise EtpError(f"patient: {row['patient_id'][:60]!r} is no whole number")
    scp = _scp_codes(row["scp_codes"])
    unknown = sorted(set(scp) - codes)
    if unknown:
        raise EtpError(f"unknown SCP code: {unknown[0]!r} is not in scp_statements.csv")
    report = row["report"] if row["report"].isspace() or not is_empty(row["report"]) else ""
    age, sex, path = masked_age(row["age"]), SEXES.get(_cell(row, "sex")), row[FILE_COLUMNS[rate]]
    study = ArchiveRecord(
        record_id=row["ecg_id"],
        patient_id=patient,
        split=SPLITS[fold],
        read=partial(_read_signal, inside(source, path), rate),
        report=report,
        labels=tuple(scp),
        likelihoods=tuple(scp.values()),
        age=math.nan if age is None else age,
        sex=sex or "",
        signal=path,
    )
    return study, not_understood(age, sex)


def _scp_codes(text: str) -> dict[str, float]:
    """Parses `{'NORM': 100.0, 'SR': 0.0}` as the likelihood of each code; 0 means present, likelihood unknown."""
    try:
        pairs = ast.literal_eval(text).items()
        found = {str(code): float(number) if type(number) in (int, float) else math.nan for code, number in pairs}
    # Deeply nested or overlong text exhausts the parser.
    except (ValueError, SyntaxError, AttributeError, TypeError, OverflowError, RecursionError, MemoryError):
        raise EtpError(f"SCP codes: {text[:60]!r} is not a dictionary of code and likelihood") from None
    if has_key_twice(text, len(found)):
        raise EtpError(f"SCP codes: {text[:60]!r} has a code twice")
    if not all(0 <= likelihood <= 100 for likelihood in found.values()):
        raise EtpError(f"SCP codes: {text[:60]!r} has a likelihood that is no number from 0 to 100")
    return found


def masked_age(cell: str) -> float | None:
    """Parses an age in years, which PTB-XL and its copies mask above 89; NaN if empty, None if not valid."""
    return 90.0 if whole_number(cell.strip()) == AGE_ABOVE_89 else age_of(cell)


def _cell(row: dict[str, str], column: str) -> str:
    """Returns a cell, without the `.0` of a whole number."""
    return whole_number(row[column].strip())


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
