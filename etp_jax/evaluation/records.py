"""The records of a task in a shard folder, with their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards, Split
from etp_jax.shards.record import ALL, patient_hash
from etp_jax.tasks import Task, check_vocabulary, labels
from etp_jax.tasks.published import PUBLISHED_SPLIT, PublishedSplit, labels_digest

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

PUBLISHED = "published"
"""Field of a result's protocol with the digest of published labels."""


@dataclass(frozen=True)
class Labelled:
    """A selection of n records with their classes."""

    splits: tuple[Split, ...]
    """Splits the records were drawn from."""
    rows: NDArray[np.int64]
    """Positions [n] in ascending order, counted through the concatenated splits."""
    record_ids: NDArray[np.str_]
    """Record identifiers [n]."""
    patients: NDArray[np.str_]
    """Patient identifiers [n]."""
    y_nC: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.rows)

    def where(self, chosen: NDArray) -> Labelled:
        """Returns a subset, by boolean mask or index array."""
        return Labelled(
            self.splits, self.rows[chosen], self.record_ids[chosen], self.patients[chosen], self.y_nC[chosen]
        )

    def calibration_patients(self) -> NDArray[np.bool_]:
        """Mask [n] of the records of a tenth of all patients, chosen by a hash, so they are the same for every task.

        Archives without published splits are split by the same hash; there it is an eighth of the training patients.
        """
        parts = {patient: patient_hash(patient) % 10 for patient in set(self.patients)}
        return np.array([parts[patient] == 0 for patient in self.patients], bool)

    def read(self, chosen: NDArray[np.integer]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Reads signals int16 [b, T, leads] and lead masks [b, leads] of the records with the given numbers."""
        rows, start = self.rows[chosen], 0
        shards = self.splits[0].shards
        ecg_bTL = np.empty((len(rows), shards.samples, len(shards.leads)), np.int16)
        lead_mask_bL = np.empty((len(rows), len(shards.leads)), bool)
        for split in self.splits:
            here = (rows >= start) & (rows < start + len(split))
            ecg_bTL[here] = split.ecg(rows[here] - start)
            lead_mask_bL[here] = split.columns.lead_mask[rows[here] - start]
            start += len(split)
        return ecg_bTL, lead_mask_bL

    def encode(self, encoder: Encoder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Computes pooled features [n, F] and unit embeddings [n, E]."""
        features_nF, embeddings_nE = self.gather(encoder.ecg)
        return features_nF, embeddings_nE

    def gather(self, compute: Callable[[Split], tuple[NDArray[np.float32], ...]]) -> list[NDArray[np.float32]]:
        """Selects these records, [n, ...], from arrays that `compute` gives for all records of a split, [N, ...]."""
        parts, start = [], 0
        for split in self.splits:
            own = self.rows[(self.rows >= start) & (self.rows < start + len(split))] - start
            if len(own):
                parts.append([array[own] for array in compute(split)])
            start += len(split)
        return list(map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True)
class TaskRecords:
    """Source of a task's records: the shards' own splits, or published ones."""

    shards: Shards
    task: Task
    published: Mapping[str, PublishedSplit] | None = None
    """Published records and labels by split; the shards may hold these records in any split."""
    rare: tuple[str, ...] | None = None
    """Codes of the classes that a protocol left out of the task because they are rare; None: it leaves none out."""

    def of(self, split: str) -> Labelled:
        """Selects the task's records of a split.

        A balanced task draws equal numbers of each class with a fixed seed: the rarest class's number, at most
        `task.max_per_class`.

        Raises:
          EtpError: there is no such split, no record of it has a label of the task, or a class of a balanced task has
            no record.
        """
        if self.published is not None:
            return self._published(split)[0]
        everyone, keep_N = self._everyone(split)
        where = f"{self.shards.folder}: no record of split {split!r} has"
        if not keep_N.any():
            only = f" and is of data set {self.task.archive!r}" if self.task.archive else ""
            raise EtpError(f"{where} a label of {self.task.name}{only}")
        eligible = everyone.where(keep_N)
        if self.task.max_per_class is None:
            return eligible
        for c, count in zip(self.task.classes, eligible.y_nC.sum(axis=0), strict=True):
            if count == 0:
                raise EtpError(f"{where} {c.code} as its only label; {self.task.name} needs records of every class")
        return eligible.where(balanced(eligible, self.task.max_per_class))

    def protocol(self, split: str) -> dict[str, str]:
        """Describes how the records of a split were chosen, and the classes, for the result."""
        left_out = {} if self.rare is None else {"left_out": ", ".join(self.rare) or "no class"}
        if self.published is not None:
            found, coverage = self._published(split)
            everyone, _ = self._everyone(ALL)
            other = int((everyone.y_nC[found.rows] != found.y_nC).sum())
            about = {"records": f"{coverage}; {other} labels are not those that the records' codes give"}
            return left_out | about | {PUBLISHED: labels_digest(self.published)}
        if self.task.max_per_class is not None:
            return left_out | {"records": f"{self.task.rule}: n = {int(self.of(split).y_nC[:, 0].sum())}"}
        return left_out | {"records": self.task.rule}

    def _everyone(self, split: str) -> tuple[Labelled, NDArray[np.bool_]]:
        """Returns all records of a split, and a mask of those that are eligible for the task."""
        check_vocabulary(self.task, self.shards.label_vocabulary, str(self.shards.folder))
        splits = tuple(self.shards.split(name) for name in (self.shards.splits if split == ALL else [split]))
        keeps, ys = zip(*(labels(self.task, part.columns) for part in splits), strict=True)
        record_ids = np.array([name for part in splits for name in part.columns.record_id])
        patients = np.array([name for part in splits for name in part.columns.patient_id])
        everyone = Labelled(splits, np.arange(len(record_ids)), record_ids, patients, np.concatenate(ys))
        return everyone, np.concatenate(keeps)

    def _published(self, split: str) -> tuple[Labelled, str]:
        """Returns the published records that the shards hold, and a description of how many there are."""
        assert self.published is not None
        if split not in self.published:
            raise EtpError(f"no published split {split!r}; there are {', '.join(self.published)}")
        given, (everyone, _) = self.published[split], self._everyone(ALL)
        place = {name: row for row, name in enumerate(everyone.record_ids)}
        here = np.array([name in place for name in given.record_ids], bool)
        if not here.any():
            raise EtpError(
                f"{self.shards.folder}: holds none of the {len(here)} published records of split {split!r}, "
                f"such as {given.record_ids[0]}"
            )
        rows = np.array([place[name] for name in given.record_ids if name in place], np.int64)
        order = np.argsort(rows)
        found = replace(everyone.where(rows[order]), y_nC=given.y_NC[here][order])
        return found, f"{PUBLISHED_SPLIT}, {len(rows)} of its {len(here)} records are in the shards"


def balanced(records: Labelled, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Draws equal numbers of records of each class: the rarest class's number, at most `most`.

    Records are drawn in the order of their ids, so the set does not depend on their distribution over shard files.

    Args:
      records: each has exactly one class.
      most: maximum number of records per class.
      seed: seed of the draw.

    Returns:
      Numbers of the drawn records, in ascending order.
    """
    count = min(most, int(records.y_nC.sum(axis=0).min()))
    order = np.argsort(records.record_ids)
    order = order[np.random.default_rng(seed).permutation(len(order))]
    return np.sort(np.concatenate([order[y_n[order]][:count] for y_n in records.y_nC.T]))
