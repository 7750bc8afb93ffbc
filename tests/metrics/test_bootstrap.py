import warnings

import numpy as np
import pytest

from etp_jax.metrics.bootstrap import bootstrap_weights, interval, of_some, weighted_mean, weighted_median
from etp_jax.metrics.calibration import equal_width, expected_calibration_error
from etp_jax.metrics.classification import Scored, nearest, nearest_metrics, score


def test_bootstrap_draws_whole_patients():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    weights = bootstrap_weights(patients, 200, seed=1)
    assert weights.shape == (6, 201) and weights.dtype == np.int32
    assert (weights[:, 0] == 1).all()
    for same in ([0, 2, 5], [1, 4]):
        assert (weights[same] == weights[same[0]]).all()
    one_each = weights[[0, 1, 3], 1:]
    assert (one_each.sum(axis=0) == 3).all()  # as many draws as patients
    assert one_each.std() > 0 and abs(one_each.mean(axis=1) - 1).max() < 0.25
    np.testing.assert_array_equal(weights, bootstrap_weights(patients, 200, seed=1))


def test_bootstrap_interval_has_the_width_of_the_estimate():
    """The spread of the mean of N independent draws is known: 1 / sqrt(N) of theirs."""
    values = np.random.default_rng(0).normal(size=400)
    weights = bootstrap_weights(np.arange(400).astype(str), 4000)
    low, high = interval(values @ weights[:, 1:] / 400)
    spread = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * spread, abs=0.15 * spread)
    assert high == pytest.approx(values.mean() + 1.96 * spread, abs=0.15 * spread)


@pytest.mark.parametrize("seed", range(4))
def test_averages_count_each_record_as_often_as_it_was_drawn(seed: int):
    rng = np.random.default_rng(seed)
    values, weights = rng.integers(6, size=25).astype(float), rng.integers(4, size=(25, 9)).astype(np.int32)
    repeated = [np.repeat(values, weight) for weight in weights.T]
    np.testing.assert_allclose(weighted_mean(values, weights), [each.mean() for each in repeated], rtol=1e-12)
    np.testing.assert_array_equal(weighted_median(values, weights), [np.median(each) for each in repeated])


def test_records_of_one_patient_have_figures_but_no_interval():
    """Every draw of a single patient is the sample itself: intervals would have width 0."""
    rng = np.random.default_rng(0)
    y, scores = np.arange(40)[:, None] % 2 == np.arange(2), rng.random((40, 2))
    weights = bootstrap_weights(np.full(40, "one"), 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score(scores, scores > 0.5, y, weights)
        figures = dict(enumerate([*scored.values.reshape(-1, 31), *scored.macro]))
        figures |= nearest_metrics(nearest(scores), y, weights)
        figures["mean"], figures["median"] = (f(scores[:, 0], weights) for f in (weighted_mean, weighted_median))
        bins = equal_width(scores[:, 0])
        figures["calibration"] = expected_calibration_error(scores[:, 0], y[:, 0], bins, weights)
    assert isinstance(scored, Scored) and len(figures) == 2 * 3 + 3 + 4 + 3
    for name, values in figures.items():
        assert np.isfinite(values[0]), name
        assert np.isnan(values[1:]).all() and np.isnan(interval(values[1:])).all(), name
    assert figures["mean"][0] == pytest.approx(scores[:, 0].mean()) and figures["median"][0] == np.median(scores[:, 0])


def test_a_part_with_one_of_several_patients_has_no_interval_either():
    patients = np.array(["a", "a", "b", "c"])
    weights = bootstrap_weights(patients, 50)
    assert (weights[:2, 1:] > 0).any()
    alone, both = of_some(weights, patients == "a"), of_some(weights, np.array([1, 2]))
    assert (alone[:, 0] == 1).all() and not alone[:, 1:].any()
    np.testing.assert_array_equal(both, weights[1:3])
    assert of_some(weights, np.zeros(4, bool)).shape == (0, 51)
