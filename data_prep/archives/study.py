"""What every archive is turned into: studies, each an ECG with its report and labels, and how to read WFDB signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wfdb

from etp_jax.errors import EtpError
from etp_jax.signal import MICROVOLT, Recording


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


def read_wfdb(path: Path) -> Recording:
    """Reads a WFDB record (path without `.hea`).

    Raises:
      EtpError: files are missing, cut or damaged, or the unit is not a voltage; `kind: detail`.
    """
    try:
        record: Any = wfdb.rdrecord(str(path), physical=False)
        signal = record.dac()
        sums = record.calc_checksum()
    except FileNotFoundError as error:
        raise EtpError(f"missing file: {Path(error.filename or path).name}") from None
    # What wfdb raises on damaged headers and cut signal files; it has no exception of its own.
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None
    for channel, found, noted in zip(record.sig_name, sums, record.checksum, strict=True):
        if noted is not None and (found - noted) % 2**16:  # the header may give it signed
            raise EtpError(f"checksum: lead {channel} of {path.name} differs from the header")
    unknown = sorted(set(record.units) - set(MICROVOLT))
    if unknown:
        raise EtpError(f"unit: {path.name} is in {unknown[0]!r}, not in one of {', '.join(MICROVOLT)}")
    scale = np.array([MICROVOLT[unit] for unit in record.units])
    return Recording(signal * scale, float(record.fs), tuple(record.sig_name))
