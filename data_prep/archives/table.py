"""Your own ECGs: a CSV table with one row per record, which holds the path of the signal file and the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from etp_jax.data_prep.archives.archive import HASHED_SPLITS, Archive, ArchiveRecord, Reject, hashed_split, sizes_sha
from etp_jax.data_prep.archives.csv_table import read_table
from etp_jax.data_prep.reports import split_english
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError

SPLITS = ("train", "validation", "test")
SEXES = {"male": "male", "m": "male", "female": "female", "f": "female", "w": "female"}
SEPARATORS = str.maketrans(",|", ";;")
"""Translation of all separators of labels (`;`, `,` or `|`) to `;`."""


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Names of the table's columns, for `etp prep table`."""

    signal_column: str
    """Column with the path of the signal file, absolute or relative to the table's folder."""
    report_column: str
    """Column with the report."""
    id_column: str | None = None
    """Column with the record id; without it, the path of the signal file is the id."""
    patient_column: str | None = None
    """Column with the patient id; without it, every record counts as one patient."""
    split_column: str | None = None
    """Column with the split (train, validation or test); without it, a hash of the patient id determines the split."""
    label_column: str | None = None
    """Column with the labels, separated by `;`, `,` or `|`."""
    age_column: str | None = None
    """Column with the age in years."""
    sex_column: str | None = None
    """Column with the sex: male, m, female, f or w."""


def open_archive(
    csv: Path,
    columns: TableColumns,
    layout: Layout,
    rate: int = 100,
    seconds: int = 10,
    translate: bool = False,
    name: str = "table",
) -> Archive:
    """Reads the table, but no signals.

    Args:
      csv: path of the table, in UTF-8.
      columns: names of the table's columns.
      layout: sampling rate, unit and leads of signal files that hold bare numbers.
      rate: sampling rate of the shards, in Hz.
      seconds: length of a record in the shards, in seconds.
      translate: whether the reports are German or Swedish, as worded in PTB-XL; otherwise they are English.
      name: name of the data set.

    Raises:
      EtpError: the table is missing, is not UTF-8, is empty, or lacks a column; or rate or length is less than 1.
    """
    if rate < 1 or seconds < 1:
        raise EtpError(f"rate {rate} Hz, {seconds} s: both must be at least 1")
    table, sha = read_table(csv, tuple(filter(None, asdict(columns).values())))
    studies, rejects = [], []
    for row in table.to_dict("records"):
        try:
            studies.append(_study(row, columns, layout, csv.parent, translate))
        except EtpError as error:
            rejects.append(Reject(row[columns.id_column or columns.signal_column], "", str(error)))
    return Archive(
        name=name,
        fs=rate,
        samples=seconds * rate,
        leads=LEADS,
        label_vocabulary=tuple(sorted({label for study in studies for label in study.labels})),
        studies=tuple(studies),
        rejects=tuple(rejects),
        recipe={
            "split": f"column {columns.split_column!r}" if columns.split_column else HASHED_SPLITS,
            "patients": f"column {columns.patient_column!r}"
            if columns.patient_column
            else "unknown: every record counts as one",
            "layout": asdict(layout) | {"leads": list(layout.leads)},
            "reports": "translated" if translate else "English",
        },
        source={
            "table": sha,
            "signal sizes": sizes_sha(_files(csv.parent / cell for cell in table[columns.signal_column])),
        },
    )


def _files(paths: Iterable[Path]) -> Iterable[str]:
    """Yields the file of each record that contains the signal, so that its size changes with the signal."""
    return (str(path.with_suffix(".dat")) if path.suffix in ("", ".hea") else str(path) for path in paths)


def _study(row: dict[str, str], columns: TableColumns, layout: Layout, folder: Path, translate: bool) -> ArchiveRecord:
    """Converts one row; raises EtpError if the record cannot be used."""
    named = {field.removesuffix("_column"): name for field, name in asdict(columns).items() if name is not None}
    cells = {field: row[name].strip() for field, name in named.items()}
    record = cells.get("id", cells["signal"])
    if not cells["signal"]:
        raise EtpError("signal: the cell is empty")
    if not record:
        raise EtpError("record id: empty")
    patient = cells.get("patient", record)
    if not patient:
        raise EtpError("patient: the cell is empty")
    split = cells.get("split", hashed_split(patient))
    if split not in SPLITS:
        raise EtpError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    labels = filter(None, map(str.strip, cells.get("label", "").translate(SEPARATORS).split(";")))
    found = tuple(dict.fromkeys(labels))
    return ArchiveRecord(
        record_id=record,
        patient_id=patient,
        split=split,
        read=partial(read_signal, folder / cells["signal"], layout),
        report=cells["report"],
        labels=found,
        likelihoods=(-1.0,) * len(found),
        age=_age(cells.get("age", "")),
        sex=SEXES.get(cells.get("sex", "").casefold(), ""),
        statements=None if translate else split_english(cells["report"]),
    )


def _age(text: str) -> float:
    """Parses an age in years; returns NaN if the cell holds no number."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
