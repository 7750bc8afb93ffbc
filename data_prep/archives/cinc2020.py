"""The training sets of the PhysioNet/Computing in Cardiology Challenges 2020 and 2021.

Sources: https://physionet.org/content/challenge-2020/ and https://physionet.org/content/challenge-2021/. The layout:
any tree of folders with WFDB records (`.hea`, `.mat`), whose headers carry `#Age`, `#Sex` and `#Dx`. There are no
reports. The St Petersburg set (I0001 ...) is not read: its labels belong to half an hour, not to ten seconds.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from etp_jax.data_prep.archives.archive import HASHED_SPLITS, Archive, ArchiveRecord, Reject, hashed_split, sizes_sha
from etp_jax.data_prep.archives.ptbxl import AGE_ABOVE_89, read_folds
from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
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
"""Data set of each first part of a record's name; the rest is its number."""
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
"""SNOMED CT code of each class of CPSC2018. The Challenge's first release wrote the class where the later ones write
the code. Its tables `dx_mapping_scored.csv` and `dx_mapping_unscored.csv` count these nine codes in CPSC2018 and no
other. (PVC is `ventricular ectopics` there, not the code that the tables abbreviate as PVC.)"""
NO_LABEL = ("", "Unknown", "NaN")
SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}
OLDEST = 120
"""Years; a greater age is none."""

_NAME = re.compile(r"(?P<set>[A-Z]+)(?P<number>\d{4,5})")
_COMMENT = re.compile(r"#\s*(Age|Sex|Dx)\s*:(.*)")


@dataclass(frozen=True)
class _Record:
    path: Path
    """Without `.hea`."""
    dataset: str
    comments: dict[str, str]
    """What the header says of `Age`, `Sex` and `Dx`."""

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
    """Reads the headers in a tree of folders; no signals yet.

    Copies of PTB-XL's records take the split of their fold, so that no record trains here and tests there. Of the other
    records nobody knows the patient; each counts as one.

    Args:
      source: the tree.
      rate: Hz, of the shards.
      seconds: length of a record in the shards.
      datasets: those of `DATASETS` to take; none: all.
      ptbxl_database: PTB-XL's `ptbxl_database.csv`; needed where copies of its records are taken.

    Raises:
      EtpError: no header there, the same record twice, an unknown data set, or folds that are needed and missing.
    """
    unknown = [name for name in datasets if name not in DATASETS.values()]
    if unknown:
        raise EtpError(f"no data set {unknown[0]!r} in the Challenges; there are {', '.join(DATASETS.values())}")
    if rate < 1 or seconds < 1:
        raise EtpError(f"rate {rate} Hz, {seconds} s: both must be at least 1")
    records, rejects, headers_sha = _read_headers(source, datasets)
    identity = {"headers": headers_sha, "signal sizes": sizes_sha(f"{record.path}.mat" for record in records)}
    folds: dict[int, tuple[str, str]] = {}
    if any(record.dataset == PTBXL for record in records):
        if ptbxl_database is None:
            raise EtpError(
                f"{source}: holds copies of PTB-XL's records, whose folds stand in ptbxl_database.csv; name that file "
                "with --ptbxl-database, or the other data sets with --dataset"
            )
        if not ptbxl_database.is_file():
            raise EtpError(f"{ptbxl_database}: no such file; --ptbxl-database names PTB-XL's ptbxl_database.csv")
        folds, identity["ptbxl_database.csv"] = read_folds(ptbxl_database)
    studies = []
    for record in records:
        split = ""
        try:
            patient, split = _home(record, folds)
            studies.append(_study(record, patient, split))
        except EtpError as error:
            rejects.append(Reject(record.name, split, str(error)))
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
    )


def _read_headers(source: Path, datasets: Sequence[str]) -> tuple[list[_Record], list[Reject], str]:
    """The chosen records in the order of their names, those of no known data set, and the SHA-256 of the headers."""
    paths = sorted(source.rglob("*.hea"), key=lambda path: path.stem)
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
                Reject(path.stem, "", f"record name: {path.stem} is of none of {', '.join(DATASETS.values())}")
            )
        if dataset is None or (datasets and dataset not in datasets):
            continue
        if records and records[-1].name == path.stem:
            raise EtpError(f"{path}: record {path.stem} lies in {records[-1].path.parent} too; remove one of them")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EtpError(f"{path}: {error.strerror}; put it right or remove it") from None
        digest.update(f"{path.stem} {len(content)} ".encode() + content)
        comments = dict(_COMMENT.findall(content.decode("utf-8", "replace")))
        texts = {key: text.strip() for key, text in comments.items()}
        records.append(_Record(path.with_suffix(""), dataset, texts))
    return records, rejects, digest.hexdigest()


def _home(record: _Record, folds: dict[int, tuple[str, str]]) -> tuple[str, str]:
    """Patient and split; EtpError for a copy of a PTB-XL record that PTB-XL does not hold (any more)."""
    if record.dataset != PTBXL:
        return record.name, hashed_split(record.name)
    ecg_id = int(record.name.removeprefix("HR"))
    if ecg_id not in folds:
        raise EtpError(f"fold: ptbxl_database.csv has no fold of ecg_id {ecg_id}")
    patient, split = folds[ecg_id]
    return f"{PTBXL}/{patient}", split


def _study(record: _Record, patient: str, split: str) -> ArchiveRecord:
    if "Dx" not in record.comments:
        raise EtpError("labels: the header has no #Dx line")
    labels = _codes(record.comments["Dx"])
    return ArchiveRecord(
        record_id=record.name,
        patient_id=patient,
        split=split,
        read=partial(read_wfdb, record.path),
        report="",
        labels=labels,
        likelihoods=(-1.0,) * len(labels),
        age=_age(record.comments.get("Age", "")),
        sex=SEXES.get(record.comments.get("Sex", "").casefold(), ""),
        statements=(),
        dataset=record.dataset,
    )


def _codes(text: str) -> tuple[str, ...]:
    """`59118001,164889003` or `RBBB,AF` → SNOMED CT codes, each once; EtpError for any other word."""
    codes = []
    for token in map(str.strip, text.split(",")):
        if token in NO_LABEL:
            continue
        code = token if re.fullmatch("[0-9]+", token) else CPSC2018_CODES.get(token)
        if code is None:
            raise EtpError(f"unknown code: {token!r} is neither a number nor one of {', '.join(CPSC2018_CODES)}")
        codes.append(code)
    return tuple(dict.fromkeys(codes))


def _age(text: str) -> float:
    """Years; NaN for what is none. The copies of PTB-XL may hide ages above 89 as PTB-XL does."""
    try:
        age = float(text)
    except ValueError:
        return math.nan
    if age == AGE_ABOVE_89:
        return 90.0
    return age if 0 <= age <= OLDEST else math.nan
