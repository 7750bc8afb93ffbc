"""MIMIC-IV-ECG 1.0 (https://physionet.org/content/mimic-iv-ecg/1.0/), and every folder of the same layout.

The layout:

* `record_list.csv` has one row per record.
* `machine_measurements.csv` has one row per record, with up to 18 statements of the ECG cart's program.
* `files/` contains the WFDB records, of 500 Hz and 10 s.

The tables are joined by `study_id`. The records have no labels, and the tables contain neither age nor sex.

There are 800,000 records of 160,000 patients. To save memory, a study stores its path as text, and studies with equal
reports share one object.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from etp_jax.data_prep.archives.archive import (
    HASHED_SPLITS,
    Archive,
    ArchiveRecord,
    Reject,
    hashed_split,
    rejecting,
    sizes_sha,
)
from etp_jax.data_prep.archives.cells import is_empty, numeric_id
from etp_jax.data_prep.archives.csv_table import read_rows
from etp_jax.ecg.leads import LEADS, Recording
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from etp_jax.files import sha256
from etp_jax.paths import inside

SECONDS = 10
RATES = (100, 500)
RECORDS = "record_list.csv"
RECORD_COLUMNS = ("study_id", "subject_id", "path")
MEASUREMENTS = "machine_measurements.csv"
ADVICE = "--source must name a folder of MIMIC-IV-ECG's layout"
REPORT_COLUMNS = tuple(f"report_{number}" for number in range(18))

TECHNICAL: dict[str, tuple[str, ...]] = {
    "recording quality": (
        r"(?:warning[:\s-]+)?(?:poor )?data quality.*",
        r"technically (?:poor|difficult|limited|unsatisfactory) (?:tracing|study|recording|ecg)",
        r"(?:(?:baseline|muscle|movement|motion|electrical|ac|excessive|marked) )*"
        r"(?:artifact|wander|interference|noise)(?: present)?(?: in leads?\b.*)?",
    ),
    "electrode placement": (
        r"(?:all )?(?:\d+ )?leads? (?:is |are )?missing.*",
        r"(?:missing|unsuitable) lead.*",
        r"lead(?:s|\(s\))? (?:unsuitable for|not used (?:for|in)) analysis.*",
        r"(?:(?:suspect|possible|probable|consider) )?(?:(?:arm|limb|precordial) )?leads? (?:reversal|reversed).*",
        r"12[ -]lead.*standard placement",
    ),
    "failure of the program": (
        r"(?:possible )?(?:measurement|analysis) error",
        r"no (?:further )?(?:rhythm |ecg )?(?:analysis|interpretation)(?: attempted| possible| available| made)?",
    ),
    "information missing to the program; words such as age and sex would be misleading": (
        r"(?:warning[:\s-]+)?(?:interpretation|report|analysis) (?:is )?made without (?:knowing|knowledge of).*",
        r"(?:age|sex|gender)(?: (?:and|or|/) (?:age|sex|gender))? not entered.*",
        r"no (?:previous|prior|old) (?:ecg|tracing)s?(?: is| are)?(?: available)?(?: (?:for|to) compar\w+)?",
    ),
    "confirmation and follow-up": (
        r"(?:unconfirmed|unedited|preliminary)(?: (?:report|diagnosis|interpretation|ecg|analysis))?",
        r"(?:suggest|recommend|consider)(?:ed)? (?:a )?repeat(?:ing)?(?: (?:the )?(?:ecg|tracing))?",
        r"clinical (?:correlation|interpretation)(?: is)? (?:suggested|recommended|required|advised)",
    ),
}
"""Statements that contain no finding: their topics, and patterns that match a whole statement, ignoring case.

A statement that also names a finding ("Pacemaker rhythm - no further analysis") matches no pattern and is kept.
"""

_PATTERNS = [pattern for patterns in TECHNICAL.values() for pattern in patterns]
_TECHNICAL = re.compile("|".join(_PATTERNS), re.IGNORECASE)
_SUMMARY = re.compile(r"summary\b[\s:-]*", re.IGNORECASE)
_EKG = re.compile(r"\bEKG\b", re.IGNORECASE)
_ORNAMENT = " .,;:*-=_"
"""Characters stripped from both ends of a statement (`*** Sinus rhythm. ***`). A final full stop is stripped because
statements are joined with full stops."""


def open_archive(source: Path, rate: int = 100) -> Archive:
    """Reads the tables of a MIMIC-IV-ECG folder, but no signals.

    A record is rejected if its report is missing or has no content: there are no labels either, so nothing could be
    learned from it. A study with two rows in a table is rejected too, since the valid row is unknown.

    Args:
      source: folder of the archive.
      rate: sampling rate of the shards, in Hz.

    Raises:
      EtpError: a table is missing, truncated, not UTF-8, or lacks a column; or the rate is not supported.
    """
    if rate not in RATES:
        raise EtpError(f"rate {rate}: shards of MIMIC-IV-ECG are made at {' and '.join(map(str, RATES))} Hz")
    rows = list(read_rows(source / RECORDS, RECORD_COLUMNS, ADVICE))
    reports = _read_reports(source / MEASUREMENTS)
    counts = Counter(study for study, _, _ in rows)
    patients: dict[str, tuple[str, str]] = {}
    studies: list[ArchiveRecord] = []
    rejects: list[Reject] = []
    for study, subject, path in rows:
        if subject not in patients:
            patients[subject] = (numeric := numeric_id(subject)), hashed_split(numeric) if numeric else ""
        patient, split = patients[subject]  # all studies of a patient share one string
        with rejecting(rejects, study, split):
            report = _usable_report(study, subject, counts[study], reports)
            studies.append(
                ArchiveRecord(
                    record_id=study,
                    patient_id=patient,
                    split=split,
                    read=_Signal(source, path),
                    report=report.original,
                    labels=(),
                    likelihoods=(),
                    age=math.nan,
                    sex="",
                    statements=report.statements,
                    signal=path,
                )
            )
    return Archive(
        name="mimic_iv_ecg",
        fs=rate,
        samples=SECONDS * rate,
        leads=LEADS,
        label_vocabulary=(),
        studies=tuple(studies),
        rejects=tuple(rejects),
        recipe={"split": HASHED_SPLITS, "dropped statements": _PATTERNS},
        source={
            RECORDS: sha256(source / RECORDS),
            MEASUREMENTS: sha256(source / MEASUREMENTS),
            "signal sizes": sizes_sha(f"{source}/{path}.dat" for _, _, path in rows),
        },
    )


def clean_statements(cells: Iterable[str]) -> tuple[str, ...]:
    """Cleans the cells of a row, in order; technical, empty and repeated statements are dropped."""
    distinct: dict[str, str] = {}
    for cell in cells:
        statement = _clean_statement(cell)
        if statement:
            distinct.setdefault(statement.casefold(), statement)
    return tuple(distinct.values())


@cache
def _clean_statement(cell: str) -> str:
    """Strips a cell of ornament; returns an empty text if the cell is not about the heart."""
    text = _SUMMARY.sub("", " ".join(cell.split()).strip(_ORNAMENT), count=1) if cell else ""
    text = _EKG.sub("ECG", text)
    return text if re.search(r"\w", text) and not _TECHNICAL.fullmatch(text) else ""


@dataclass(frozen=True, slots=True)
class _Report:
    original: str
    """Original cells, one per line."""
    statements: tuple[str, ...]


def _read_reports(path: Path) -> dict[str, _Report | None]:
    """Reads the report of each study id; equal reports share one object; None if a study has several rows."""
    distinct: dict[str, _Report] = {}
    reports: dict[str, _Report | None] = {}
    for study, *cells in read_rows(path, ("study_id", *REPORT_COLUMNS), ADVICE):
        filled = [cell for cell in cells if not is_empty(cell)]
        original = "\n".join(filled)
        if original not in distinct:
            distinct[original] = _Report(original, clean_statements(filled))
        reports[study] = None if study in reports else distinct[original]
    return reports


def _usable_report(study: str, subject: str, rows: int, reports: dict[str, _Report | None]) -> _Report:
    """Returns the report of a row of the record list; raises EtpError if the record cannot be used."""
    if not re.fullmatch("[0-9]+", study):
        raise EtpError(f"record id: {study[:60]!r} is no number")
    if not numeric_id(subject):
        raise EtpError(f"patient: {subject[:60]!r} is no number")
    if rows > 1:
        raise EtpError(f"duplicate study: {rows} rows of {RECORDS}")
    if study not in reports:
        raise EtpError(f"no report: no row of {MEASUREMENTS}")
    report = reports[study]
    if report is None:
        raise EtpError(f"duplicate study: several rows of {MEASUREMENTS}")
    if not report.statements:
        raise EtpError("no report: it has no statement about the heart")
    return report


@dataclass(frozen=True, slots=True)
class _Signal:
    """Function object that reads the signal of a record."""

    source: Path
    path: str
    """Path of the record relative to `source`, without `.dat`."""

    def __call__(self) -> Recording:
        recording = read_wfdb(inside(self.source, self.path))
        if len(recording.signal) != SECONDS * recording.fs:
            raise EtpError(f"length: {len(recording.signal)} samples at {recording.fs:g} Hz instead of {SECONDS} s")
        return recording
