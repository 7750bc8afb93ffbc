"""A rough heart rate, which shows that a sampling rate is wrong. Does not import jax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from etp_jax.ecg.leads import Recording

SLOWEST, FASTEST = 20.0, 250.0
"""Range of possible heart rates, in beats per minute."""
SAMPLES = 30_000
"""Number of samples that are examined at most."""
FEWEST = 250
"""Number of samples below which noise may seem to repeat."""
REGULAR = 0.5
"""Minimum autocorrelation at the distance of two beats; with less the rhythm is too irregular for an estimate."""
ALIKE = 0.8
"""Fraction of the highest autocorrelation that counts as high too: two beats correlate like one."""
BEATS = 4
"""Minimum number of beats for an estimate."""


def heart_rate(recording: Recording) -> float | None:
    """Estimates the heart rate in beats per minute, or None if the rhythm is not regular.

    No duration of a wave is assumed, so that the estimate is proportional to the sampling rate, also to a wrong one:
    it is the shortest distance at which the slopes of all leads together repeat.
    """
    signal_TL = recording.signal[:SAMPLES]
    signal_TL = np.where(np.isfinite(signal_TL), signal_TL, 0.0)
    slope_T = np.abs(np.diff(signal_TL, axis=0)).sum(axis=1)
    if len(slope_T) < FEWEST or not slope_T.any():
        return None
    slope_T = np.minimum(slope_T, np.percentile(slope_T, 99))  # a single artifact does not count
    width = _first_below(_autocorrelation(slope_T), 0.5)
    slope_T = np.convolve(slope_T, np.ones(2 * width + 1), "same")  # beats do not repeat to the sample
    repeats = _autocorrelation(slope_T)[: len(slope_T) // BEATS]
    start = _first_below(repeats, 0.2)
    if start >= len(repeats) or (highest := repeats[start:].max()) < REGULAR:
        return None
    rises = np.flatnonzero((np.diff(repeats[start:], prepend=-1) > 0) & (np.diff(repeats[start:], append=-1) <= 0))
    lag = start + next(int(rise) for rise in rises if repeats[start + rise] >= ALIKE * highest)
    return 60 * recording.fs / lag


def impossible_rate(recording: Recording) -> str:
    """Describes a heart rate that no patient has, which shows a wrong sampling rate; empty if it is possible."""
    rate = heart_rate(recording)
    if rate is None or SLOWEST <= rate <= FASTEST:
        return ""
    return (
        f"at {recording.fs:g} Hz the heart rate would be {rate:.0f}/min, which is impossible: check the sampling rate"
    )


def _autocorrelation(values_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the autocorrelation at each distance, 1 at distance 0, without the bias of a finite length."""
    centred = values_T - values_T.mean()
    products = fftconvolve(centred, centred[::-1])[len(centred) - 1 :] / np.arange(len(centred), 0, -1)
    return products / max(products[0], 1e-12)


def _first_below(values: NDArray[np.float64], limit: float) -> int:
    """Returns the first position whose value is below the limit; the length if there is none."""
    below = values < limit
    return int(below.argmax()) if below.any() else len(values)
