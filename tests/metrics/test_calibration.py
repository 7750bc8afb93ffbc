"""Tests bins and calibration errors against scikit-learn and against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from etp_jax.metrics import calibration


@pytest.mark.parametrize(("divide", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
@pytest.mark.parametrize("digits", [1, 9])
def test_tables_are_those_of_scikit_learn(divide: str, strategy: str, digits: int):
    rng = np.random.default_rng(0)
    p = np.round(rng.beta(0.5, 2, 500), digits)  # rounded to one digit, many are equal
    y = rng.random(500) < p**1.3
    bin_ = getattr(calibration, divide)(p)
    table = np.array(calibration.reliability(p, y, bin_))
    share, mean = calibration_curve(y, p, n_bins=calibration.BINS, strategy=strategy)
    np.testing.assert_allclose(table[:, 1:], np.stack([mean, share], axis=1), atol=1e-6)
    assert table[:, 0].sum() == 500
    expected = (table[:, 0] * np.abs(mean - share)).sum() / 500
    error = calibration.expected_calibration_error(p, y, bin_, np.ones((500, 1), np.int32))
    assert error[0] == pytest.approx(expected, abs=1e-9)


def test_weights_are_repeated_records():
    rng = np.random.default_rng(1)
    p, weights = rng.random(60), rng.integers(0, 4, (60, 5)).astype(np.int32)
    y, bin_ = rng.random(60) < p, rng.integers(0, 7, 60)
    errors = calibration.expected_calibration_error(p, y, bin_, weights)
    for error, w in zip(errors, weights.T, strict=True):
        rows = np.repeat(np.arange(60), w)
        gaps = [abs((p - y)[rows][bin_[rows] == b].sum()) for b in range(7)]
        assert error == pytest.approx(sum(gaps) / len(rows))


def test_right_probabilities_have_no_error():
    p, y = np.repeat([0.0, 1.0], 20), np.repeat([False, True], 20)
    for divide in (calibration.equal_mass, calibration.equal_width):
        assert calibration.expected_calibration_error(p, y, divide(p), np.ones((40, 1), np.int32)) == 0
