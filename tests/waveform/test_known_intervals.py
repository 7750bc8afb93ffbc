"""Measures ECGs of waves whose beginnings and ends are known, at three sampling rates and two levels of noise."""

from __future__ import annotations

import numpy as np
import pytest

from etp_jax.ecg.prepare import Prepared
from etp_jax.waveform.measure import measure
from tests.helpers.analytic_ecg import draw, random_known

ECGS = 12
TANGENT = 0.5 - 1 / np.pi
"""Part of a raised cosine's flank between its end and the point where the steepest tangent meets zero."""


@pytest.mark.parametrize("fs", [100, 250, 500])
@pytest.mark.parametrize("noise", [0, 25])
def test_intervals_have_little_bias(fs: int, noise: int) -> None:
    rng = np.random.default_rng(3)
    errors: dict[str, list[float]] = {}
    for _ in range(ECGS):
        known = random_known(rng)
        found = measure(Prepared(draw(known, fs, noise, rng), np.ones(12, bool), ()), fs)
        truth = {
            "rate_bpm": known.rate_bpm,
            "qrs_ms": known.qrs_ms,
            "pr_ms": known.pr_ms - TANGENT * known.p_ms / 2,
            "qt_ms": known.qt_ms - TANGENT * known.t_fall_ms,
        }
        for name, value in truth.items():
            errors.setdefault(name, []).append(float(np.squeeze(found[name])) - value)
    # One sample at 100 Hz is 10 ms. Some P waves here begin before the T wave of the beat before has ended.
    for name, limit in (("rate_bpm", 0.3), ("qrs_ms", 12), ("pr_ms", 10), ("qt_ms", 5)):
        assert np.isfinite(errors[name]).sum() >= ECGS - 2, (name, errors[name])
        assert abs(np.nanmedian(errors[name])) <= limit, (name, errors[name])


def test_noise_does_not_shorten_qt() -> None:
    """The steepest difference between two noisy samples is steeper than T, and its tangent would end too early."""
    shortened = []
    for seed in range(ECGS):
        known = random_known(np.random.default_rng(seed))
        ecgs = (draw(known, 500, noise, np.random.default_rng(seed)) for noise in (0, 25))
        quiet, noisy = (measure(Prepared(ecg, np.ones(12, bool), ()), 500)["qt_ms"] for ecg in ecgs)
        shortened.append(float(np.squeeze(quiet)) - float(np.squeeze(noisy)))
    assert abs(np.median(shortened)) < 6, shortened
