"""The protocol of "Benchmarking ECG FMs" (arXiv 2509.25095 v2), read in its code: AI4HealthUOL/ecg-fm-benchmarking.

  - Every record of a split is fitted and scored, also those without a label of the task.
  - Classes with fewer than ten records in the whole data set, here the shards, are left out. All 71 statements of
    PTB-XL have ten, and the published networks have 71, 23 and 5 outputs. So there the macro-AUROC is over all classes.
  - Forms and rhythms are the outputs of the network that learned all 71 statements.
  - Three ways to use an encoder: a linear layer on its frozen mean features; an attention head on its frozen tokens
    (`attention`); the whole network with a linear layer.

A macro-AUROC over the classes with ten positives in the scored split is reported beside it. It has no counterpart among
the published figures: their intervals show that rarer classes are in them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.request import FIELD
from etp_jax.evaluation.results import Result
from etp_jax.metrics.classification import METRICS, Scored
from etp_jax.shards.record import ALL
from etp_jax.tasks import Task

MINIMUM = 10
"""Number of records that a class needs in all splits, and in the scored split for the second macro-AUROC."""
FREQUENT = "macro_auroc_ten_positives"
SIGNALS = (
    "the shards' whole records in place of crops of 2.4 to 10 s whose probabilities are averaged; "
    "intervals over patients, where a class absent from a draw is left out instead of counting 0.5"
)
DIFFERS = {
    "linear": "logistic regression with a chosen L2 in place of AdamW's best of 100 epochs",
    "attention": "each task has a head of its own, best of 30 epochs instead of 100",
    "network": "one network for all 71 statements, one learning rate, augmentation, and the last of 10 epochs with "
    "averaged weights in place of AdamW's best of 100 and layer-wise rates",
}
"""What differs from the published code, by way to use an encoder; `SIGNALS` holds for all."""


def with_protocol(task: Task, protocol: str) -> Task:
    """Returns a task with the records that a protocol takes."""
    return replace(task, every_record=True) if protocol == FIELD else task


def with_enough_records(records: TaskRecords) -> TaskRecords:
    """Returns the records of a task without the classes that are too rare for the protocol, if it is that of the task.

    Raises:
      EtpError: every class is too rare.
    """
    task = records.task
    if not task.every_record:
        return records
    counts = records.of(ALL).y_nC.sum(axis=0)
    kept = tuple(each for each, count in zip(task.classes, counts, strict=True) if count >= MINIMUM)
    if not kept:
        where = f"{records.shards.folder}: no class of {task.name}"
        raise EtpError(f"{where} has {MINIMUM} records, which --protocol {FIELD} asks for; omit it")
    rare = tuple(each.code for each in task.classes if each not in kept)
    return replace(records, task=replace(task, classes=kept), rare=rare)


def described(protocol: str, way: str) -> dict[str, str]:
    """Describes what differs from the published protocol, for the result; empty for another protocol."""
    return {"differs": f"{DIFFERS[way]}; {SIGNALS}"} if protocol == FIELD else {}


def is_described(result: Result) -> bool:
    """Whether a stored result, if it is of this protocol, names the classes that it left out."""
    return result.protocol.get("name") != FIELD or "left_out" in result.protocol


def frequent(task: Task, scored: Scored) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Returns the second macro-AUROC [1 + R] by name, and its number of classes; both empty for another protocol."""
    if not task.every_record:
        return {}, {}
    chosen_C = scored.positives >= MINIMUM
    return {FREQUENT: scored.macro_over(chosen_C)[METRICS.index("auroc")]}, {"classes_frequent": int(chosen_C.sum())}
