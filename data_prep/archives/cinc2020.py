"""The training sets of the PhysioNet/Computing in Cardiology Challenges 2020 and 2021.

Sources: https://physionet.org/content/challenge-2020/ and https://physionet.org/content/challenge-2021/. The layout is
any tree of folders with WFDB records (`.hea`, `.mat`), whose headers contain `#Age`, `#Sex` and `#Dx`. There are no
reports. The St Petersburg set (I0001 ...) is not read, because its labels describe half an hour, not ten seconds.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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
from etp_jax.data_prep.archives.cells import not_understood, sex_of
from etp_jax.data_prep.archives.ptbxl import masked_age, read_folds
from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from etp_jax.paths import read_file
from etp_jax.progress import Bar

PTBXL = "ptb-xl"
DATASETS = {
    "A": "cpsc_2018",
    "Q": "cpsc_2018_extra",
    "E": "georgia",
    "S": "ptb",
    "HR": PTBXL,
    "JS": "chapman_shaoxing_ningbo",
}
"""Data set for each prefix of a record's name; the rest of the name is a number."""
CPSC2018_CODES = {
    "Normal": "426783006",
    "AF": "164889003",
    "I-AVB": "270492004",
    "LBBB": "164909002",
    "RBBB": "59118001",
    "PAC": "284470004",
    "PVC": "164884008",
    "STD": "429622005",
    "STE": "164931005",
}
"""SNOMED CT code of each class of CPSC2018. The Challenge's first release gives the class where later releases give the
code. Its tables `dx_mapping_scored.csv` and `dx_mapping_unscored.csv` count these nine codes in CPSC2018 and no others.
(PVC is `ventricular ectopics` there, not the code that the tables abbreviate as PVC.)"""
NO_VALUE = ("", "Unknown", "NaN")

_NAME = re.compile(r"(?P<set>[A-Z]+)(?P<number>\d{4,5})")
_COMMENT = re.compile(r"^#\s*(Age|Sex|Dx)\s*:(.*)", re.MULTILINE)


@dataclass(frozen=True)
class _Record:
    path: Path
    """Path of the record, without `.hea`."""
    dataset: str
    comments: dict[str, set[str]]
    """Texts of the header's comments `Age`, `Sex` and `Dx`, each once."""

    @property
    def name(self) -> str:
        return self.path.name


def open_archive(
    source: Path,
    rate: int = 100,
    seconds: int = 10,
    datasets: Sequence[str] = (),
    ptbxl_database: Path | None = None,
) -> Archive:
    """Reads the headers in a tree of folders, but no signals.

    Copies of PTB-XL's records get the split of their fold, so that no record is used for training here and for testing
    in PTB-XL. The patients of the other records are unknown, so each record counts as one patient.

    Args:
      source: root of the tree of folders.
      rate: sampling rate of the shards, in Hz.
      seconds: length of a record in the shards, in seconds.
      datasets: data sets to read, of `DATASETS`; all if empty.
      ptbxl_database: PTB-XL's `ptbxl_database.csv`; required if copies of its records are read.

    Raises:
      EtpError: there is no header, a record occurs twice, a data set is unknown, or required folds are missing.
    """
    unknown = [name for name in datasets if name not in DATASETS.values()]
    if unknown:
        raise EtpError(f"no data set {unknown[0]!r} in the Challenges; there are {', '.join(DATASETS.values())}")
    check_length(rate, seconds)
    records, rejects, headers_sha = _read_headers(source, datasets)
    identity = {"headers": headers_sha, "signal sizes": sizes_sha(f"{record.path}.mat" for record in records)}
    folds: dict[int, tuple[str, str]] = {}
    if any(record.dataset == PTBXL for record in records):
        if ptbxl_database is None:
            raise EtpError(
                f"{source}: holds copies of PTB-XL's records, whose folds are in ptbxl_database.csv; name that file "
                "with --ptbxl-database, or the other data sets with --dataset"
            )
        if not ptbxl_database.is_file():
            raise EtpError(f"{ptbxl_database}: no such file; --ptbxl-database names PTB-XL's ptbxl_database.csv")
        folds, identity["ptbxl_database.csv"] = read_folds(ptbxl_database)
    studies: list[ArchiveRecord] = []
    notes: Counter[str] = Counter()
    for record in records:
        with rejecting(rejects, record.name):
            patient, split = _patient_and_split(record, folds)
            with rejecting(rejects, record.name, split):
                study, found = _study(record, patient, split)
                studies.append(study)
                notes.update(found)
    return Archive(
        name="cinc2020",
        fs=rate,
        samples=seconds * rate,
        leads=LEADS,
        label_vocabulary=tuple(sorted({code for study in studies for code in study.labels})),
        studies=tuple(studies),
        rejects=tuple(rejects),
        recipe={
            "split": HASHED_SPLITS,
            "patients": "unknown: the record id stands for the patient",
            PTBXL: "patient and fold (1-8 train, 9 validation, 10 test) of ptbxl_database.csv, by record name",
            "data sets": sorted({record.dataset for record in records}),
        },
        source=identity,
        notes=notes,
    )


def _read_headers(source: Path, datasets: Sequence[str]) -> tuple[list[_Record], list[Reject], str]:
    """Reads the chosen records, sorted by name; also returns rejects of unknown data sets and the headers' SHA-256."""
    headers = (path for path in source.rglob("*") if path.suffix.lower() == ".hea")
    paths = sorted(headers, key=lambda path: path.stem)
    if not paths:
        raise EtpError(f"{source}: holds no WFDB header (*.hea); --source must name a folder of the Challenge's layout")
    records: list[_Record] = []
    rejects = []
    digest = hashlib.sha256()
    for path in Bar(paths, "read headers", unit="header"):
        name = _NAME.fullmatch(path.stem)
        dataset = DATASETS.get(name["set"]) if name else None
        if dataset is None and not datasets:
            rejects.append(
                Reject(path.stem, "", f"record name: {path.stem} is not part of any of {', '.join(DATASETS.values())}")
            )
        if dataset is None or (datasets and dataset not in datasets):
            continue
        if records and records[-1].name == path.stem:
            raise EtpError(f"{path}: record {path.stem} is also in {records[-1].path.parent}; remove one of them")
        try:
            content = read_file(path)
        except OSError as error:
            raise EtpError(f"{path}: {error.strerror}; fix or remove it") from None
        digest.update(f"{path.stem} {len(content)} ".encode() + content)
        comments: dict[str, set[str]] = {"Age": set(), "Sex": set(), "Dx": set()}
        for key, text in _COMMENT.findall(content.decode("utf-8", "replace")):
            comments[key].add(text.strip())
        records.append(_Record(path.with_suffix(""), dataset, comments))
    return records, rejects, digest.hexdigest()


def _patient_and_split(record: _Record, folds: dict[int, tuple[str, str]]) -> tuple[str, str]:
    """Returns patient and split; raises EtpError for a copy of a PTB-XL record that is not (or no longer) in PTB-XL."""
    if record.dataset != PTBXL:
        return record.name, hashed_split(record.name)
    ecg_id = int(record.name.removeprefix("HR"))
    if ecg_id not in folds:
        raise EtpError(f"fold: ptbxl_database.csv has no fold of ecg_id {ecg_id}")
    patient, split = folds[ecg_id]
    return f"{PTBXL}/{patient}", split


def _study(record: _Record, patient: str, split: str) -> tuple[ArchiveRecord, list[str]]:
    """Converts one record; also returns what was assumed. Raises EtpError if it cannot be used."""
    if not record.comments["Dx"]:
        raise EtpError("labels: the header has no #Dx line")
    if several := [key for key, texts in record.comments.items() if len(texts) > 1]:
        raise EtpError(f"header: its #{several[0]} lines differ")
    labels = _codes(*record.comments["Dx"])
    age, sex = _age(*record.comments["Age"]), _sex(*record.comments["Sex"])
    study = ArchiveRecord(
        record_id=record.name,
        patient_id=patient,
        split=split,
        read=partial(read_wfdb, record.path),
        report="",
        labels=labels,
        likelihoods=(-1.0,) * len(labels),
        age=math.nan if age is None else age,
        sex=sex or "",
        statements=(),
        dataset=record.dataset,
    )
    return study, not_understood(age, sex)


def _codes(text: str) -> tuple[str, ...]:
    """Parses `59118001,164889003` or `RBBB,AF` as distinct SNOMED CT codes; raises EtpError for any other word."""
    codes = []
    for token in map(str.strip, text.split(",")):
        if token in NO_VALUE:
            continue
        code = token if re.fullmatch("[0-9]+", token) else CPSC2018_CODES.get(token)
        if code is None:
            raise EtpError(f"unknown code: {token!r} is neither a number nor one of {', '.join(CPSC2018_CODES)}")
        codes.append(code)
    return tuple(dict.fromkeys(codes))


def _age(text: str = "") -> float | None:
    """Parses an age in years; NaN if it is unknown, None if it is not valid."""
    return math.nan if text in NO_VALUE else masked_age(text)


def _sex(text: str = "") -> str | None:
    """Parses a sex; an empty text if it is unknown, None if it is not valid."""
    return "" if text in NO_VALUE else sex_of(text)
