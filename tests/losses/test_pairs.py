import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import LossConfig
from etp_jax.losses.pairs import Rows, add, make_pairs, needs_share, share

REPORT = np.array([4, 7, 4, 4])
SEMANTIC = np.array([[3.0, 0.0], [0.0, 0.5], [3.0, 0.0], [3.0, 0.0]], np.float32)
OWN = np.eye(4)
EQUAL = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]])


def rows_of(chosen: slice) -> Rows:
    return Rows(jnp.arange(4)[chosen], jnp.asarray(REPORT[chosen]), jnp.asarray(SEMANTIC[chosen]))


def pairs(config: LossConfig, chosen: slice = slice(None), blocks: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Targets and counted pairs of some local rows of the global batch above, put together from blocks of columns."""
    rows, size = rows_of(chosen), 4 // blocks
    columns = [rows_of(slice(start, start + size)) for start in range(0, 4, size)]
    all_columns = None
    if needs_share(config):
        parts = [share(rows, block, config) for block in columns]
        all_columns = add(jax.tree.map(lambda *xs: jnp.stack(xs), *parts))
    made = [make_pairs(rows, block, all_columns, config, jnp.dtype("float32")) for block in columns]
    return np.concatenate([m.target_bC for m in made], axis=1), np.concatenate([m.counts_bC for m in made], axis=1)


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


def test_semantic_sigmoid_target_with_a_margin_is_the_clipped_cosine():
    angles = np.deg2rad([0.0, 60.0, 90.0, 180.0])  # cosines with the first: 1, 0.5, 0, -1
    rows = Rows(jnp.arange(4), jnp.arange(4), jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    for margin, expected in ((0.0, [1, 0.5, 0, 0]), (0.2, [1, 0.375, 0, 0]), (0.6, [1, 0, 0, 0])):
        config = LossConfig(pairs="semantic", score="sigmoid", semantic_margin=margin)
        target = make_pairs(rows, rows, None, config, jnp.dtype("float32")).target_bC
        np.testing.assert_allclose(target[0], expected, atol=1e-6)


def test_equal_reports_have_target_1_with_a_margin_even_without_a_vector():
    rows = Rows(jnp.arange(3), jnp.array([5, 5, 6]), jnp.zeros((3, 2)))
    config = LossConfig(pairs="semantic", score="sigmoid", semantic_margin=0.3)
    target = make_pairs(rows, rows, None, config, jnp.dtype("float32")).target_bC
    np.testing.assert_array_equal(np.asarray(target), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_semantic_softmax_target_blends_equal_reports_with_a_softmax_of_cosines():
    target, _ = pairs(LossConfig(pairs="semantic", semantic_weight=0.25, semantic_temperature=0.5))
    alike = np.exp(EQUAL / 0.5)  # here the cosines are 1 for equal reports and 0 for others
    expected = 0.75 * EQUAL / EQUAL.sum(1, keepdims=True) + 0.25 * alike / alike.sum(1, keepdims=True)
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    np.testing.assert_allclose(target.sum(1), 1, rtol=1e-6)


def test_a_report_without_a_vector_is_like_none_of_the_others():
    rows = Rows(jnp.arange(2), jnp.arange(2), jnp.zeros((2, 3)))
    config = LossConfig(pairs="semantic", score="sigmoid")
    target = make_pairs(rows, rows, None, config, jnp.dtype("float32")).target_bC
    np.testing.assert_array_equal(np.asarray(target), np.full((2, 2), 0.5))


@pytest.mark.parametrize("kind", ["own", "equal-masked", "equal-positive", "semantic"])
def test_local_rows_are_rows_of_the_whole_and_the_whole_serves_both_directions(kind):
    whole_target, whole_counts = pairs(LossConfig(pairs=kind))
    target, counts = pairs(LossConfig(pairs=kind), slice(2, 4))
    np.testing.assert_array_equal(target, whole_target[2:])
    np.testing.assert_array_equal(counts, whole_counts[2:])
    if kind != "semantic":  # a softmax normalises its rows, so that target is each direction's own
        np.testing.assert_allclose(whole_target, whole_target.T)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["own", "equal-masked", "equal-positive", "semantic"])
def test_blocks_of_columns_are_parts_of_the_whole(kind, score):
    config = LossConfig(pairs=kind, score=score)
    for whole, parts in zip(pairs(config), pairs(config, blocks=2), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-6)
