"""Delineation of a median beat: where P, QRS and T begin and end, in all leads at once.

Without jax. `measure` explains the methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

FS = 500
"""Sampling rate at which beats are measured, in Hz; signals of a lower rate are interpolated."""
BEFORE, AFTER = int(0.4 * FS), int(0.6 * FS)
"""Number of samples of a beat before and after the middle of its QRS."""
QRS_PART = 0.05
"""Fraction of the QRS's maximum slope at which the QRS begins and ends. With 0.05, the median QRS of normal ECGs in
PTB-XL's training folds lasts 90 ms. 0.1 gives 76 ms and 0.035 gives 98 ms, both with a lower AUROC for right bundle
branch block."""
FLANK = int(0.022 * FS)
"""Number of samples over which the slope of a P or T wave is averaged. The steepest difference of two neighbours would
grow with noise, and the wave would seem to end earlier."""
P_LIKENESS, P_LIKENESS_IRREGULAR = 0.4, 0.6
"""Similarity of the signal before the QRS complexes below which there are no P waves to measure, in a regular and in an
irregular rhythm. With 0.4 for both, 22 % of the ECGs of atrial fibrillation in PTB-XL's fold 9 had a PR interval."""
IRREGULAR = 0.08
"""Irregularity of the RR intervals from which on the rhythm counts as irregular."""
POSSIBLE = {"p_ms": (40, 200), "pr_ms": (70, 400), "qrs_ms": (40, 200), "qt_ms": (150, 700)}
"""Range of each interval in patients, in ms. A value outside is a fault of the delineation, and is not reported: of the
16 ECGs in PTB-XL's fold 9 with a longer QRS, 11 are of pacemakers, whose spike was taken for its beginning."""
SHORTEST_RR = int(0.48 * FS)
"""Usual number of samples between two QRS complexes, 125 per minute, up to which nothing counts as a P wave: waves of
atrial flutter, of which every second is conducted, are as regular. In PTB-XL's fold 9, 19 ECGs are as fast and seem to
have P waves; 4 of them are of sinus rhythm."""
NEXT_P = int(0.26 * FS)
"""Number of samples before the next QRS from which on a wave is that QRS's P wave and no T wave."""
NEXT_WAVE = 0.2
"""Rise after a wave, as a share of its height, from which on it is another wave."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Waves:
    """Onsets and ends of the waves of a median beat, in samples; NaN for a wave that is absent."""

    p_likeness: float
    """Similarity, from beat to beat, of the signal before the QRS complexes."""
    p_on: float
    p_off: float
    qrs_on: int
    qrs_off: int
    t_end: float
    level: Array
    """[leads] isoelectric level, measured before the QRS, in microvolts."""


def delineate(beat: Array, beats: Array, before: float, after: float, irregularity: float) -> Waves | None:
    """Delineates the median beat [T, leads] of beats [N, T, leads]; None if it has no QRS.

    Args:
      beat: median beat.
      beats: the beats.
      before: usual distance of the QRS before, in samples.
      after: usual distance of the QRS after, in samples.
      irregularity: irregularity of the RR intervals.
    """
    if (qrs := _qrs(beat)) is None:
        return None
    qrs_on, qrs_off = qrs
    level = beat[max(qrs_on - 8, 0) : max(qrs_on - 2, 1)].mean(axis=0)
    last = BEFORE + int(max(after - NEXT_P, 0.6 * after))
    t_end = _t_end(np.linalg.norm(beat - level, axis=1), qrs_off, min(len(beat) - 1, last))
    # The search for the P wave starts after the T wave of the previous beat.
    first = (t_end if np.isfinite(t_end) else qrs_off + 0.3 * FS) - before + 0.03 * FS
    start = min(max(0, int(first)), max(qrs_on - int(0.12 * FS), 0))
    stop = max(qrs_on - 4, 1)
    p_likeness = _likeness(beats[:, start:stop])
    least = P_LIKENESS_IRREGULAR if irregularity >= IRREGULAR else P_LIKENESS
    clear = p_likeness >= least and before > SHORTEST_RR
    p_on, p_off = _p_wave(beat[start:stop]) if clear else (np.nan, np.nan)
    if not (possible("p_ms", p_off - p_on) and possible("pr_ms", qrs_on - start - p_on)):
        p_on = p_off = np.nan
    t_end = t_end if possible("qt_ms", t_end - qrs_on) else np.nan
    return Waves(p_likeness, start + p_on, start + p_off, qrs_on, qrs_off, t_end, level)


def possible(interval: str, samples: float) -> bool:
    """Whether an interval of so many samples is in the range of patients."""
    low, high = POSSIBLE[interval]
    return low <= samples * 1000 / FS <= high


def _qrs(beat: Array) -> tuple[int, int] | None:
    """Finds the first and last sample of the QRS: where the slope over all leads exceeds a fraction of its maximum.

    Returns:
      Both; None if nothing is steeper than its surroundings for as long as the shortest QRS.
    """
    speed = np.linalg.norm(np.gradient(beat, axis=0), axis=1)
    speed = np.convolve(speed, np.full(5, 0.2), "same")
    first, last = BEFORE - int(0.13 * FS), BEFORE + int(0.17 * FS)
    middle = slice(BEFORE - int(0.06 * FS), BEFORE + int(0.06 * FS))
    peak = middle.start + int(speed[middle].argmax())
    quiet = float(np.median(speed[first - int(0.1 * FS) : first]))
    moving = speed > max(QRS_PART * speed[peak], 2 * quiet)
    if not moving[peak]:
        return None
    on, off = peak - _last(moving[peak:first:-1]), peak + _last(moving[peak:last])
    return (on, off) if (off - on) * 1000 / FS >= POSSIBLE["qrs_ms"][0] else None


def _last(moving: NDArray[np.bool_]) -> int:
    """Finds the last sample before the first pause longer than 20 ms; shorter ones, as at the tip of R, are ignored."""
    places = np.flatnonzero(moving)
    rests = np.flatnonzero(np.diff(places) > int(0.02 * FS))
    return int(places[rests[0]] if len(rests) else places[-1])


def _t_end(size: Array, qrs_off: int, last: int) -> float:
    """Finds the end of the T wave, whose highest point is before `last`, by the tangent method."""
    start, earliest = qrs_off + int(0.08 * FS), qrs_off + int(0.02 * FS)
    part = size[start:last]
    if len(part) < int(0.04 * FS):
        return np.nan
    peak = start + int(part.argmax())
    if peak in (start, last - 1):  # an early T wave, an elevated ST segment, or the rise of the next P wave
        peaks = earliest + find_peaks(size[earliest:last], prominence=NEXT_WAVE / 2 * size[peak])[0]
        if len(peaks):
            peak = int(peaks[size[peaks].argmax()])
        elif peak > start:
            return np.nan
    return _foot(size, peak, 1, int(0.16 * FS))


def _p_wave(part: Array) -> tuple[float, float]:
    """Finds the first and last sample of the P wave in the signal between T wave and QRS [T, leads]."""
    if len(part) < int(0.06 * FS):
        return np.nan, np.nan
    ramp = np.linspace(0, 1, len(part))[:, None]
    edge = int(0.008 * FS)
    size = np.linalg.norm(part - part[:edge].mean(axis=0) * (1 - ramp) - part[-edge:].mean(axis=0) * ramp, axis=1)
    peaks, about = find_peaks(size, prominence=1)  # the tail of T is high, but less prominent
    if not len(peaks):
        return np.nan, np.nan
    peak = int(peaks[about["prominences"].argmax()])
    return _foot(size, peak, -1, int(0.1 * FS)), _foot(size, peak, 1, int(0.1 * FS))


def _foot(size: Array, peak: int, step: int, reach: int) -> float:
    """Finds where a wave begins (`step` -1) or ends (1): where the tangent to its steepest flank meets the baseline.

    A wave ends at its lowest point at the latest, and before the next one; NaN if it does not fall.
    """
    flank = size[peak::step][:reach]
    again = np.flatnonzero(flank - np.minimum.accumulate(flank) > NEXT_WAVE * flank[0])
    flank = flank[: int(flank[: again[0] if len(again) else None].argmin()) + 1]
    if len(flank) < FLANK:
        return float(peak + step * (len(flank) - 1))
    slope = np.convolve(np.gradient(flank), np.full(FLANK, 1 / FLANK), "valid")
    if slope.min() >= 0:
        return np.nan
    steepest = FLANK // 2 + int(slope.argmin())
    rest = size[peak::step][steepest : steepest + int(0.12 * FS)]
    return peak + step * (steepest + min((rest[0] - rest.min()) / -slope.min(), int(rest.argmin())))


def _likeness(parts: Array) -> float:
    """Computes the mean correlation of the signal before each QRS [N, T, leads] with the mean of the other beats.

    It is high if there are P waves.
    """
    if parts.shape[1] < int(0.06 * FS):
        return np.nan
    parts = parts[:, :: FS // 100]
    flat = (parts - parts.mean(axis=1, keepdims=True)).reshape(len(parts), -1)
    others = (flat.sum(axis=0) - flat) / (len(flat) - 1)
    product = (flat * others).sum(axis=1)
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.mean(product / np.maximum(norms, 1e-9)))
