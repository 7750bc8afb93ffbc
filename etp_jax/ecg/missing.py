"""Values that stand for samples which were not recorded, such as -999. Does not import jax."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import MICROVOLT, Recording

FLAT_UV = 5.0
"""Largest peak-to-peak range, in microvolts, at which a lead counts as not connected."""
FAR = 10.0
"""A value marks missing samples if it occurs at least twice, and is farther from all other samples of its lead than
this many times their range. A lead that is clipped reaches its limit through values near it. In all of PTB-XL, no value
that occurs twice in a lead is farther than 0.5 ranges from the others; single artifacts are up to 3.5 ranges."""
FAR_NINES = 0.25
"""The same for three or more nines (-999, 9999), which are written for nothing else, and may be as small as an ECG."""


def without_marks(recording: Recording) -> Recording:
    """Makes samples missing (NaN) whose value marks them so; a note names value, leads and counts.

    A value that is a mark in one lead is one in all.
    """
    found: Counter[float] = Counter()
    for values in recording.signal.T:
        for mark in _marks(values):
            found[mark] += int(np.count_nonzero(values == mark))
    marks = sorted(mark for mark, count in found.items() if count > 1)
    if not marks:
        return recording
    signal, notes, unit = recording.signal.copy(), [], recording.unit or "mV"
    for mark in marks:
        is_mark = signal == mark
        signal[is_mark] = np.nan
        counts = zip(recording.channels, is_mark.sum(axis=0).tolist(), strict=True)
        listed = ", ".join(f"{channel} ({count})" for channel, count in counts if count)
        notes.append(f"samples of {mark / MICROVOLT[unit]:g} {unit}, far from all others, read as missing: {listed}")
    # Beside -9999, -999 is an extreme only now.
    return without_marks(replace(recording, signal=signal, notes=(*recording.notes, *notes)))


def _marks(values: NDArray[np.float64]) -> list[float]:
    """Returns the highest and the lowest value, in microvolts, if they are far from all others."""
    high, low = float(np.fmax.reduce(values, initial=-np.inf)), float(np.fmin.reduce(values, initial=np.inf))
    others = values[(values < high) & (values > low)]
    if not len(others):
        return []
    top, bottom = float(others.max()), float(others.min())
    span = top - bottom
    if span <= FLAT_UV:  # nothing to compare with: three values that alternate, such as hum at a fourth of the rate
        return []
    gaps = {high: high - top, low: bottom - low}
    return [value for value, gap in gaps.items() if gap > (FAR_NINES if _is_nines(value) else FAR) * span]


def _is_nines(value: float) -> bool:
    """Whether a value in microvolts is written in three or more nines, in some unit of voltage."""
    digits = f"{abs(value):.3f}".strip("0.") if np.isfinite(value) else ""
    return len(digits) > 2 and not digits.strip("9")
