"""AUROC, average precision and F1 of multi-label scores, on the sample and on its bootstrap replicates.

The metrics take the records' weights, see `bootstrap`. Scores are sorted once per class; all replicates are then
cumulative sums in that order. Does not import jax.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.metrics.bootstrap import Floats, Weights, share

Bools = NDArray[np.bool_]

METRICS = ("auroc", "auprc", "f1")
"""Names of the metrics, in the order of the middle axis of `Scored.values`."""


def ranking(scores_N: NDArray, y_N: Bools, weights_NR: Weights) -> tuple[Floats, Floats]:
    """Computes AUROC and average precision of one class under several weightings.

    AUROC is the probability that a positive scores above a negative, ties counting half (Mann-Whitney). Average
    precision is the sum over distinct scores of precision times the gain in recall (no interpolation). Records with
    equal scores are counted together, so their order does not matter.

    Args:
      scores_N: [N] scores; greater means more likely.
      y_N: [N] bool, true labels.
      weights_NR: [N, R] weight of each record in each of R weightings, at least 0.

    Returns:
      AUROC [R] and average precision [R]; NaN where a weighting has only one outcome.
    """
    order = np.argsort(-scores_N, kind="stable")
    ranked_N = scores_N[order]
    positive_P = np.flatnonzero(y_N[order])
    weights_NR = weights_NR[order]
    all_NR = np.cumsum(weights_NR, axis=0, dtype=np.int32)
    positive_PR = weights_NR[positive_P]
    hits_PR = np.cumsum(positive_PR, axis=0, dtype=np.int32)
    positives_R = positive_PR.sum(axis=0).astype(np.float64)
    negatives_R = all_NR[-1] - positives_R

    # For each positive, in ranked order: records before `start` score strictly higher, records before `end` at least
    # as high.
    start_P = np.searchsorted(-ranked_N, -ranked_N[positive_P], side="left")
    end_P = np.searchsorted(-ranked_N, -ranked_N[positive_P], side="right")
    zero_1R = np.zeros((1, all_NR.shape[1]), np.int32)
    above_PR = np.concatenate([zero_1R, all_NR])[start_P]
    hits_above_PR = np.concatenate([zero_1R, hits_PR])[np.searchsorted(positive_P, start_P)]
    through_PR = all_NR[end_P - 1]
    hits_through_PR = hits_PR[np.searchsorted(positive_P, end_P) - 1]

    false_above_PR = above_PR - hits_above_PR
    false_through_PR = through_PR - hits_through_PR
    beaten_PR = negatives_R - (false_above_PR + false_through_PR) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc_R = np.einsum("pr,pr->r", positive_PR, beaten_PR) / (positives_R * negatives_R)
        # A positive of weight 0 contributes nothing, so its precision does not matter.
        precision_PR = hits_through_PR / np.maximum(through_PR, 1)
        auprc_R = np.einsum("pr,pr->r", positive_PR, precision_PR) / positives_R
    one_outcome_R = (positives_R == 0) | (negatives_R == 0)
    return np.where(one_outcome_R, np.nan, auroc_R), np.where(one_outcome_R, np.nan, auprc_R)


def f1(called_N: Bools, y_N: Bools, weights_NR: Weights) -> Floats:
    """Computes F1 [R] of one class under R weightings; 0 without positive predictions, NaN with only one outcome."""
    hits_R, positives_R = weights_NR[called_N & y_N].sum(axis=0), weights_NR[y_N].sum(axis=0)
    f1_R = 2 * hits_R / np.maximum(weights_NR[called_N].sum(axis=0) + positives_R, 1)
    return np.where((positives_R == 0) | (positives_R == weights_NR.sum(axis=0)), np.nan, f1_R)


def nearest(scores_NC: NDArray) -> Bools:
    """Makes top-1 decisions [N, C]: true at the class with the highest score (the first one of equal scores)."""
    return np.eye(scores_NC.shape[1], dtype=bool)[np.argmax(scores_NC, axis=1)]


def nearest_metrics(called_NC: Bools, y_NC: Bools, weights_NR: Weights) -> dict[str, Floats]:
    """Computes metrics [R] of top-1 decisions for records that have one class each.

    `top1_accuracy` is the share of correctly classified records. `binary_accuracy` is the accuracy of each class's own
    binary decision, averaged over the classes; with C classes it is 1 - 2 (1 - top-1) / C. `macro_precision` counts 0
    for a class that is never predicted. Precision and recall leave out classes without a record in the replicate.

    Args:
      called_NC: [N, C] bool, predicted class, from `nearest`.
      y_NC: [N, C] bool, true class, one per record.
      weights_NR: [N, R] weights, from `bootstrap_weights`.
    """

    def sums_CR(chosen_NC: Bools) -> Floats:
        return chosen_NC.T.astype(np.float64) @ weights_NR

    hits_CR, called_CR, positives_CR = sums_CR(called_NC & y_NC), sums_CR(called_NC), sums_CR(y_NC)
    present_CR = positives_CR > 0
    precision_CR, recall_CR = hits_CR / np.maximum(called_CR, 1), hits_CR / np.maximum(positives_CR, 1)
    return {
        "top1_accuracy": share(hits_CR.sum(axis=0), weights_NR),
        "binary_accuracy": share(sums_CR(called_NC == y_NC), weights_NR).mean(axis=0),
        "macro_precision": _mean_over(present_CR, precision_CR),
        "macro_recall": _mean_over(present_CR, recall_CR),
    }


def _mean_over(chosen: Bools, values: Floats) -> Floats:
    """Mean of the chosen values of each column, over the first axis; NaN where none is chosen."""
    sums, counts = values.sum(axis=0, where=chosen), chosen.sum(axis=0)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def best_thresholds(scores_NC: NDArray, y_NC: Bools) -> Floats:
    """Finds for each class the lowest score that counts as positive, so that F1 is greatest.

    Of thresholds with equal F1 the highest is taken. A class without positives gets +inf: no prediction is positive.
    """
    thresholds_C = np.full(y_NC.shape[1], np.inf)
    for c in np.flatnonzero(y_NC.any(axis=0)):
        order = np.argsort(-scores_NC[:, c], kind="stable")
        ranked_N, hits_N = scores_NC[order, c], np.cumsum(y_NC[order, c])
        f1_N = 2 * hits_N / (np.arange(1, len(order) + 1) + hits_N[-1])
        last_of_ties_N = np.append(ranked_N[1:] != ranked_N[:-1], True)
        thresholds_C[c] = ranked_N[np.argmax(np.where(last_of_ties_N, f1_N, -1))]
    return thresholds_C


@dataclass(frozen=True)
class Scored:
    """Metrics of one set of scores, on the sample and on its bootstrap replicates."""

    values: Floats
    """[C, 3, 1 + R] metrics in the order of `METRICS`; NaN where a class has only one outcome. Column 0: the sample."""
    positives: NDArray[np.int64]
    """[C] number of positive records in the sample."""

    @property
    def macro(self) -> Floats:
        """Macro averages [3, 1 + R] over the classes that have both outcomes in the sample, or in the replicate."""
        return self.macro_over(np.ones(len(self.values), bool))

    def macro_over(self, chosen_C: Bools) -> Floats:
        """Macro averages like `macro`, [3, 1 + R], over those of the chosen classes."""
        values = self.values[chosen_C]
        return _mean_over(~np.isnan(values), values)

    @property
    def classes_scored(self) -> int:
        """Number of classes with both outcomes in the sample."""
        return int((~np.isnan(self.values[:, 0, 0])).sum())


def score(scores_NC: NDArray, called_NC: Bools, y_NC: Bools, weights_NR: Weights) -> Scored:
    """Computes all metrics of every class under every weighting.

    Args:
      scores_NC: [N, C] scores.
      called_NC: [N, C] bool, predictions, for F1.
      y_NC: [N, C] bool, true labels.
      weights_NR: [N, R] weights, from `bootstrap_weights`.
    """

    def of_class(c: int) -> Floats:
        auroc_R, auprc_R = ranking(scores_NC[:, c], y_NC[:, c], weights_NR)
        return np.stack([auroc_R, auprc_R, f1(called_NC[:, c], y_NC[:, c], weights_NR)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy releases the interpreter lock in its loops
        values = np.stack(list(pool.map(of_class, range(y_NC.shape[1]))))
    return Scored(values, y_NC.sum(axis=0))


def has_both(y_NC: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[C] the classes with both outcomes."""
    return np.logical_and(y_NC.any(axis=0), ~y_NC.all(axis=0))


def macro_auroc(scores_nC: NDArray, y_nC: NDArray[np.bool_]) -> float:
    """Mean AUROC over the classes with both outcomes."""
    ones_n1 = np.ones((len(y_nC), 1), np.int32)
    aurocs = [ranking(scores_nC[:, c], y_nC[:, c], ones_n1)[0][0] for c in range(y_nC.shape[1])]
    return float(np.nanmean(aurocs))


def macro_auroc_replicates(scores_nC: NDArray, y_nC: NDArray[np.bool_], weights_nR: Weights) -> Floats:
    """Mean AUROC [R] under several weightings, over the classes with both outcomes in the weighting."""
    return score(scores_nC, np.zeros_like(y_nC), y_nC, weights_nR).macro[0]
