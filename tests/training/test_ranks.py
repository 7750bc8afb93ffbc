"""Tests that ranks computed on devices equal those of the host. As a script it runs on several virtual devices."""

from typing import Any

import jax
import numpy as np

from etp_jax.metrics.retrieval import retrieval_ranks
from etp_jax.training.parallel import Parallel
from etp_jax.training.ranks import Ranks
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
    layouts: Any = (("pmap", 4), ("shard_map", 3), ("pmap", 1))
    for mode, devices in layouts:
        ranks = Ranks(Parallel(mode, jax.devices()[:devices]), small=100)
        for name, (x, y) in {"random": (ecg, text), "collapsed": (same, same)}.items():
            expected, ours = retrieval_ranks(x, y, report), ranks(x, y, report)
            agree[f"{mode} {devices} {name}"] = all(np.array_equal(ours[key], expected[key]) for key in expected)
    return agree


def test_ranks_on_devices_equal_those_of_the_host() -> None:
    agree = run_on(4, measure)
    assert len(agree) == 6 and all(agree.values()), agree
