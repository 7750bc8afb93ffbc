import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from etp_jax.metrics.bootstrap import interval
from etp_jax.metrics.classification import best_thresholds, f1, nearest, nearest_metrics, ranking, score

ONE = np.ones((1, 1), np.int32)


def sample(seed: int, records: int, values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that take few values (many ties), a class that they tell a little, and weights with zeros."""
    rng = np.random.default_rng(seed)
    y = rng.random(records) < rng.uniform(0.02, 0.98)
    scores = rng.integers(values, size=records) + y * rng.integers(2)
    weights = rng.poisson(1, (records, 3)).astype(np.int32)
    return scores.astype(np.float64), y, weights


def both(y: np.ndarray) -> bool:
    return bool(y.any() and not y.all())


@pytest.mark.parametrize("values", [2, 7, 10**6])
@pytest.mark.parametrize("seed", range(8))
def test_ranking_and_f1_equal_scikit_learn_under_every_weighting(seed: int, values: int):
    scores, y, weights = sample(seed, 300, values)
    auroc, auprc = ranking(scores, y, weights)
    called = scores >= np.median(scores)
    f1_values = f1(called, y, weights)
    for r, weight in enumerate(weights.T):
        kept = weight > 0
        args = {"y_true": y[kept], "sample_weight": weight[kept]}
        np.testing.assert_allclose(auroc[r], roc_auc_score(y_score=scores[kept], **args), rtol=0, atol=1e-12)
        np.testing.assert_allclose(auprc[r], average_precision_score(y_score=scores[kept], **args), rtol=0, atol=1e-12)
        np.testing.assert_allclose(f1_values[r], f1_score(y_pred=called[kept], **args), rtol=0, atol=1e-12)


def test_weights_count_as_repeated_records():
    scores, y, weights = sample(3, 80, 5)
    auroc, auprc = ranking(scores, y, weights)
    for r, weight in enumerate(weights.T):
        again = np.repeat(np.arange(80), weight)
        assert auroc[r] == pytest.approx(roc_auc_score(y[again], scores[again]), abs=1e-12)
        assert auprc[r] == pytest.approx(average_precision_score(y[again], scores[again]), abs=1e-12)


cases = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).map(
    lambda pairs: (np.array([p[0] for p in pairs], np.float64), np.array([p[1] for p in pairs]))
)


@given(cases)
@settings(deadline=None)
def test_ranking_is_the_definition(case: tuple[np.ndarray, np.ndarray]):
    scores, y = case
    ones = np.ones((len(y), 1), np.int32)
    auroc, auprc = (values[0] for values in ranking(scores, y, ones))
    if not both(y):
        assert np.isnan(auroc) and np.isnan(auprc)
        return
    pairs = scores[y][:, None] - scores[~y]
    assert auroc == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean(), abs=1e-12)
    at_or_above = scores >= scores[y][:, None]
    assert auprc == pytest.approx((at_or_above[:, y].sum(axis=1) / at_or_above.sum(axis=1)).mean(), abs=1e-12)


@given(cases, st.randoms())
@settings(deadline=None)
def test_ranking_knows_order_only(case: tuple[np.ndarray, np.ndarray], random):
    scores, y = case
    ones = np.ones((len(y), 1), np.int32)
    shuffled = random.sample(range(len(y)), len(y))
    same = ranking(np.exp(scores[shuffled]) - 5, y[shuffled], ones)
    np.testing.assert_allclose(same, ranking(scores, y, ones), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ranking(-scores, y, ones)[0], 1 - ranking(scores, y, ones)[0], rtol=0, atol=1e-12)


@given(cases)
@settings(deadline=None)
def test_best_thresholds_are_best(case: tuple[np.ndarray, np.ndarray]):
    scores, y = case
    (threshold,) = best_thresholds(scores[:, None], y[:, None])
    if not y.any():
        assert threshold == np.inf
        return
    possible = {cut: f1_score(y, scores >= cut) for cut in np.unique(scores)}
    assert possible[threshold] == pytest.approx(max(possible.values()), abs=1e-12)
    assert all(value < possible[threshold] + 1e-12 for cut, value in possible.items() if cut > threshold)


def test_nothing_called_has_f1_0_and_one_outcome_has_none():
    y = np.array([True, False, True])
    weights = np.array([[1, 1, 0], [1, 0, 2], [1, 1, 0]], np.int32)
    nothing = f1(np.zeros(3, bool), y, weights)
    assert nothing[0] == 0 and np.isnan(nothing[1:]).all()


def test_macro_is_over_classes_with_both_outcomes():
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(50, 4)), rng.random((50, 4)) < 0.4
    y[:, 1], y[:, 3] = False, True
    result = score(scores, scores > 0, y, np.ones((50, 1), np.int32))
    assert result.classes_scored == 2
    assert result.positives.tolist() == [*y.sum(axis=0)]
    expected = [roc_auc_score(y[:, c], scores[:, c]) for c in (0, 2)]
    assert result.macro[0, 0] == pytest.approx(np.mean(expected), abs=1e-12)
    np.testing.assert_allclose(result.values[[0, 2], 0, 0], expected, rtol=0, atol=1e-12)


def test_macro_of_a_replicate_without_any_class_is_no_number():
    y = np.array([[True], [False]])
    result = score(np.array([[1.0], [0.0]]), y, y, np.array([[1, 2], [1, 0]], np.int32))
    assert result.macro[0, 0] == 1 and np.isnan(result.macro[:, 1]).all()
    assert interval(result.macro[0]) == (1, 1)
    assert all(np.isnan(interval(np.array([np.nan]))))


@pytest.mark.parametrize("seed", range(4))
def test_top_1_metrics_equal_scikit_learn_under_every_weighting(seed: int):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(5), 12)
    scores = rng.normal(size=(60, 5)) + np.eye(5)[y]
    scores[:, 3] -= 9  # never called
    weights = np.concatenate([np.ones((60, 1)), rng.poisson(1, (60, 3))], axis=1).astype(np.int32)
    called = nearest(scores)
    found = nearest_metrics(called, np.eye(5, dtype=bool)[y], weights)
    top = scores.argmax(axis=1)
    for r, weight in enumerate(weights.T):
        args = {"y_true": y, "y_pred": top, "sample_weight": weight}
        macro = {**args, "average": "macro", "zero_division": 0}
        assert found["top1_accuracy"][r] == pytest.approx(accuracy_score(**args))
        assert found["macro_precision"][r] == pytest.approx(precision_score(**macro))
        assert found["macro_recall"][r] == pytest.approx(recall_score(**macro))
        each = [accuracy_score(y == c, top == c, sample_weight=weight) for c in range(5)]
        assert found["binary_accuracy"][r] == pytest.approx(np.mean(each))
        assert found["binary_accuracy"][r] == pytest.approx(1 - 2 * (1 - found["top1_accuracy"][r]) / 5)
    assert found["macro_recall"][0] == pytest.approx(found["top1_accuracy"][0])  # as many of each class


def test_top_1_takes_the_first_of_equal_scores_and_leaves_out_absent_classes():
    assert nearest(np.array([[1.0, 1.0, 0.0]])).tolist() == [[True, False, False]]
    y = np.eye(3, dtype=bool)
    found = nearest_metrics(y, y, np.array([[1], [1], [0]], np.int32))
    assert found["macro_recall"].tolist() == found["macro_precision"].tolist() == [1.0]
