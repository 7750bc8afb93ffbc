"""Full verification of a shard folder, byte by byte."""

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
    """Contents of a shard folder that passed the check."""

    folder: Path
    splits: dict[str, int]
    """Number of records in each split."""
    patients: int
    bytes: int
    fingerprint: str

    def __str__(self) -> str:
        """Returns the line that `etp shards check` prints."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        return (
            f"{self.folder}: sound; {sum(self.splits.values())} records ({splits}) of {self.patients} patients, "
            f"none in two splits; {self.bytes / 1e6:.1f} MB, fingerprint {self.fingerprint[:16]}"
        )


def check_shards(folder: str | Path) -> CheckSummary:
    """Verifies CRCs, checksums, the schema and rules of every record, all counts, and that splits share no patient.

    Raises:
      EtpError: the first defect found; the message names the file, the record and what to do.
    """
    shards = Shards(folder)
    _check_tfds_metadata(shards)
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    for split, expected in shards.splits.items():
        count = 0
        for shard in shards.shard_files(split):
            path = shards.folder / shard["file"]
            for record in _records(path, shard, shards):
                defect = _defect(record, shards)
                if record.record_id in seen:
                    defect = "its id appears twice"
                if split_of.setdefault(record.patient_id, split) != split:
                    defect = f"patient {record.patient_id} is in {split_of[record.patient_id]} and in {split}"
                if defect:
                    raise EtpError(f"{path}: record {record.record_id}: {defect}; prepare the shards again")
                seen.add(record.record_id)
                count += 1
        if count != expected:
            raise EtpError(f"{shards.folder}: {split} holds {count} records, build.json says {expected}")
    size = sum(shard["bytes"] for split in shards.splits for shard in shards.shard_files(split))
    return CheckSummary(shards.folder, shards.splits, len(split_of), size, shards.fingerprint)


def _records(path: Path, shard: dict[str, Any], shards: Shards) -> list[Record]:
    """Reads all records of a shard file and verifies its CRCs, encoding, record count and checksum."""
    data = path.read_bytes()
    records = []
    for start, payload in tfrecord.read_frames(data, str(path)):
        try:
            record = decode_record(payload, len(shards.leads))
            # The encoding of a record is unique, so this comparison finds every deviation from the schema.
            if encode_record(record) != payload:
                raise ValueError("fields differ from the schema")
        except (ValueError, LookupError) as error:
            raise EtpError(
                f"{path}: the record at byte {start} does not follow this project's schema ({error})"
            ) from None
        records.append(record)
    if len(records) != shard["records"]:
        raise EtpError(f"{path}: holds {len(records)} records, build.json says {shard['records']}")
    if hashlib.sha256(data).hexdigest() != shard["sha256"]:
        raise EtpError(
            f"{path}: SHA-256 differs from build.json, so the file belongs to another build; prepare it again"
        )
    return records


def _defect(record: Record, shards: Shards) -> str:
    """Describes the first defect of a record; returns an empty text if there is none."""
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
    """Checks that the files that TFDS reads agree with `build.json`."""
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
