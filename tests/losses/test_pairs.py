import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import LossConfig
from etp_jax.losses.pairs import make_pairs

REPORT = np.array([4, 7, 4, 4])
SEMANTIC = np.array([[3.0, 0.0], [0.0, 0.5], [3.0, 0.0], [3.0, 0.0]], np.float32)
OWN = np.eye(4)
EQUAL = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]])


def pairs(config: LossConfig, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Targets and counted pairs of some local rows of the global batch above."""
    semantic = SEMANTIC if config.pairs == "semantic" else None
    target, counts = make_pairs(
        jnp.arange(4)[rows],
        jnp.asarray(REPORT[rows]),
        jnp.asarray(REPORT),
        None if semantic is None else jnp.asarray(semantic[rows]),
        None if semantic is None else jnp.asarray(semantic),
        config,
        jnp.dtype("float32"),
    )
    return np.asarray(target), np.asarray(counts)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_own_report_is_the_only_positive_and_all_others_are_negatives(score):
    target, counts = pairs(LossConfig(pairs="own", score=score))
    np.testing.assert_array_equal(target, OWN)
    assert counts.all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_equal_masked_leaves_equal_reports_of_other_records_out(score):
    target, counts = pairs(LossConfig(pairs="equal-masked", score=score))
    np.testing.assert_array_equal(target, OWN)
    np.testing.assert_array_equal(counts, (EQUAL == 0) | (OWN == 1))


def test_equal_positive_shares_a_softmax_target_and_makes_every_sigmoid_pair_positive():
    np.testing.assert_allclose(pairs(LossConfig(pairs="equal-positive"))[0], EQUAL / EQUAL.sum(1, keepdims=True))
    np.testing.assert_array_equal(pairs(LossConfig(pairs="equal-positive", score="sigmoid"))[0], EQUAL)


def test_semantic_sigmoid_target_is_half_of_one_plus_the_cosine():
    target, _ = pairs(LossConfig(pairs="semantic", score="sigmoid"))
    np.testing.assert_allclose(target, np.where(EQUAL == 1, 1.0, 0.5), rtol=1e-6)  # cosines 1 and 0


def test_semantic_softmax_target_blends_equal_reports_with_a_softmax_of_cosines():
    target, _ = pairs(LossConfig(pairs="semantic", semantic_weight=0.25, semantic_temperature=0.5))
    alike = np.exp(EQUAL / 0.5)  # here the cosines are 1 for equal reports and 0 for others
    expected = 0.75 * EQUAL / EQUAL.sum(1, keepdims=True) + 0.25 * alike / alike.sum(1, keepdims=True)
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    np.testing.assert_allclose(target.sum(1), 1, rtol=1e-6)


def test_a_report_without_a_vector_is_like_none_of_the_others():
    zero = jnp.zeros((2, 3))
    target, _ = make_pairs(
        jnp.arange(2),
        jnp.arange(2),
        jnp.arange(2),
        zero,
        zero,
        LossConfig(pairs="semantic", score="sigmoid"),
        zero.dtype,
    )
    np.testing.assert_array_equal(np.asarray(target), np.full((2, 2), 0.5))


@pytest.mark.parametrize("kind", ["own", "equal-masked", "equal-positive", "semantic"])
def test_local_rows_are_rows_of_the_whole_and_the_whole_serves_both_directions(kind):
    whole_target, whole_counts = pairs(LossConfig(pairs=kind))
    target, counts = pairs(LossConfig(pairs=kind), slice(2, 4))
    np.testing.assert_array_equal(target, whole_target[2:])
    np.testing.assert_array_equal(counts, whole_counts[2:])
    if kind != "semantic":  # a softmax normalises its rows, so that target is each direction's own
        np.testing.assert_allclose(whole_target, whole_target.T)
