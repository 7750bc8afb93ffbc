"""Zero-shot classification: how alike is an ECG to the sentences that describe a class?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.embed import Encoder
from etp_jax.evaluation.labelled import ALL, VALIDATION, TaskRecords
from etp_jax.evaluation.metrics import best_thresholds, bootstrap_weights, nearest, nearest_metrics, score
from etp_jax.evaluation.results import Outcome, classification_row
from etp_jax.tasks import Task


def class_directions(encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """Directions [C, E] along which an ECG's embedding scores for each class.

    A class's is the embedding of its prompts: the mean of their unit embeddings, scaled to unit length again. A prompt
    set may contrast findings with other sentences ("normal ECG"): then `against_weight` times their embedding is taken
    off, since most reports share much of what these say. Classes that have one of these sentences as a prompt stay as
    they are.
    """
    groups = [c.prompts for c in task.classes] + [task.against] * bool(task.against)
    prompts_PE = encoder.text([prompt for group in groups for prompt in group], task.whole_prompts)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    means_GE = np.stack([group_PE.mean(axis=0) for group_PE in np.split(prompts_PE, ends)])
    units_GE = means_GE / np.maximum(np.linalg.norm(means_GE, axis=1, keepdims=True), 1e-12)
    if not task.against:
        return units_GE
    contrasted_C = np.array([set(task.against).isdisjoint(c.prompts) for c in task.classes])
    return units_GE[:-1] - np.float32(task.against_weight) * contrasted_C[:, None] * units_GE[-1]


def class_scores(ecg_NE: NDArray[np.float32], encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """Scores [N, C] of unit ECG embeddings: cosines, or differences of cosines where the prompts are contrasted."""
    return ecg_NE @ class_directions(encoder, task).T


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
    chooser = target if task.most is not None or split in (VALIDATION, ALL) else records.of(VALIDATION)
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
        if task.most is not None:
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
    if task.most is not None:
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
