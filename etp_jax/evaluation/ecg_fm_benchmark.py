"""The protocol of "Benchmarking ECG FMs" (arXiv 2509.25095 v2), read in its code: AI4HealthUOL/ecg-fm-benchmarking.

  - Every record of a split is fitted and scored, also those without a label of the task.
  - Classes with fewer than ten records in the whole data set are left out. All 71 statements of PTB-XL have ten, and
    the published networks have 71, 23 and 5 outputs. So the macro-AUROC is over all classes of a task.
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

from etp_jax.evaluation.request import FIELD
from etp_jax.metrics.classification import METRICS, Scored
from etp_jax.tasks import Task

MINIMUM = 10
"""Number of positives in the scored split that the second macro-AUROC asks for."""
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


def described(protocol: str, way: str) -> dict[str, str]:
    """Describes what differs from the published protocol, for the result; empty for another protocol."""
    return {"differs": f"{DIFFERS[way]}; {SIGNALS}"} if protocol == FIELD else {}


def frequent(task: Task, scored: Scored) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Returns the second macro-AUROC [1 + R] by name, and its number of classes; both empty for another protocol."""
    if not task.every_record:
        return {}, {}
    chosen_C = scored.positives >= MINIMUM
    return {FREQUENT: scored.macro_over(chosen_C)[METRICS.index("auroc")]}, {"classes_frequent": int(chosen_C.sum())}
