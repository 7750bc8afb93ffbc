"""Full verification of a shard folder, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.json_text import parse_json
from etp_jax.paths import read_file
from etp_jax.progress import Bar
from etp_jax.shards.index import index_row
from etp_jax.shards.reader import Shards, index_path
from etp_jax.shards.record import TEXT_LISTS, Record, decode_record, encode_record, text_fields
from etp_jax.shards.scan import verified_payloads
from etp_jax.shards.writer import METADATA, check_digest

OTHER_FIELDS = (*TEXT_LISTS, "likelihoods", "age", "lead_mask", "ecg")
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

    An index in `.index/` is compared with what the shards hold. Memory grows by some 50 bytes a record.

    Raises:
      EtpError: the first defect found; the message names the file, the record and what to do.
    """
    shards = Shards(folder)
    _check_tfds_metadata(shards)
    ids = []
    for split, expected in shards.splits.items():
        count, kept = 0, shards.split(split).kept_index()
        rows = None if kept is None else kept.rows()
        with Bar(total=expected, unit="record", desc=f"check {split}", delay=1, leave=False) as progress:
            for number, shard in enumerate(shards.shard_files(split)):
                ids.append(_check_shard(shards, split, number, rows))
                count += shard["records"]
                progress.update(shard["records"])
        if count != expected:
            raise EtpError(f"{shards.folder}: {split} holds {count} records, build.json says {expected}")
    patients = _check_ids(shards, ids)
    for name in METADATA:
        check_digest(shards.folder, shards.build, name)
    size = sum(shard["bytes"] for split in shards.splits for shard in shards.shard_files(split))
    return CheckSummary(shards.folder, shards.splits, patients, size, shards.fingerprint)


def _check_shard(shards: Shards, split: str, number: int, rows: Iterator[dict[str, Any]] | None) -> tuple[Any, Any]:
    """Verifies all records of a shard, and its rows of the index if there is one; returns the ids, as Arrow arrays."""
    import pyarrow as pa

    shard = shards.shard_files(split)[number]
    path = shards.folder / shard["file"]
    record_ids, patient_ids = [], []
    for start, payload in verified_payloads(path, shard):
        try:
            record = decode_record(memoryview(payload), len(shards.leads))
            # The encoding of a record is unique, so this comparison finds every deviation from the schema.
            if encode_record(record) != payload or (record.report_restored is not None) != shards.restored:
                raise ValueError("fields differ from the schema")
        except (ValueError, LookupError) as error:
            raise EtpError(
                f"{path}: the record at byte {start} does not follow this project's schema ({error})"
            ) from None
        if defect := _defect(record, shards):
            raise EtpError(f"{path}: record {record.record_id}: {defect}; prepare the shards again")
        if rows is not None and next(rows, None) != index_row(record, (number, start, len(payload))):
            where = index_path(shards.folder, split)
            raise EtpError(f"{where}: differs from the shards at record {record.record_id}; delete it")
        record_ids.append(record.record_id)
        patient_ids.append(record.patient_id)
    return pa.array(record_ids, pa.large_string()), pa.array(patient_ids, pa.large_string())


def _check_ids(shards: Shards, ids: Sequence[tuple[Any, Any]]) -> int:
    """Checks that no record appears twice and no patient is in two splits; returns the number of patients.

    Args:
      shards: the shard folder.
      ids: record ids and patient ids of each shard, as Arrow arrays, which take a fraction of the memory of a set.
    """
    files = [(split, shard) for split in shards.splits for shard in shards.shard_files(split)]
    shard_N = np.repeat(np.arange(len(files)), [shard["records"] for _, shard in files])
    names = list(shards.splits)
    split_N = np.array([names.index(split) for split, _ in files])[shard_N]
    (record_N, record_ids), (patient_N, patient_ids) = (_numbered(column) for column in zip(*ids, strict=True))

    def refuse(row: int, defect: str) -> EtpError:
        path = shards.folder / files[shard_N[row]][1]["file"]
        return EtpError(f"{path}: record {record_ids[record_N[row]]}: {defect}; prepare the shards again")

    # Ids are numbered in the order of their first appearance, so a new id has a number above all before it.
    repeated = np.flatnonzero(record_N[1:] <= np.maximum.accumulate(record_N)[:-1])
    if len(repeated):
        raise refuse(repeated[0] + 1, "its id appears twice")
    first = split_N[np.unique(patient_N, return_index=True)[1]]
    elsewhere = np.flatnonzero(first[patient_N] != split_N)
    if len(elsewhere):
        row = elsewhere[0]
        other, own = names[first[patient_N[row]]], names[split_N[row]]
        raise refuse(row, f"patient {patient_ids[patient_N[row]]} is in {other} and in {own}")
    return len(patient_ids)


def _numbered(columns: Sequence[Any]) -> tuple[NDArray[np.int32], Any]:
    """Numbers texts in the order of their first appearance; returns the number [N] of each, and the distinct texts."""
    import pyarrow as pa

    encoded = pa.chunked_array(columns, pa.large_string()).combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


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
            content = parse_json(read_file(path))
            if name == "features.json":
                agrees = set(content["featuresDict"]["features"]) == {*text_fields(shards.restored), *OTHER_FIELDS}
            else:
                lengths = {split["name"]: [int(n) for n in split["shardLengths"]] for split in content["splits"]}
                agrees = lengths == {
                    split: [shard["records"] for shard in shards.shard_files(split)] for split in shards.splits
                }
        except FileNotFoundError:
            raise EtpError(f"{path}: missing, so TFDS cannot open the folder; prepare the shards again") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EtpError(f"{path}: damaged ({error}); prepare the shards again") from None
        if not agrees:
            raise EtpError(f"{path}: does not describe these shards; prepare the shards again")
