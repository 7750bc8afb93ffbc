"""Zero-shot classification: how alike is an ECG to the sentences that describe a class?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.embed import Encoder
from etp_jax.evaluation.labelled import VALIDATION, Labelled
from etp_jax.evaluation.metrics import best_thresholds, bootstrap_weights, score
from etp_jax.evaluation.results import Outcome, classification_row
from etp_jax.records import Shards
from etp_jax.tasks import Task


def class_embeddings(encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """Unit embedding [C, E] of each class: the mean of its prompts' unit embeddings, scaled to unit length again."""
    prompts = [prompt for c in task.classes for prompt in c.prompts]
    class_P = np.repeat(np.arange(len(task.classes)), [len(c.prompts) for c in task.classes])
    prompts_PE = encoder.text(prompts, whole=task.whole_prompts)
    means_CE = np.stack([prompts_PE[class_P == c].mean(axis=0) for c in range(len(task.classes))])
    return means_CE / np.maximum(np.linalg.norm(means_CE, axis=1, keepdims=True), 1e-12)


def class_scores(ecg_NE: NDArray[np.float32], encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """Cosine [N, C] of unit ECG embeddings and the classes."""
    return ecg_NE @ class_embeddings(encoder, task).T


def evaluate(
    encoders: Sequence[tuple[str, Encoder]], task: Task, shards: Shards, split: str, bootstrap: int
) -> Outcome:
    """Scores each encoder on the task's records of a split.

    Thresholds for F1 come from the validation split; if that is what is scored, each half of its patients takes them
    from the other half.

    Args:
      encoders: each under its name in the result.
      task: with its prompts.
      shards: with that split and `validation`.
      split: whose records are scored.
      bootstrap: replicates of the intervals.
    """
    target = Labelled.of(shards.split(split), task)
    chooser = target if split == VALIDATION else Labelled.of(shards.split(VALIDATION), task)
    weights_nR = bootstrap_weights(target.patients, bootstrap)
    outcome = Outcome(
        records=len(target),
        thresholds_from="validation" if chooser is not target else "validation, the other half of its patients",
        protocol={
            "score": "cosine of the ECG's embedding and the class's: the normalised mean of its prompts' embeddings",
            "prompts": task.prompt_set,
        },
    )
    for name, encoder in encoders:
        scores_nC = class_scores(encoder.ecg(target.split)[1][target.rows], encoder, task)
        if chooser is target:
            called_nC = called_by_halves(scores_nC, target.y_nC, target.patients)
        else:
            chooser_scores = class_scores(encoder.ecg(chooser.split)[1][chooser.rows], encoder, task)
            called_nC = scores_nC >= best_thresholds(chooser_scores, chooser.y_nC)
        scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
        outcome.rows.append(classification_row(scored, task, encoder=name, fraction=0.0, train_seed=encoder.train_seed))
        outcome.scores.setdefault(name, scores_nC)
    return outcome


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
