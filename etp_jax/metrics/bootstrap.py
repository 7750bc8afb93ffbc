"""Bootstrap over patients: weights of the records in each replicate, weighted averages, and intervals. No jax.

In a replicate, a record's weight is the number of times its patient was drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.int32]
"""Number of times each record counts; integers keep the sums exact and small."""


def bootstrap_weights(patients: NDArray[np.str_], replicates: int, seed: int = 0) -> Weights:
    """Draws the weight of each record in each replicate of a bootstrap over patients.

    Args:
      patients: [N] patient of each record.
      replicates: number of replicates, R.
      seed: seed of the random draws.

    Returns:
      [N, 1 + R] weights. The first column is all ones: the sample itself. Each other column draws as many patients as
      there are, with replacement. Of a single patient they are 0, see `of_some`.
    """
    distinct, patient_N = np.unique(patients, return_inverse=True)
    count = len(distinct)
    draws_RP = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates)
    sample_1P = np.ones((1, count), np.int32)
    return of_some(np.concatenate([sample_1P, draws_RP], dtype=np.int32).T, patient_N)


def of_some(weights_NR: Weights, chosen_n: NDArray) -> Weights:
    """Selects the weights [n, 1 + R] of some records, by number or mask.

    Records of a single patient vary with no draw. Their replicates get weight 0, so that every metric is undefined
    there (NaN) and has no interval, instead of one of width 0.
    """
    some_nR = weights_NR[chosen_n]
    if len(some_nR) and (some_nR == some_nR[0]).all():
        some_nR[:, 1:] = 0
    return some_nR


def interval(replicates: Floats) -> tuple[float, float]:
    """Computes the 95 % percentile interval, leaving out replicates without a value (NaN)."""
    replicates = replicates[~np.isnan(replicates)]
    if len(replicates) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def share(sums: NDArray, weights_NR: Weights) -> Floats:
    """Divides sums [..., R] by the records' total weight in each of R weightings; NaN where it is 0."""
    total_R = weights_NR.sum(axis=0, dtype=np.float64)
    return sums / np.where(total_R > 0, total_R, np.nan)


def weighted_mean(values_N: NDArray, weights_NR: Weights) -> Floats:
    """Means [R], one for each of R weightings; NaN where all weights are 0."""
    return share(values_N @ weights_NR, weights_NR)


def weighted_median(values_N: NDArray, weights_NR: Weights) -> Floats:
    """Medians [R] for R weightings by whole numbers; for an even count, the mean of the two middle values.

    NaN where all weights are 0.
    """
    order = np.argsort(values_N, kind="stable")
    ranked_N, sums_NR = values_N[order], np.cumsum(weights_NR[order], axis=0)
    half_R, last = sums_NR[-1] / 2, len(values_N) - 1
    lower_R = ranked_N[(sums_NR < half_R).sum(axis=0)]
    upper_R = ranked_N[np.minimum((sums_NR <= half_R).sum(axis=0), last)]
    return np.where(half_R > 0, (lower_R + upper_R) / 2, np.nan)
