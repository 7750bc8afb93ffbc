"""Tests that ranks computed on devices equal those of the host and of a dense reference in double precision."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

from etp_jax.config import RunConfig
from etp_jax.metrics.retrieval import retrieval_ranks
from etp_jax.training.parallel import Parallel
from etp_jax.training.ranks import SMALL, Ranks
from etp_jax.training.validation import sample_size
from tests.helpers.devices import run_on

COUNT = 1003


def measure() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    report = rng.integers(0, 400, COUNT).astype(np.int32)
    # Whole numbers, so that every product is exact and many scores are equal.
    ecg = rng.integers(-2, 3, (COUNT, 6)).astype(np.float32)
    text = rng.integers(-2, 3, (400, 6)).astype(np.float32)[report]
    same = np.ones_like(ecg)
    agree = {}
    layouts: Any = (("pmap", 4, 64), ("shard_map", 3, 256), ("pmap", 1, 2048))
    for mode, devices, tile in layouts:
        ranks = Ranks(Parallel(mode, jax.devices()[:devices]), small=100, tile=tile)
        for name, (x, y) in {"random": (ecg, text), "collapsed": (same, same)}.items():
            expected, ours = retrieval_ranks(x, y, report), ranks(x, y, report)
            agree[f"{mode} {devices} {name}"] = all(np.array_equal(ours[key], expected[key]) for key in expected)
    return agree


def test_ranks_on_devices_equal_those_of_the_host() -> None:
    agree = run_on(4, measure)
    assert len(agree) == 6 and all(agree.values()), agree


def dense(ecg: NDArray, text: NDArray, report: NDArray, margin: float) -> list[NDArray]:
    """Ranks by the definition: wrong candidates above the best correct one, equal ones by half; float64.

    `margin` is subtracted from the scores of the wrong candidates.
    """
    score, hit = ecg.astype(np.float64) @ text.astype(np.float64).T, report[:, None] == report
    ranks = []
    for matrix in (score, score.T):
        best = np.where(hit, matrix, -np.inf).max(axis=1, keepdims=True)
        wrong = np.where(hit, -np.inf, matrix - margin)
        ranks.append(1 + (wrong > best).sum(axis=1) + (wrong == best).sum(axis=1) / 2)
    return ranks


@pytest.fixture
def ranks() -> Ranks:
    return Ranks(Parallel("pmap", jax.devices()[:1]))


def records(distinct: int) -> tuple[np.random.Generator, NDArray]:
    """Reports of more records than the host ranks; one report is that of a tenth of the records."""
    rng = np.random.default_rng(1)
    report = rng.integers(0, distinct, SMALL + 203)
    return rng, np.where(rng.random(len(report)) < 0.1, 7, report).astype(np.int32)


def test_ties_and_reports_of_several_records(ranks: Ranks) -> None:
    rng, report = records(900)
    ecg = rng.integers(-3, 4, (len(report), 5)).astype(np.float32)
    text = rng.integers(-3, 4, (900, 5)).astype(np.float32)[report]
    ours, (by_ecg, by_text) = ranks(ecg, text, report), dense(ecg, text, report, 0)
    assert np.any(by_ecg % 1 == 0.5) and np.any(by_text % 1 == 0.5)  # there are ties
    np.testing.assert_array_equal(ours["ecg_to_text"], by_ecg)
    np.testing.assert_array_equal(ours["text_to_ecg"], by_text)


def test_equal_embeddings_gain_nothing(ranks: Ranks) -> None:
    """Every value is rounded, and yet all scores are equal, so that every rank is in the middle."""
    _, report = records(3000)
    vector = np.random.default_rng(2).normal(size=128).astype(np.float32)
    same = np.repeat(vector[None] / np.linalg.norm(vector), len(report), axis=0)
    ones = np.ones((len(report), 1))
    ours, (by_ecg, by_text) = ranks(same, same, report), dense(ones, ones, report, 0)
    np.testing.assert_array_equal(ours["ecg_to_text"], by_ecg)
    np.testing.assert_array_equal(ours["text_to_ecg"], by_text)


def test_unit_embeddings(ranks: Ranks) -> None:
    """Scores that differ by less than their rounding may be ranked either way; all others agree."""
    rng, report = records(3000)

    def unit(x: NDArray) -> NDArray[np.float32]:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    text = unit(rng.normal(size=(3000, 128)))[report]
    ecg = unit(rng.normal(size=text.shape) + 2 * text)
    low, high = (dense(ecg, text, report, margin) for margin in (1e-6, -1e-6))
    for ours, least, most in zip(ranks(ecg, text, report).values(), low, high, strict=True):
        assert np.all(least <= ours) and np.all(ours <= most) and np.mean(least == most) > 0.95


@pytest.mark.parametrize(
    ("option", "paired", "between", "expected"),
    [
        (0, 20_000, 1_000_000, 20_000),  # all are less than a tenth of the epoch
        (0, 20_000, 100_000, 10_000),
        (0, 20_000, 10_000, SMALL),
        (0, 2000, 10_000, 2000),
        (500, 20_000, 100_000, 500),
        (30_000, 20_000, 100_000, 20_000),
    ],
)
def test_the_size_of_a_sample(option: int, paired: int, between: int, expected: int) -> None:
    assert sample_size(RunConfig(validation_records=option), paired, between) == expected
