from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from etp_jax.evaluation import knn
from etp_jax.evaluation.knn import NEIGHBOURS, Neighbours


@pytest.mark.parametrize("records", [40, 700])
def test_scores_equal_scikit_learns(records: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(knn, "BLOCK", 7)
    rng = np.random.default_rng(0)
    x, others = (rng.normal(2, 1, (n, 12)).astype(np.float32) * np.logspace(-2, 2, 12) for n in (records, 20))
    y = rng.random((records, 3)) < [0.1, 0.5, 0.9]
    found = Neighbours.fit(x.astype(np.float32), y)
    scores = found.logits(others.astype(np.float32))
    standard, others = (x - x.mean(0)) / x.std(0), (others - x.mean(0)) / x.std(0)
    for k, scores_nC in zip(NEIGHBOURS, scores, strict=True):
        weights: Any = lambda distance: 2 - distance  # noqa: E731
        reference = KNeighborsClassifier(min(k, records), metric="cosine", weights=weights)
        expected = [p[:, 1] for p in reference.fit(standard, y).predict_proba(others)]
        np.testing.assert_allclose(scores_nC.T, expected, atol=2e-5)
    assert [found.details(n)["neighbours"] for n in range(len(scores))] == [min(k, records) for k in NEIGHBOURS]
