"""One record of a shard folder: its fields, and its encoding as a `tf.train.Example`. No jax, no TensorFlow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.shards import tfrecord

FORMAT = 1
"""Version of the record schema and of `build.json`."""
BUILD_FILE = "build.json"
PART_FILE = "part.json"
"""What one of several machines wrote; `etp prep merge` joins such folders."""
TEXTS = ("record_id", "patient_id", "report", "report_original", "sex", "dataset")
TEXT_LISTS = ("statements", "labels", "features", "feature_evidence")


def patient_hash(patient_id: str) -> int:
    """A number of 256 bits by which patients are split and drawn: the same for every record, task and machine."""
    return int(hashlib.sha256(patient_id.encode()).hexdigest(), 16)


@dataclass(frozen=True, eq=False)
class Record:
    """One ECG with its report and labels."""

    ecg: NDArray[np.int16]
    """[T, leads], 1 µV a step, time-major; zero where the lead was not recorded."""
    lead_mask: NDArray[np.bool_]
    """[leads]; false: this lead was not recorded or is unusable."""
    record_id: str
    patient_id: str
    report: str
    """English, cleaned; empty if the record has none."""
    report_original: str
    statements: tuple[str, ...]
    """The parts of the report, in their order."""
    labels: tuple[str, ...]
    likelihoods: tuple[float, ...]
    """Parallel to `labels`, in percent, as the archive gives them (PTB-XL: 0 means present, likelihood unknown);
    -1 where the archive gives none."""
    age: float
    """Years; NaN if unknown."""
    sex: str
    """`male`, `female`, or empty if unknown."""
    dataset: str
    features: tuple[str, ...] = ()
    feature_evidence: tuple[str, ...] = ()


def encode_record(record: Record) -> bytes:
    """The record as a `tf.train.Example`; the signal stands last, so that all else can be read without it."""
    features: dict[str, tfrecord.Value] = {name: [getattr(record, name).encode()] for name in TEXTS}
    features |= {name: [text.encode() for text in getattr(record, name)] for name in TEXT_LISTS}
    features["likelihoods"] = np.array(record.likelihoods, np.float32)
    features["age"] = np.array([record.age], np.float32)
    features["lead_mask"] = np.asarray(record.lead_mask, np.int64)
    features["ecg"] = [np.ascontiguousarray(record.ecg, "<i2").tobytes()]
    return tfrecord.encode_example(features)


def decode_metadata(payload: memoryview) -> dict[str, Any]:
    """All fields of an encoded record but `ecg`; raises ValueError or KeyError if it is not one."""
    features = tfrecord.decode_example(payload)
    fields: dict[str, Any] = {name: tfrecord.bytes_list(features[name])[0].decode() for name in TEXTS}
    fields |= {name: tuple(text.decode() for text in tfrecord.bytes_list(features[name])) for name in TEXT_LISTS}
    fields["likelihoods"] = tuple(tfrecord.float_list(features["likelihoods"]).tolist())
    fields["age"] = float(tfrecord.float_list(features["age"])[0])
    fields["lead_mask"] = tfrecord.int64_list(features["lead_mask"]).astype(bool)
    return fields


def decode_record(payload: memoryview, leads: int) -> Record:
    """The inverse of `encode_record`; raises ValueError or KeyError if the payload is not a record."""
    (signal,) = tfrecord.bytes_list(tfrecord.decode_example(payload)["ecg"])
    return Record(ecg=np.frombuffer(signal, "<i2").reshape(-1, leads), **decode_metadata(payload))


@dataclass(frozen=True)
class SplitColumns:
    """Everything but the signals of a split, a list a field, in file order."""

    record_id: list[str]
    patient_id: list[str]
    report: list[str]
    report_original: list[str]
    statements: list[tuple[str, ...]]
    labels: list[tuple[str, ...]]
    likelihoods: list[tuple[float, ...]]
    features: list[tuple[str, ...]]
    feature_evidence: list[tuple[str, ...]]
    age: NDArray[np.float32]
    """[N] years, NaN if unknown."""
    sex: list[str]
    dataset: list[str]
    lead_mask: NDArray[np.bool_]
    """[N, leads]"""


TRAIN, VALIDATION, ALL = "train", "validation", "all"
"""`all`: the records of every split."""
