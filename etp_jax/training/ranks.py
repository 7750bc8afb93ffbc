"""Ranks of retrieval, computed on the devices in blocks of queries."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from etp_jax.losses.pairs import matmul
from etp_jax.metrics.retrieval import retrieval_ranks
from etp_jax.training.parallel import Parallel

SMALL = 4096
"""Records up to which a validation is small: its sample is never smaller, and its ranks are computed on the host."""
LARGEST_SCORES = SMALL**2
"""Scores that a device holds at a time; more are compared in blocks."""


class Ranks:
    """Computes `retrieval_ranks`; of many records on all devices, each for its share of the queries."""

    def __init__(self, parallel: Parallel, small: int = SMALL) -> None:
        """Sets up the devices; up to `small` records are ranked on the host, which is quicker than a compilation."""
        self._parallel, self._small = parallel, small
        self._ranks = parallel.wrap_eval_step(step)

    def __call__(self, ecg_NE: NDArray, text_NE: NDArray, report_N: NDArray) -> dict[str, NDArray[np.float64]]:
        """Ranks each record as a query, by direction; all hosts get all ranks."""
        count, devices = len(report_N), self._parallel.devices
        if count <= self._small:
            return retrieval_ranks(ecg_NE, text_NE, report_N)
        queries = np.resize(np.arange(count, dtype=np.int32), layout(count, devices))  # filled with the first ones
        own = np.split(queries, jax.process_count())[jax.process_index()]
        ecg, text, report = self._parallel.replicate((ecg_NE, text_NE, report_N))
        ranks = self._ranks(ecg, text, self._parallel.put_batch(own), report)
        return {name: np.asarray(x, np.float64).reshape(-1)[:count] for name, x in ranks.items()}


def layout(count: int, devices: int) -> tuple[int, int]:
    """Returns the number of blocks of queries, a multiple of `devices`, and the queries of a block."""
    block = max(1, min(LARGEST_SCORES // count, -(-count // devices)))
    return -(-count // (block * devices)) * devices, block


def step(ecg_NE: jax.Array, text_NE: jax.Array, queries_kq: jax.Array, report_N: jax.Array) -> Any:
    """Ranks records, given by number, q at a time; [k, q] by direction."""

    def block(queries_q: jax.Array) -> dict[str, jax.Array]:
        hit_qN = report_N[queries_q][:, None] == report_N

        def rank(query_NE: jax.Array, key_NE: jax.Array) -> jax.Array:
            score_qN = matmul(query_NE[queries_q], key_NE.T)
            best_q1 = jnp.max(score_qN, axis=1, where=hit_qN, initial=-jnp.inf, keepdims=True)
            # No hit scores above the best one.
            higher_q, least_q = (score_qN > best_q1).sum(axis=1), ((score_qN >= best_q1) & ~hit_qN).sum(axis=1)
            return 1 + (higher_q + least_q) / 2

        return {"ecg_to_text": rank(ecg_NE, text_NE), "text_to_ecg": rank(text_NE, ecg_NE)}

    return jax.lax.map(block, queries_kq)
