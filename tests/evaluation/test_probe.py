import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from etp_jax.evaluation import logistic
from etp_jax.evaluation.logistic import L2, fit
from etp_jax.evaluation.probe import draw
from etp_jax.metrics.classification import macro_auroc


def problem(records: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features like an encoder's (positive, correlated, of a falling spectrum) and classes from frequent to rare."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(features, features)) * np.logspace(0, -2.5, features)
    x = np.abs(rng.normal(size=(records, features)) @ mixing.T).astype(np.float32)
    logits = (x - x.mean(0)) / x.std(0) @ rng.normal(size=(features, 4)) * 2 / np.sqrt(features) + [-5, -3, -1, 0]
    y = rng.random((records, 4)) < 1 / (1 + np.exp(-logits))
    y[0] = True
    return x, y


@pytest.mark.parametrize(("records", "features"), [(100, 64), (1500, 64)])
def test_fit_equals_scikit_learn(records: int, features: int):
    x, y = problem(records, features)
    fitted = fit(x, y)
    assert (fitted.steps_L < logistic.STEPS).all()
    standard = (x.astype(np.float64) - x.mean(0, np.float64)) / x.std(0, dtype=np.float64)
    probabilities = 1 / (1 + np.exp(-fitted.logits(x).astype(np.float64)))
    for strength in (0, 2, 4):
        for c in range(y.shape[1]):
            reference = LogisticRegression(C=1 / (L2[strength] * records), tol=1e-9, max_iter=20000, solver="newton-cg")
            expected = reference.fit(standard, y[:, c]).predict_proba(standard)[:, 1]
            np.testing.assert_allclose(probabilities[strength, :, c], expected, rtol=0, atol=1e-4)


def test_fit_does_not_care_for_units_and_dead_features():
    x, y = problem(200, 16)
    changed = np.concatenate(
        [x * np.logspace(-3, 3, 16, dtype=np.float32) + 5, np.full((200, 1), 3, np.float32)], axis=1
    )
    np.testing.assert_allclose(fit(x, y, (0.1,)).logits(x), fit(changed, y, (0.1,)).logits(changed), atol=2e-3)


def test_class_with_one_outcome_scores_all_records_alike():
    x, y = problem(60, 8)
    y[:, 0], y[:, 2] = False, True
    logits = fit(x, y).logits(x)
    for c in (0, 2):
        assert (logits[:, :, c] == logits[:, :1, c]).all() and np.isfinite(logits[:, :, c]).all()
    assert np.ptp(logits[0, :, 1]) > 0


def test_stronger_l2_gives_smaller_weights():
    x, y = problem(300, 16)
    norms = np.linalg.norm(fit(x, y).weights_LFC, axis=1)
    assert (np.diff(norms, axis=0) < 0).all()


def test_subsets_are_stratified_nested_and_of_the_asked_size():
    y: NDArray[np.bool_] = np.less(np.random.default_rng(0).random((2000, 3)), [0.5, 0.1, 0.03])
    small, large = draw(y, 0.05, 5), draw(y, 0.2, 5)
    assert len(set(small)) == 100 and len(set(large)) == 400 and set(small) <= set(large)
    assert set(small) != set(draw(y, 0.05, 6)) and len(draw(y[:30], 0.01, 0)) == 1
    for subset, fraction in ((small, 0.05), (large, 0.2)):
        assert abs(y[subset, 2].sum() - fraction * y[:, 2].sum()) <= 2  # the rarest class is a separate stratum
        none = np.equal(y.sum(axis=1), 0)
        assert abs(none[subset].sum() - fraction * none.sum()) <= 2


def test_macro_auroc_leaves_out_classes_with_one_outcome():
    y = np.array([[True, False], [False, False]])
    assert macro_auroc(np.array([[1.0, 0.3], [0.0, 0.2]]), y) == 1
