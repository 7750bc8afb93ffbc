"""The records of a split that a task has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.records import Split
from etp_jax.tasks import Task, check_vocabulary, labels

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Labelled:
    """Some n records of a split with their classes."""

    split: Split
    rows: NDArray[np.int64]
    """[n] positions in the split."""
    y_nC: NDArray[np.bool_]
    patients: NDArray[np.str_]
    """[n]"""

    @classmethod
    def of(cls, split: Split, task: Task) -> Labelled:
        """Those with at least one of the task's labels; raises EtpError when there are none."""
        check_vocabulary(task, split.shards.label_vocabulary, str(split.shards.folder))
        keep_N, y_NC = labels(task, split.columns)
        if not keep_N.any():
            raise EtpError(f"{split.shards.folder}: no record of split {split.name!r} has a label of {task.name}")
        return cls(split, np.flatnonzero(keep_N), y_NC[keep_N], np.array(split.columns.patient_id)[keep_N])

    def __len__(self) -> int:
        """Their number."""
        return len(self.rows)

    def where(self, chosen: NDArray) -> Labelled:
        """Some of them, by mask or by number."""
        return Labelled(self.split, self.rows[chosen], self.y_nC[chosen], self.patients[chosen])

    def tenth(self) -> NDArray[np.bool_]:
        """[n] the records of a tenth of the patients: by a hash of the patient, so the same ones for every task."""
        parts = {patient: int(hashlib.sha256(patient.encode()).hexdigest(), 16) % 10 for patient in set(self.patients)}
        return np.array([parts[patient] == 0 for patient in self.patients], bool)
