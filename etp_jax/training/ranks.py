"""Ranks of retrieval, computed on the devices in tiles of scores. One product of a tile serves both directions."""

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
TILES = {"cpu": 256}
"""ECGs, and reports, of a tile of scores, by platform; a CPU's cache holds one tile."""
TILE = 2048
"""ECGs, and reports, of a tile of scores on other platforms."""


class Ranks:
    """Computes `retrieval_ranks`; of many records on all devices, each for its share of the ECGs."""

    def __init__(self, parallel: Parallel, small: int = SMALL, tile: int = 0) -> None:
        """Sets up the devices.

        Args:
          parallel: devices.
          small: number of records up to which the host ranks, which is quicker than a compilation.
          tile: ECGs and reports of a tile; 0: those of the platform.
        """
        self._parallel, self._small = parallel, small
        self._tile = tile or TILES.get(parallel.platform, TILE)
        self._ranks = parallel.wrap_eval_step(step)

    def __call__(self, ecg_NE: NDArray, text_NE: NDArray, report_N: NDArray) -> dict[str, NDArray[np.float64]]:
        """Ranks each record as a query, by direction; all hosts get all ranks.

        Beyond `small` records, the embedding of a report is that of its first record.
        """
        if len(report_N) <= self._small:
            return retrieval_ranks(ecg_NE, text_NE, report_N)
        _, first, number_N, records_R = np.unique(report_N, return_index=True, return_inverse=True, return_counts=True)
        text = {"text": tiles(text_NE[first], self._tile), "records": tiles(records_R.astype(np.int32), self._tile)}
        none = text["records"].size  # the number of a missing report
        ecg = {
            "ecg": tiles(ecg_NE, self._tile, self._parallel.devices),
            "report": tiles(number_N.astype(np.int32), self._tile, self._parallel.devices, fill=none),
        }
        own = np.split(np.arange(len(ecg["ecg"]), dtype=np.int32), jax.process_count())[jax.process_index()]
        ecg, text = self._parallel.replicate((ecg, text))
        twice_ecg, twice_text = self._ranks(ecg, text, self._parallel.put_batch(own), None)
        twice_N = np.asarray(twice_ecg).reshape(-1)[: len(report_N)]
        twice_R = np.asarray(twice_text).sum(axis=0).reshape(-1)
        return {"ecg_to_text": 1 + twice_N / 2, "text_to_ecg": 1 + twice_R[number_N] / 2}


def tiles(rows: NDArray, tile: int, multiple: int = 1, fill: int = 0) -> NDArray:
    """Divides rows into a multiple of so many tiles, [k, tile, ...]; the last ones are filled."""
    count = -(-len(rows) // (tile * multiple)) * multiple
    missing = np.full((count * tile - len(rows), *rows.shape[1:]), fill, rows.dtype)
    return np.concatenate([rows, missing]).reshape(count, tile, *rows.shape[1:])


def step(
    ecg: dict[str, jax.Array], text: dict[str, jax.Array], own_k: jax.Array, _: Any
) -> tuple[jax.Array, jax.Array]:
    """Counts the wrong candidates of each query: 2 for one that scores above the best correct one, 1 for an equal one.

    Args:
      ecg: tiles of all ECGs, `ecg` [K, Q, E] and `report` [K, Q].
      text: tiles of the distinct reports, `text` [J, C, E] and `records` [J, C], the number of records with a report.
      own_k: numbers of this device's tiles of ECGs.

    Returns:
      Counts [k, Q] of reports for this device's ECGs, and [1, J, C] of this device's ECGs for all reports.
    """
    shape_JC = text["records"].shape
    number_JC = jnp.arange(text["records"].size, dtype=jnp.int32).reshape(shape_JC)

    def correct(tile: dict[str, jax.Array]) -> jax.Array:
        """Scores each ECG with its own report, by a product of the same shape, so that equal scores remain equal."""
        own_QE = text["text"].reshape(-1, text["text"].shape[-1])[tile["report"]]
        return jnp.diagonal(matmul(tile["ecg"], own_QE.T))

    correct_KQ = jax.lax.map(correct, ecg)
    best_R = jnp.full(number_JC.size, -jnp.inf, correct_KQ.dtype).at[ecg["report"]].max(correct_KQ, mode="drop")
    best_JC = best_R.reshape(shape_JC)

    def rows(twice_JC: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        report_Q1, correct_Q1 = ecg["report"][k][:, None], correct_KQ[k][:, None]

        def columns(twice_Q: jax.Array, tile: Any) -> tuple[jax.Array, jax.Array]:
            text_CE, records_C, number_C, best_C = tile
            score_QC = matmul(ecg["ecg"][k], text_CE.T)
            left_out_QC = (report_Q1 == number_C) | (report_Q1 == number_JC.size)
            score_QC = jnp.where(left_out_QC, -jnp.inf, score_QC)
            twice_Q += (above(score_QC, correct_Q1) * records_C).sum(axis=1)
            return twice_Q, above(score_QC, best_C).sum(axis=0)

        tiles_J = text["text"], text["records"], number_JC, best_JC
        twice_Q, more_JC = jax.lax.scan(columns, jnp.zeros(report_Q1.shape[0], jnp.int32), tiles_J)
        return twice_JC + more_JC, twice_Q

    twice_JC, twice_kQ = jax.lax.scan(rows, jnp.zeros(shape_JC, jnp.int32), own_k)
    return twice_kQ, twice_JC[None]


def above(score: jax.Array, best: jax.Array) -> jax.Array:
    """Returns 2 where a score is above the best, 1 where it is equal, and 0 elsewhere; int32."""
    return (score > best).astype(jnp.int32) + (score >= best).astype(jnp.int32)
