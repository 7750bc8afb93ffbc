"""Intervals over training seeds and over patients, and significance tests of differences. No jax.

The bootstrap holds the seeds fixed and estimates the variation over patients; Student's t holds the patients fixed and
estimates the variation over seeds. Neither covers both.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from etp_jax.metrics.bootstrap import Floats, interval


def over_patients(replicates_SR: Floats) -> dict[str, float]:
    """95 % interval of the mean over S seeds, whose replicates [S, R] share the draws of patients."""
    low, high = interval(replicates_SR.mean(axis=0))
    return {"low": low, "high": high}


def over_seeds(values_S: Floats) -> dict[str, float] | None:
    """95 % interval of the mean by Student's t; None for a single seed, or where a value is undefined (NaN)."""
    count = len(values_S)
    if count < 2 or np.isnan(values_S).any():
        return None
    half = stats.t.ppf(0.975, count - 1) * values_S.std(ddof=1) / math.sqrt(count)
    return {"low": float(values_S.mean() - half), "high": float(values_S.mean() + half)}


def patients_p(differences_R: Floats) -> float:
    """Two-sided p value for a difference of zero, from its replicates [R] over patients.

    It is twice the share of replicates on the rarer side of zero; zero itself counts for both sides. One replicate is
    added on that side, so that R replicates give no p below 2 / (R + 1). NaN without replicates.
    """
    found_R = differences_R[~np.isnan(differences_R)]
    if len(found_R) == 0:
        return math.nan
    rarer = min((found_R <= 0).sum(), (found_R >= 0).sum())
    return min(1.0, 2 * (1 + float(rarer)) / (len(found_R) + 1))


def seeds_p(differences_S: Floats) -> float | None:
    """Two-sided p value of Student's t test on differences by seed; None where `over_seeds` is None."""
    count = len(differences_S)
    if count < 2 or np.isnan(differences_S).any():
        return None
    spread = differences_S.std(ddof=1)
    if spread == 0:
        return 1.0 if differences_S.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(differences_S.mean()) * math.sqrt(count) / spread, count - 1))
