"""Common form of all archives: studies, each an ECG with its report and labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from etp_jax.ecg.leads import Filters, Recording
from etp_jax.errors import EtpError, one_line
from etp_jax.shards.record import patient_hash

HASHED_SPLITS = "by SHA-256 of the patient id: 80 % train, 10 % validation, 10 % test"
"""Description of `hashed_split`, recorded in `build.json`."""


MAX_SAMPLES = 10_000_000
"""Most samples of a record: a day at 100 Hz has 8.6 million."""


def check_length(rate: int, seconds: int) -> None:
    """Raises EtpError for a rate or length below 1, and for more samples a record than `MAX_SAMPLES`."""
    if rate < 1 or seconds < 1 or rate * seconds > MAX_SAMPLES:
        raise EtpError(
            f"rate {rate} Hz, {seconds} s: both must be at least 1, and make at most {MAX_SAMPLES:,} samples"
        )


def hashed_split(patient_id: str) -> str:
    """Returns the split of a patient in an archive that has no splits of its own."""
    return {8: "validation", 9: "test"}.get(patient_hash(patient_id) % 10, "train")


def sizes_sha(files: Iterable[str]) -> str:
    """Computes the SHA-256 of the sizes of all signal files, which changes if files are added or completed later.

    The paths are strings and not `Path`s, since there may be 800,000.
    """
    digest, size = hashlib.sha256(), lru_cache(maxsize=64)(_size)  # many records may share a file
    for file in files:
        digest.update(b"%d " % size(file))
    return digest.hexdigest()


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size  # noqa: PTH116 - many times as fast as Path
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return -1


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """One record of an archive; kept small, since there may be 800,000.

    The signal is read only when `read` is called, in the process that calls it.
    """

    record_id: str
    patient_id: str
    split: str
    read: Callable[[], Recording]
    """Function that reads the signal; raises EtpError, `kind: detail`, if the signal cannot be used."""
    report: str
    """Report as in the archive, in the original language."""
    labels: tuple[str, ...]
    likelihoods: tuple[float, ...]
    """Likelihood of each label, in percent; -1 where the archive has none."""
    age: float
    """Age in years; NaN if unknown."""
    sex: str
    """Sex of the patient: `male`, `female`, or empty if unknown."""
    statements: tuple[str, ...] | None = None
    """Statements of the report in English; None if `report` must first be cleaned and translated."""
    dataset: str = ""
    """Part of the archive that the record belongs to; empty if the archive has no parts."""
    signal: str = ""
    """Path that the table gives for the signal; empty if there is no table."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is left out, and the reason."""

    record_id: str
    split: str
    reason: str
    """Reason, as `kind: detail`."""


@contextmanager
def rejecting(rejects: list[Reject], record_id: str, split: str = "") -> Iterator[None]:
    """Turns whatever goes wrong with one row or record into a reject that names it; the next one follows.

    Interrupts and too little memory are no faults of a record, and pass.

    Args:
      rejects: list that gets the reject.
      record_id: name of the row's record.
      split: split of the record, if it is known.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - one bad row never ends a build
        rejects.append(Reject(record_id, split, reason_of(error)))


def reason_of(error: Exception) -> str:
    """Returns the reason of a reject, as `kind: detail`."""
    return (
        str(error) if isinstance(error, EtpError) else f"unreadable record: {type(error).__name__}: {one_line(error)}"
    )


def kind_of(reason: str) -> str:
    """Returns the reason of a reject without its details."""
    return reason.split(":")[0]


@dataclass(frozen=True)
class Archive:
    """All studies of an archive, and the settings they share."""

    name: str
    """Name of the archive, with which the names of the shard files begin."""
    fs: int
    """Sampling rate of the shards, in Hz."""
    samples: int
    """Length of a record in the shards, in samples."""
    leads: tuple[str, ...]
    label_vocabulary: tuple[str, ...]
    studies: tuple[ArchiveRecord, ...]
    rejects: tuple[Reject, ...]
    """Records that were rejected without reading their signal."""
    recipe: dict[str, Any]
    """Description of how records are chosen and split, recorded in `build.json`."""
    source: dict[str, Any]
    """Checksums that identify the source, without paths, recorded in `build.json`."""
    filters: Filters = field(default_factory=Filters)
    """Filters that are applied to every signal."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Number of rows by what was assumed about the archive's tables, such as `age not understood`."""
    pseudonyms: Mapping[str, str] = field(default_factory=dict)
    """Description of how ids were replaced, recorded in `build.json`; empty if the ids are those of the archive."""
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of the records that the archive marks, by the name of the mark, such as `static noise`."""


def check_patients(archive: Archive) -> None:
    """Raises EtpError if a patient is in two splits."""
    split_of: dict[str, str] = {}
    for study in archive.studies:
        if split_of.setdefault(study.patient_id, study.split) != study.split:
            raise EtpError(f"{archive.name}: patient {study.patient_id} is in two splits; fix the source's table")
