"""What every archive is turned into: studies, each an ECG with its report and labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from etp_jax.ecg.leads import Filters, Recording
from etp_jax.shards.record import patient_hash

HASHED_SPLITS = "by SHA-256 of the patient id: 80 % train, 10 % validation, 10 % test"
"""How `hashed_split` splits, for `build.json`."""


def hashed_split(patient_id: str) -> str:
    """The split of a patient in an archive that comes without splits."""
    return {8: "validation", 9: "test"}.get(patient_hash(patient_id) % 10, "train")


def sizes_sha(files: Iterable[str]) -> str:
    """SHA-256 of the sizes of all signal files: files that are added or completed later make another source.

    The paths are text since there may be 800,000.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            size = os.stat(file).st_size  # noqa: PTH116 - many times as fast as Path
        except OSError:
            size = -1
        digest.update(b"%d " % size)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """One record of an archive; slim, as there may be 800,000.

    The signal is read only when `read` is called, in whatever process does so.
    """

    record_id: str
    patient_id: str
    split: str
    read: Callable[[], Recording]
    """Reads the signal; raises EtpError if it cannot be used, the kind of trouble before the first colon."""
    report: str
    """As the archive gives it."""
    labels: tuple[str, ...]
    likelihoods: tuple[float, ...]
    """Parallel to the labels; -1 where the archive gives none."""
    age: float
    """Years; NaN if unknown."""
    sex: str
    """`male`, `female` or empty."""
    statements: tuple[str, ...] | None = None
    """The report's parts in English; None if they have to be made from `report`, which may be in another language."""
    dataset: str = ""
    """The part of the archive it comes from; empty if the archive has no parts."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is left out, and why."""

    record_id: str
    split: str
    reason: str
    """`kind: detail`."""


@dataclass(frozen=True)
class Archive:
    """All studies of an archive and what they have in common."""

    name: str
    fs: int
    """Hz, of the shards."""
    samples: int
    """Length of a record in the shards."""
    leads: tuple[str, ...]
    label_vocabulary: tuple[str, ...]
    studies: tuple[ArchiveRecord, ...]
    rejects: tuple[Reject, ...]
    """Records that can be seen to be unusable without their signal."""
    recipe: dict[str, Any]
    """How records are chosen and split; goes into `build.json`."""
    source: dict[str, Any]
    """What identifies the source, without paths; goes into `build.json`."""
    filters: Filters = field(default_factory=Filters)
    """Applied to every signal."""
