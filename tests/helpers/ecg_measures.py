"""Measures on ECGs that do not know how the signals were made: QRS detection, mean beat, QRS width."""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, find_peaks, sosfiltfilt

from etp_jax.data_prep.synthetic.archive import LEADS

FS = 500
BEFORE, AFTER = int(0.4 * FS), int(0.6 * FS)
"""Samples of a mean beat before and after the R peak."""


def r_peaks(ecg: np.ndarray, fs: int = FS) -> np.ndarray:
    """Samples of the QRS complexes: peaks of the energy between 8 and 22 Hz over all leads."""
    energy = np.square(sosfiltfilt(butter(2, (8, 22), "band", fs=fs, output="sos"), ecg, axis=0)).sum(axis=1)
    energy = np.sqrt(np.convolve(energy, np.ones(int(0.12 * fs)), "same"))
    peaks = find_peaks(energy, height=0.35 * np.percentile(energy, 98), distance=int(0.25 * fs))[0]
    return peaks[(peaks > 0.12 * fs) & (peaks < len(ecg) - 0.12 * fs)]  # what the edge cuts has no middle


def rr(ecg: np.ndarray, fs: int = FS) -> np.ndarray:
    return np.diff(r_peaks(ecg, fs)) / fs


def mean_beat(ecg: np.ndarray) -> np.ndarray:
    """Median beat [T, 12], zero between P and QRS."""
    peaks = [p for p in r_peaks(ecg) if p > BEFORE and p < len(ecg) - AFTER]
    beat = np.median([ecg[p - BEFORE : p + AFTER] for p in peaks], axis=0)
    speed = np.linalg.norm(np.gradient(beat, axis=0), axis=1)
    centre = int(np.average(np.arange(-60, 61), weights=np.square(speed[BEFORE - 60 : BEFORE + 61])))
    beat = np.roll(beat, -centre, axis=0)
    return beat - beat[BEFORE - int(0.08 * FS) : BEFORE - int(0.06 * FS)].mean(axis=0)


def ms(start: float, stop: float) -> slice:
    """Part of a mean beat, in milliseconds from the middle of the QRS."""
    return slice(BEFORE + round(start * FS / 1000), BEFORE + round(stop * FS / 1000))


def lead(beat: np.ndarray, name: str) -> np.ndarray:
    return beat[:, LEADS.index(name)]


def qrs_ms(beat: np.ndarray, part: float = 0.1) -> float:
    """Width of the QRS: from the first to the last time that the leads move at a part of their greatest speed."""
    speed = np.linalg.norm(np.gradient(beat, axis=0), axis=1)[ms(-110, 130)]
    moving = np.flatnonzero(speed > part * speed.max())
    return (moving[-1] - moving[0]) / FS * 1000
