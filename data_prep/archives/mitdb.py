"""MIT-BIH Arrhythmia Database 1.0.0 (https://physionet.org/content/mitdb/1.0.0/): half-hour records, cut into windows.

The records have two leads and 360 Hz; two cardiologists annotated every beat (Moody and Mark 2001,
doi:10.1109/51.932724). A window is labelled with the set of beat types that it contains.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import wfdb

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
from etp_jax.data_prep.archives.cells import age_of
from etp_jax.ecg.channels import unreadable
from etp_jax.ecg.leads import LEADS, Recording
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.ecg.wfdb_header import find, read_header
from etp_jax.errors import EtpError
from etp_jax.paths import read_file, regular

BEATS = ("A", "L", "N", "R", "V")
"""Annotation codes of the beat types used as labels: atrial premature (A), left bundle branch block (L), normal (N),
right bundle branch block (R), premature ventricular (V)."""
SAME_PATIENT = {"202": "201"}
"""Records whose patient also has an earlier record, with that record."""
SEXES = {"M": "male", "F": "female"}
LONGEST = 24 * 3600
"""Longest record that is read, in seconds."""

_ABOUT = re.compile(r"#\s*(-?\d+) ([MF]) .*")


@dataclass(frozen=True)
class _Window:
    """Function object that reads a window of a record."""

    path: Path
    start: float
    """Start of the window in the record, in seconds."""
    seconds: int
    """Length of the window, in seconds."""

    def __call__(self) -> Recording:
        """Reads the window."""
        whole = _read_record(self.path)
        first = round(self.start * whole.fs)
        return replace(whole, signal=whole.signal[first : first + round(self.seconds * whole.fs)])


_read_record = lru_cache(maxsize=1)(read_wfdb)
"""Reader that caches the last record, since windows of one record are read one after the other."""


def open_archive(source: Path, rate: int = 100, seconds: int = 10) -> Archive:
    """Reads headers and annotations, but no signals.

    Windows are consecutive and do not overlap; the rest at the end of a record is not used. A window's record id
    consists of the record's name and the window's start in seconds.

    Args:
      source: folder with the `.hea`, `.dat` and `.atr` files of each record.
      rate: sampling rate of the shards, in Hz.
      seconds: length of a window, in seconds.

    Raises:
      EtpError: the folder holds no record, or rate or length is less than 1.
    """
    check_length(rate, seconds)
    paths = sorted(path.with_suffix("") for path in source.glob("*") if path.suffix.lower() == ".hea")
    if not paths:
        raise EtpError(f"{source}: holds no WFDB header (*.hea); --source must name a folder of the MIT-BIH records")
    studies: list[ArchiveRecord] = []
    rejects: list[Reject] = []
    digest = hashlib.sha256()
    for path in paths:
        patient = SAME_PATIENT.get(path.name, path.name)
        with rejecting(rejects, path.name, hashed_split(patient)):
            windows = _windows(path, patient, seconds)
            for suffix in (".hea", ".atr"):
                digest.update(read_file(find(path.with_suffix(suffix))))
            studies += windows
    return Archive(
        name="mitdb",
        fs=rate,
        samples=seconds * rate,
        leads=LEADS,
        label_vocabulary=BEATS,
        studies=tuple(studies),
        rejects=tuple(rejects),
        recipe={"split": HASHED_SPLITS, "windows": f"{seconds} s, no overlap", "same patient": SAME_PATIENT},
        source={
            "headers and annotations": digest.hexdigest(),
            "signal sizes": sizes_sha(str(find(p.with_suffix(".dat"))) for p in paths),
        },
    )


def _windows(path: Path, patient: str, seconds: int) -> list[ArchiveRecord]:
    """Returns the windows of a record; raises EtpError if its header or its annotations cannot be read."""
    with unreadable(path.name):
        header = read_header(path)
    duration = (header.samples or 0) / header.fs
    if not 0 < duration <= LONGEST:
        raise EtpError(f"unreadable signal: the header of {path.name} announces {duration:g} s, not half an hour")
    with unreadable(path.name, "annotations"):
        file = regular(find(path.with_suffix(".atr")))
        if not file.read_bytes().endswith(b"\0\0"):
            raise EtpError(f"unreadable annotations: {file.name} has no mark of its end; copy it again")
        annotation = wfdb.rdann(str(path), file.suffix[1:])
    beats: list[set[str]] = [set() for _ in range(int(duration // seconds))]
    for second, symbol in zip(np.asarray(annotation.sample) / header.fs, annotation.symbol or (), strict=True):
        if symbol in BEATS and 0 <= second < len(beats) * seconds:
            beats[int(second // seconds)].add(symbol)
    years, sex = next(map(re.Match.groups, filter(None, map(_ABOUT.fullmatch, header.comments))), ("-1", ""))
    age = age_of(years)  # -1 is unknown
    return [
        ArchiveRecord(
            record_id=f"{path.name}-{number * seconds:04d}",
            patient_id=patient,
            split=hashed_split(patient),
            read=_Window(path, number * seconds, seconds),
            report="",
            labels=tuple(sorted(found)),
            likelihoods=(-1.0,) * len(found),
            age=math.nan if age is None else age,
            sex=SEXES.get(sex, ""),
            statements=(),
        )
        for number, found in enumerate(beats)
    ]
