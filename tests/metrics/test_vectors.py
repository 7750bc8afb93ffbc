"""Tests of vectors of unit length."""

from __future__ import annotations

import numpy as np
import pytest

from etp_jax.metrics.vectors import mean_cosine, unit


@pytest.mark.parametrize("count", [2, 3, 20])
def test_mean_cosine_is_that_of_all_pairs(count: int) -> None:
    x_NE = unit(np.random.default_rng(count).normal(0.3, 1, (count, 5)))
    cosines = [x_NE[i] @ x_NE[j] for i in range(count) for j in range(count) if i != j]
    assert mean_cosine(x_NE) == pytest.approx(np.mean(cosines), abs=1e-12)


def test_mean_cosine_of_equal_and_of_too_few() -> None:
    same_NE = np.tile(unit(np.array([1.0, 2.0])), (4, 1))
    assert mean_cosine(same_NE) == pytest.approx(1) and mean_cosine(same_NE[:1]) == 0
