"""Compares intervals and p values with independent computations in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from etp_jax.reproduce.intervals import over_patients, over_seeds, patients_p, seeds_p

VALUES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6, unique=True)


@given(VALUES)
def test_interval_over_seeds_is_students(values: list[float]) -> None:
    x = np.array(values)
    found = over_seeds(x)
    assert found is not None
    expected = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    np.testing.assert_allclose([found["low"], found["high"]], expected, rtol=1e-9, atol=1e-12)
    assert seeds_p(x - 0.5) == pytest.approx(stats.ttest_1samp(x, 0.5)[1], rel=1e-6, abs=1e-12)


def test_a_single_seed_has_no_interval_over_seeds() -> None:
    assert over_seeds(np.array([0.8])) is None and seeds_p(np.array([0.1])) is None
    assert seeds_p(np.array([0.1, 0.1])) == 0.0 and seeds_p(np.zeros(3)) == 1.0


def test_what_is_undefined_has_no_interval_over_seeds() -> None:
    undefined = np.array([np.nan, np.nan])
    assert over_seeds(undefined) is None and seeds_p(undefined) is None
    assert over_seeds(np.array([0.5, np.nan])) is None


def test_interval_over_patients_is_of_the_mean_over_seeds() -> None:
    replicates_SR = np.random.default_rng(0).normal(size=(3, 400))
    means = sorted(sum(column) / 3 for column in replicates_SR.T)
    # the 2.5th percentile of 400 is between the 10th and 11th smallest, 9.975 steps from the smallest
    low = means[9] + 0.975 * (means[10] - means[9])
    high = means[389] + 0.025 * (means[390] - means[389])
    assert over_patients(replicates_SR) == pytest.approx({"low": low, "high": high})


def test_p_over_patients() -> None:
    differences = np.array([0.1] * 97 + [-0.1, 0.0, np.nan])
    assert patients_p(differences) == pytest.approx(2 * 3 / 100)
    assert patients_p(-differences) == pytest.approx(2 * 3 / 100)
    assert patients_p(np.full(999, 0.2)) == pytest.approx(2 / 1000)
    assert patients_p(np.zeros(50)) == 1.0 and np.isnan(patients_p(np.full(3, np.nan)))


def test_p_over_patients_agrees_with_the_normal_one() -> None:
    """For the mean over many patients, the bootstrap must agree with a z test."""
    rng = np.random.default_rng(1)
    x = rng.normal(0.12, 1, 400)
    replicates = np.array([rng.choice(x, len(x)).mean() for _ in range(4000)])
    z = x.mean() / (x.std() / np.sqrt(len(x)))
    assert patients_p(replicates) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)
