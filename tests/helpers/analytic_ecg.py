"""ECGs of waves with exact beginnings and ends, written independently of how the package measures them.

A dipole in space moves along lobes that begin and end at zero; Dower's lead field converts it to twelve leads. QRS
lobes are half sines, P and T are raised cosines, T with a slow rise and a faster fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import resample_poly

from etp_jax.data_prep.synthetic.heart import LEAD_FIELD, twelve_leads

FINE = 1000
"""Rate at which the waves are computed, in Hz, before they are sampled at the requested rate."""
SECONDS = 10


@dataclass(frozen=True)
class Known:
    """Intervals of a drawn ECG: between the moments when a wave leaves and reaches zero in milliseconds."""

    rate_bpm: float
    p_ms: float
    pr_ms: float
    qrs_ms: float
    qt_ms: float
    t_fall_ms: float
    """From the peak of T to its end."""
    axis_deg: float


def random_known(rng: np.random.Generator) -> Known:
    """Draws intervals from normal ones to those of long QT, bundle branch block and AV block."""
    rate, qrs = rng.uniform(48, 115), rng.uniform(76, 150)
    qt = rng.uniform(360, 480) * (60 / rate) ** (1 / 3)
    p, pr, fall, axis = rng.uniform(80, 120), rng.uniform(125, 240), rng.uniform(70, 120), rng.uniform(-60, 110)
    return Known(rate, p, pr, qrs, qt, min(fall, 0.5 * (qt - qrs)), axis)  # T's peak comes after its onset


def draw(known: Known, fs: int, noise_uv: float, rng: np.random.Generator) -> np.ndarray:
    """Signal int16 [T, 12] in µV with white noise of a standard deviation and a slow drift of three times that."""
    time = np.arange(SECONDS * FINE) / FINE
    dipole = np.zeros((len(time), 3))
    turn = np.radians(known.axis_deg)
    main = np.array([np.cos(turn), np.sin(turn), 0.3])
    early, late = np.array([-0.1, -0.1, -0.35]), np.array([-0.1, 0.05, 0.5])
    qrs, end = known.qrs_ms / 1000, known.qt_ms / 1000
    for at in np.arange(0.35, SECONDS, 60 / known.rate_bpm):  # beginning of the QRS
        p = at - known.pr_ms / 1000
        dipole += 0.12 * _hump(time, p, p + 0.5e-3 * known.p_ms, p + 1e-3 * known.p_ms)[:, None] * [0.5, 0.8, -0.2]
        for start, stop, vector in ((0, 0.4, early), (0.2, 0.8, 1.2 * main), (0.6, 1, late)):
            lobe = np.clip((time - at - start * qrs) / ((stop - start) * qrs), 0, 1)
            dipole += np.sin(np.pi * lobe)[:, None] * vector
        onset, peak = at + qrs + 0.3 * (end - qrs), at + end - known.t_fall_ms / 1000
        for shift, vector in ((0.0, 0.28 * main), (-0.015, np.array([0.1, 0.02, -0.2]))):
            dipole += _hump(time, onset, peak + shift, at + end)[:, None] * vector
    leads = resample_poly(dipole @ LEAD_FIELD.T, 1, FINE // fs)
    seconds = np.arange(len(leads))[:, None] / fs
    drift = np.sin(2 * np.pi * rng.uniform(0.05, 0.3, 8) * seconds + rng.uniform(0, 6, 8))
    return twelve_leads(leads + noise_uv / 1000 * (rng.standard_normal(leads.shape) + 3 * drift))


def _hump(time: np.ndarray, start: float, peak: float, end: float) -> np.ndarray:
    """A wave that rises from zero to one and falls to zero, by raised cosines."""
    rise, fall = np.clip((time - start) / (peak - start), 0, 1), np.clip((end - time) / (end - peak), 0, 1)
    return np.minimum(np.sin(0.5 * np.pi * rise) ** 2, np.sin(0.5 * np.pi * fall) ** 2)
