"""What every archive is turned into: studies, each an ECG with its report and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etp_jax.signal import Recording


@dataclass(frozen=True)
class Study:
    """One record of an archive. The signal is read only when `read` is called, in whatever process does so."""

    record_id: str
    patient_id: str
    split: str
    read: Callable[[], Recording]
    """Reads the signal; raises EtpError if it cannot be used, the kind of trouble before the first colon."""
    report: str
    """As the archive gives it."""
    labels: tuple[str, ...]
    likelihoods: tuple[float, ...]
    age: float
    sex: str


@dataclass(frozen=True)
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
    studies: tuple[Study, ...]
    rejects: tuple[Reject, ...]
    """Records that can be seen to be unusable without their signal."""
    recipe: dict[str, Any]
    """How records are chosen and split; goes into `build.json`."""
    source: dict[str, Any]
    """What identifies the source, without paths; goes into `build.json`."""
