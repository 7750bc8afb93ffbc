"""The record of a shard folder: its fields, and its encoding as a `tf.train.Example`.

Imports neither jax nor TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.shards import tfrecord

FORMAT = 1
"""Version of the record schema and of `build.json`."""
RESTORED_FORMAT = 2
"""Version where every record also has `report_restored`, as `etp waveform restore` writes them; all else is equal."""
RESTORED = "report_restored"
BUILD_FILE = "build.json"
PART_FILE = "part.json"
"""Metadata file of a part that one of several machines wrote; `etp shards merge` joins the parts."""
TEXTS = ("record_id", "patient_id", "report", "report_original", "sex", "dataset")
TEXT_LISTS = ("statements", "labels", "features", "feature_evidence")


def text_fields(restored: bool) -> tuple[str, ...]:
    """Returns the fields of a record that are one text each, in the order of their encoding."""
    return (*TEXTS, RESTORED) if restored else TEXTS


def patient_hash(patient_id: str) -> int:
    """A number of 256 bits by which patients are split and drawn: the same for every record, task and machine."""
    return int(hashlib.sha256(patient_id.encode()).hexdigest(), 16)


@dataclass(frozen=True, eq=False)
class Record:
    """One ECG with its report and labels."""

    ecg: NDArray[np.int16]
    """[T, leads] signal, 1 µV per unit, time-major; zero in leads that are masked."""
    lead_mask: NDArray[np.bool_]
    """[leads] whether each lead is usable; false if it was not recorded or is unusable."""
    record_id: str
    patient_id: str
    report: str
    """Cleaned English report; empty if the record has none."""
    report_original: str
    statements: tuple[str, ...]
    """Statements of which the report consists, in order."""
    labels: tuple[str, ...]
    likelihoods: tuple[float, ...]
    """Likelihood of each label, in percent, as in the archive (PTB-XL: 0 means present, likelihood unknown); -1 where
    the archive has none."""
    age: float
    """Age in years; NaN if unknown."""
    sex: str
    """Sex of the patient: `male`, `female`, or empty if unknown."""
    dataset: str
    features: tuple[str, ...] = ()
    feature_evidence: tuple[str, ...] = ()
    report_restored: str | None = None
    """`report` with the record's waveform features; None if none were looked for."""


def encode_record(record: Record) -> bytes:
    """Encodes a record as a `tf.train.Example`, with the signal last: all other fields can be read without it."""
    names = text_fields(record.report_restored is not None)
    features: dict[str, tfrecord.Value] = {name: [getattr(record, name).encode()] for name in names}
    features |= {name: [text.encode() for text in getattr(record, name)] for name in TEXT_LISTS}
    features["likelihoods"] = np.array(record.likelihoods, np.float32)
    features["age"] = np.array([record.age], np.float32)
    features["lead_mask"] = np.asarray(record.lead_mask, np.int64)
    features["ecg"] = [np.ascontiguousarray(record.ecg, "<i2").tobytes()]
    return tfrecord.encode_example(features)


def decode_metadata(payload: memoryview) -> dict[str, Any]:
    """Decodes all fields of a record except `ecg`; raises ValueError or KeyError if the payload is not a record."""
    features = tfrecord.decode_example(payload)
    names = text_fields(RESTORED in features)
    fields: dict[str, Any] = {name: tfrecord.bytes_list(features[name])[0].decode() for name in names}
    fields |= {name: tuple(text.decode() for text in tfrecord.bytes_list(features[name])) for name in TEXT_LISTS}
    fields["likelihoods"] = tuple(tfrecord.float_list(features["likelihoods"]).tolist())
    fields["age"] = float(tfrecord.float_list(features["age"])[0])
    fields["lead_mask"] = tfrecord.int64_list(features["lead_mask"]).astype(bool)
    return fields


def decode_record(payload: memoryview, leads: int) -> Record:
    """Decodes what `encode_record` encoded; raises ValueError or KeyError if the payload is not a record."""
    (signal,) = tfrecord.bytes_list(tfrecord.decode_example(payload)["ecg"])
    return Record(ecg=np.frombuffer(signal, "<i2").reshape(-1, leads), **decode_metadata(payload))


@dataclass(frozen=True)
class SplitColumns:
    """All fields of a split's records except the signals: one sequence or array per field, in file order.

    A sequence (`index.Column`) reads its values from the disk when they are used.
    """

    record_id: Sequence[str]
    patient_id: Sequence[str]
    report: Sequence[str]
    report_original: Sequence[str]
    statements: Sequence[tuple[str, ...]]
    labels: Sequence[tuple[str, ...]]
    likelihoods: Sequence[tuple[float, ...]]
    features: Sequence[tuple[str, ...]]
    feature_evidence: Sequence[tuple[str, ...]]
    age: NDArray[np.float32]
    """[N] ages in years; NaN if unknown."""
    sex: Sequence[str]
    dataset: Sequence[str]
    lead_mask: NDArray[np.bool_]
    """[N, leads] whether each lead is usable."""
    report_restored: Sequence[str] | None = None
    """Reports with restored waveform features; None in a folder without them."""


TRAIN, VALIDATION, ALL = "train", "validation", "all"
"""Names of splits; `all` means the records of every split."""
