"""The rough heart rate by which a wrong sampling rate is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from etp_jax.ecg.heart_rate import heart_rate, impossible_rate
from etp_jax.ecg.leads import Recording


def beating(rate: float, fs: float, seconds: float = 10) -> Recording:
    """QRS and T waves at a heart rate, in two leads, with noise."""
    time = np.arange(round(seconds * fs)) / fs
    phase = (time * rate / 60 + 0.3) % 1 * 60 / rate
    beat = 1000 * np.exp(-(((phase - 0.2) / 0.012) ** 2)) + 250 * np.exp(-(((phase - 0.45) / 0.05) ** 2))
    noise = np.random.default_rng(0).normal(0, 5, (len(time), 2))
    return Recording(beat[:, None] * [1, -0.5] + noise, fs, ("II", "V1"))


@pytest.mark.parametrize("fs", [100, 250, 500, 1000])
@pytest.mark.parametrize("rate", [45, 75, 120])
def test_the_rate_of_regular_beats(rate: float, fs: float) -> None:
    assert heart_rate(beating(rate, fs)) == pytest.approx(rate, rel=0.05)


def test_a_wrong_sampling_rate_gives_an_impossible_heart_rate() -> None:
    right = beating(75, 500)
    assert not impossible_rate(right)
    assert impossible_rate(replace(right, fs=100)).startswith("at 100 Hz the heart rate would be 15/min")
    assert impossible_rate(replace(right, fs=5000)).startswith("at 5000 Hz the heart rate would be 75")


def test_no_rate_without_regular_beats() -> None:
    noise = np.random.default_rng(0).normal(0, 100, (5000, 12))
    for signal in (noise, np.zeros((5000, 12)), noise[:3], np.full((5000, 12), np.nan)):
        assert heart_rate(Recording(signal, 500, ("I",) * 12)) is None
