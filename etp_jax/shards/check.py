"""Reads a shard folder whole and verifies what can be verified."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.shards import tfrecord
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TEXT_LISTS, TEXTS, Record, decode_record, encode_record

FIELDS = {*TEXTS, *TEXT_LISTS, "likelihoods", "age", "lead_mask", "ecg"}
SEXES = ("male", "female", "")


@dataclass(frozen=True)
class CheckSummary:
    """What was read and found sound."""

    folder: Path
    splits: dict[str, int]
    """Records of each split."""
    patients: int
    bytes: int
    fingerprint: str

    def __str__(self) -> str:
        """The line that `etp check` prints."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        return (
            f"{self.folder}: sound; {sum(self.splits.values())} records ({splits}) of {self.patients} patients, "
            f"none in two splits; {self.bytes / 1e6:.1f} MB, fingerprint {self.fingerprint[:16]}"
        )


def check_shards(folder: str | Path) -> CheckSummary:
    """Verifies every CRC and checksum, the schema and rules of every record, all counts, and patients in two splits.

    Raises:
      EtpError: the first thing that is wrong: file, record and what to do.
    """
    shards = Shards(folder)
    _check_tfds_metadata(shards)
    seen: set[str] = set()
    home: dict[str, str] = {}
    for split, expected in shards.splits.items():
        count = 0
        for shard in shards.shard_files(split):
            path = shards.folder / shard["file"]
            for record in _records(path, shard, shards):
                trouble = _trouble(record, shards)
                if record.record_id in seen:
                    trouble = "its id appears twice"
                if home.setdefault(record.patient_id, split) != split:
                    trouble = f"patient {record.patient_id} is in {home[record.patient_id]} and in {split}"
                if trouble:
                    raise EtpError(f"{path}: record {record.record_id}: {trouble}; prepare the shards again")
                seen.add(record.record_id)
                count += 1
        if count != expected:
            raise EtpError(f"{shards.folder}: {split} holds {count} records, build.json says {expected}")
    size = sum(shard["bytes"] for split in shards.splits for shard in shards.shard_files(split))
    return CheckSummary(shards.folder, shards.splits, len(home), size, shards.fingerprint)


def _records(path: Path, shard: dict[str, Any], shards: Shards) -> list[Record]:
    """All records of a shard file, after CRCs, encoding, count and checksum have been verified."""
    data = path.read_bytes()
    records = []
    for start, payload in tfrecord.read_frames(data, str(path)):
        try:
            record = decode_record(payload, len(shards.leads))
            # There is one way to write a record, so this finds every deviation from the schema.
            if encode_record(record) != payload:
                raise ValueError("fields differ from the schema")
        except (ValueError, LookupError) as error:
            raise EtpError(f"{path}: the record at byte {start} is not this project's ({error})") from None
        records.append(record)
    if len(records) != shard["records"]:
        raise EtpError(f"{path}: holds {len(records)} records, build.json says {shard['records']}")
    if hashlib.sha256(data).hexdigest() != shard["sha256"]:
        raise EtpError(f"{path}: SHA-256 differs from build.json, so the file is of another build; prepare it again")
    return records


def _trouble(record: Record, shards: Shards) -> str:
    """What is wrong with a record; empty if nothing is."""
    if record.ecg.shape != (shards.samples, len(shards.leads)):
        return f"signal of shape {record.ecg.shape}, not {(shards.samples, len(shards.leads))}"
    if record.lead_mask.shape != (len(shards.leads),):
        return f"{len(record.lead_mask)} lead marks, not {len(shards.leads)}"
    if np.any(record.ecg[:, ~record.lead_mask]):
        return "a masked lead is not zero"
    if len(record.likelihoods) != len(record.labels):
        return f"{len(record.labels)} labels but {len(record.likelihoods)} likelihoods"
    unknown = sorted(set(record.labels) - set(shards.label_vocabulary))
    if unknown:
        return f"label {unknown[0]!r} is not in the label vocabulary"
    if len(record.features) != len(record.feature_evidence):
        return f"{len(record.features)} features but {len(record.feature_evidence)} pieces of evidence"
    if record.sex not in SEXES:
        return f"sex {record.sex!r}"
    return "" if record.record_id and record.patient_id else "no record or patient id"


def _check_tfds_metadata(shards: Shards) -> None:
    """Compares the files that TFDS reads with `build.json`."""
    for name in ("features.json", "dataset_info.json"):
        path = shards.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if name == "features.json":
                agrees = set(content["featuresDict"]["features"]) == FIELDS
            else:
                lengths = {split["name"]: [int(n) for n in split["shardLengths"]] for split in content["splits"]}
                agrees = lengths == {
                    split: [shard["records"] for shard in shards.shard_files(split)] for split in shards.splits
                }
        except FileNotFoundError:
            raise EtpError(f"{path}: missing, so TFDS cannot open the folder; prepare the shards again") from None
        except (ValueError, LookupError, TypeError) as error:
            raise EtpError(f"{path}: damaged ({error}); prepare the shards again") from None
        if not agrees:
            raise EtpError(f"{path}: does not describe these shards; prepare the shards again")
