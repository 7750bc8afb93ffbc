"""Calibration of probabilities: bins, expected calibration error and reliability tables. No jax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etp_jax.metrics.bootstrap import Floats, Weights, share
from etp_jax.metrics.classification import Bools

BINS = 10
"""Number of bins, of equal mass or of equal width."""


def equal_mass(p_N: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """Numbers [N] of bins between quantiles of the probabilities; equal probabilities are in one bin."""
    return np.searchsorted(np.percentile(p_N, np.linspace(0, 100, bins + 1)[1:-1]), p_N)


def equal_width(p_N: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """Numbers [N] of bins of equal width from 0 to 1."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p_N)


def expected_calibration_error(p_N: Floats, y_N: Bools, bin_N: NDArray[np.intp], weights_NR: Weights) -> Floats:
    """Computes the expected calibration error [R] of one class under several weightings.

    It is the distance of a bin's mean probability from its share with the class, averaged over the records.

    Args:
      p_N: [N] probabilities.
      y_N: [N] bool, true labels.
      bin_N: [N] bin of each record; the bins are the same under every weighting.
      weights_NR: [N, R] weight of each record in each of R weightings.
    """
    inside_KN = np.arange(bin_N.max() + 1)[:, None] == bin_N
    surplus_KR = (inside_KN * (p_N - y_N)) @ weights_NR
    return share(np.abs(surplus_KR).sum(axis=0), weights_NR)


def reliability(p_N: Floats, y_N: Bools, bin_N: NDArray[np.intp]) -> list[list[float]]:
    """Lists for each bin that has records: their number, their mean probability, and the share with the class."""
    rows = []
    for number in np.unique(bin_N):
        inside_N = bin_N == number
        rows.append([int(inside_N.sum()), round(float(p_N[inside_N].mean()), 6), round(float(y_N[inside_N].mean()), 6)])
    return rows
