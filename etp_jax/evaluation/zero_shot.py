"""Zero-shot classification: how alike is an ECG to the sentences that describe a class?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.scores import class_scores
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.results import Outcome, classification_row
from etp_jax.metrics.classification import best_thresholds, bootstrap_weights, nearest, nearest_metrics, score
from etp_jax.shards.record import ALL, VALIDATION
from etp_jax.tasks import Task


def evaluate(encoders: Sequence[tuple[str, Encoder]], records: TaskRecords, split: str, bootstrap: int) -> Outcome:
    """Scores each encoder on the task's records of a split.

    Thresholds for F1 come from the validation split; if that is (among) what is scored, each half of its patients takes
    them from the other half. A balanced task has one class a record and needs none: the class that scores highest is
    called, and the row also has the metrics of these decisions.

    Args:
      encoders: each under its name in the result.
      records: of the task, with its prompts; also of `validation`.
      split: whose records are scored, or `all`.
      bootstrap: replicates of the intervals.
    """
    task, target = records.task, records.of(split)
    chooser = target if task.max_per_class is not None or split in (VALIDATION, ALL) else records.of(VALIDATION)
    weights_nR = bootstrap_weights(target.patients, bootstrap)
    outcome = Outcome(
        records=len(target),
        thresholds_from=_thresholds_from(task, split),
        protocol={
            "score": "cosine of the ECG's and the class's embedding (mean of its prompts), less the contrast",
            "prompts": task.prompt_set,
            "contrast": f"less {task.against_weight:g} x the cosine of {', '.join(task.against)}"
            if task.against
            else "",
            **records.protocol(split),
        },
    )
    for name, encoder in encoders:
        scores_nC = class_scores(target.encode(encoder)[1], encoder, task)
        decisions = {}
        if task.max_per_class is not None:
            called_nC = nearest(scores_nC)
            decisions = nearest_metrics(called_nC, target.y_nC, weights_nR)
        elif chooser is target:
            called_nC = called_by_halves(scores_nC, target.y_nC, target.patients)
        else:
            chooser_scores = class_scores(chooser.encode(encoder)[1], encoder, task)
            called_nC = scores_nC >= best_thresholds(chooser_scores, chooser.y_nC)
        scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
        outcome.rows.append(classification_row(scored, task, name, 0.0, encoder.train_seed, also=decisions))
        outcome.scores.setdefault(name, scores_nC)
    return outcome


def _thresholds_from(task: Task, split: str) -> str | None:
    if task.max_per_class is not None:
        return None
    return f"{split}, the other half of its patients" if split in (VALIDATION, ALL) else VALIDATION


def called_by_halves(
    scores_NC: NDArray, y_NC: NDArray[np.bool_], patients: NDArray[np.str_], seed: int = 0
) -> NDArray[np.bool_]:
    """What is called positive [N, C] when each half of the patients takes its thresholds from the other half."""
    distinct, patient_N = np.unique(patients, return_inverse=True)
    first_N = np.random.default_rng(seed).permutation(np.arange(len(distinct)) % 2 == 0)[patient_N]
    called_NC = np.zeros(y_NC.shape, bool)
    for half_N in (first_N, ~first_N):
        called_NC[half_N] = scores_NC[half_N] >= best_thresholds(scores_NC[~half_N], y_NC[~half_N])
    return called_NC
