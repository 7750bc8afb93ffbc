"""Your own ECGs: a CSV table with one row per record, which holds the path of the signal file and the report."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from etp_jax.data_prep.archives.archive import (
    HASHED_SPLITS,
    Archive,
    ArchiveRecord,
    Reject,
    check_length,
    hashed_split,
    rejecting,
    sizes_sha,
)
from etp_jax.data_prep.archives.cells import (
    age_of,
    flag_of,
    is_empty,
    labels_of,
    not_understood,
    patient_of,
    report_of,
    sex_of,
)
from etp_jax.data_prep.archives.csv_table import read_own_table
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.data_prep.reports import split_english
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import ROW_READERS, read_signal, split_row
from etp_jax.errors import EtpError
from etp_jax.paths import inside

SPLITS = ("train", "validation", "test")


def open_archive(
    csv: Path,
    columns: TableColumns,
    layout: Layout,
    rate: int = 100,
    seconds: int = 10,
    translate: bool = False,
    name: str = "table",
    root: Path | None = None,
) -> Archive:
    """Reads the table, but no signals.

    Args:
      csv: path of the table: CSV in UTF-8, UTF-16 or Windows-1252, separated by commas, semicolons, tabs or bars.
      columns: names of the table's columns.
      layout: sampling rate, unit and leads of signal files that do not state them.
      rate: sampling rate of the shards, in Hz.
      seconds: length of a record in the shards, in seconds.
      translate: whether the reports are German or Swedish, as worded in PTB-XL; otherwise they are English.
      name: name of the data set.
      root: folder that the paths of the signal files must be inside; the table's folder if None.

    Raises:
      EtpError: the table is missing, is empty, or lacks a column; rate or length is less than 1; the name or the layout
        is not valid.
    """
    check_length(rate, seconds)
    check_name(name)
    layout.check()
    names = tuple(dict.fromkeys((*columns.named.values(), *columns.label_columns)))
    table = read_own_table(csv, names)
    rows = table.rows
    notes = Counter(dict.fromkeys(table.notes, len(rows)))
    folder = csv.parent if root is None else root
    known = _known_labels(row[columns.label_column] for row in rows) if columns.label_column else frozenset()
    studies: list[ArchiveRecord] = []
    patients: dict[str, str] = {}
    rejects = [Reject(line, "", fault) for line, fault in table.faults]
    for row in rows:
        with rejecting(rejects, _record_id(row, columns)):
            study, found = _study(row, columns, known, patients, translate, folder, layout)
            studies.append(study)
            notes.update(found)
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
            "layout": {"fs": layout.fs, "unit": layout.unit or "mV", "leads": list(layout.named)},
            "reports": "translated" if translate else "English",
        },
        source={
            "table": table.sha,
            "signal sizes": sizes_sha(_files(folder / row[columns.signal_column] for row in rows)),
        },
        notes=notes,
    )


def check_name(name: str) -> None:
    """Raises EtpError if TFDS does not accept the name of a data set."""
    if not re.fullmatch(r"[a-zA-Z]\w*", name, re.ASCII):
        valid = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
        valid = valid if valid[:1].isalpha() else f"ecg_{valid}".rstrip("_")
        raise EtpError(f"--name {name!r}: TFDS takes letters, digits and _ only, a letter first; take {valid!r}")


def _files(paths: Iterable[Path]) -> Iterable[str]:
    """Yields the file of each record that contains the signal, so that its size changes with the signal."""
    paths = (split_row(path)[0] if "#" in path.name else path for path in paths)
    return (f"{str(path).removesuffix('.hea')}.dat" if path.suffix in ("", ".hea") else str(path) for path in paths)


def _known_labels(cells: Iterable[str]) -> frozenset[str]:
    """Returns all labels of a column, also those of rows that will be rejected."""
    known: set[str] = set()
    for cell in set(cells):
        with suppress(Exception):  # its row will be rejected
            known |= labels_of(cell).keys()
    return frozenset(known)


def _study(
    row: dict[str, str],
    columns: TableColumns,
    known: frozenset[str],
    patients: dict[str, str],
    translate: bool,
    folder: Path,
    layout: Layout,
) -> tuple[ArchiveRecord, list[str]]:
    """Converts one row; also returns what was assumed. Raises EtpError if the record cannot be used.

    `known` are the labels of all rows; `patients` are the patients so far, by their id in lower case.
    """
    cells = {field: row[name].strip() for field, name in columns.named.items()}
    record = _record_id(row, columns)
    if not cells["signal"]:
        raise EtpError("signal: the cell is empty")
    if "\0" in cells["signal"]:
        raise EtpError("signal: the path contains a NUL character")
    try:
        path = inside(folder, _signal(cells), "signal")
    except EtpError as error:
        raise EtpError(f"{error}; --root names another folder") from None
    if "row" in cells and is_empty(cells["row"]):
        raise EtpError("row: the cell is empty")
    if "row" in cells and not cells["signal"].lower().endswith(tuple(ROW_READERS)):
        raise EtpError(f"row: {cells['signal']} holds no rows; files that do are {', '.join(ROW_READERS)}")
    if is_empty(record):
        raise EtpError("record id: empty")
    stated = patient_of(cells["patient"]) if "patient" in cells else record
    patient = patients.setdefault(stated.casefold(), stated) if "patient" in cells else record
    split = cells.get("split", hashed_split(patient))
    if split not in SPLITS:
        raise EtpError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    labels, separated = _separate(labels_of(row[columns.label_column]) if columns.label_column else {}, known)
    flags, unknown = _flags(row, columns.label_columns)
    labels |= flags
    sex = sex_of(cells.get("sex", ""), columns.sex_column or "")
    age, report = age_of(cells.get("age", "")), report_of(cells.get("report", ""))
    notes = ["patient ids without leading zeros and .0"] * (stated != cells.get("patient", record))
    notes += ["patient ids that differ in upper and lower case are one patient"] * (patient != stated)
    notes += ["labels separated by blanks"] * separated
    notes += ["labels with likelihood 0 count as present"] * (0 in labels.values())
    notes += [f"empty cell of label {name} counts as absent" for name in unknown]
    notes += not_understood(age, sex)
    study = ArchiveRecord(
        record_id=record,
        patient_id=patient,
        split=split,
        read=partial(read_signal, path, layout),
        report=report,
        labels=tuple(labels),
        likelihoods=tuple(labels.values()),
        age=math.nan if age is None else age,
        sex=sex or "",
        statements=None if translate else split_english(report) if report else (),
        signal=str(path),
    )
    return study, notes


def _record_id(row: dict[str, str], columns: TableColumns) -> str:
    """Returns the id of a record: that of the table, or else the path of its signal."""
    if columns.id_column:
        return row[columns.id_column].strip()
    return _signal({field: row[name].strip() for field, name in columns.named.items()})


def _signal(cells: dict[str, str]) -> str:
    """Returns the path of a record's signal, as `read_signal` takes it: FILE, or FILE#ROW."""
    return f"{cells['signal']}#{cells['row']}" if "row" in cells else cells["signal"]


def _flags(row: dict[str, str], columns: tuple[str, ...]) -> tuple[dict[str, float], list[str]]:
    """Returns the labels whose columns are true, and those whose cell is empty; raises EtpError for other cells."""
    labels, unknown = {}, []
    for name in columns:
        flag = flag_of(row[name])
        if flag:
            labels[name] = -1.0
        elif flag is None and is_empty(row[name]):
            unknown.append(name)
        elif flag is None:
            raise EtpError(f"labels: {row[name]!r} in column {name} is neither true nor false")
    return labels, unknown


def _separate(labels: dict[str, float], known: frozenset[str]) -> tuple[dict[str, float], bool]:
    """Divides `AF LBBB` into two labels if both are labels of other records; also returns whether one was divided."""
    divided: dict[str, float] = {}
    for label, likelihood in labels.items():
        words = label.split()
        whole = len(words) == 1 or not known.issuperset(words)
        divided |= dict.fromkeys([label] if whole else words, likelihood)
    return divided, divided.keys() != labels.keys()
