"""Retrieval metrics from embeddings: recall and rank of each ECG's report, and of each report's ECG.

Uses numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

RECALL_AT = (1, 5, 10)


def retrieval(ecg_NE: NDArray, text_NE: NDArray, report_N: NDArray) -> dict[str, float]:
    """Measures how well each ECG finds its report among all N, and each report its ECG.

    Args:
      ecg_NE: [N, E] unit-length ECG embeddings.
      text_NE: [N, E] unit-length embeddings of the records' reports.
      report_N: [N] number of each record's report; equal reports count as hits.

    Returns:
      Recall at 1, 5 and 10 and median rank in both directions: `ecg_to_text_recall_1`, ...,
      `text_to_ecg_median_rank`; and `recall`, the mean of the two recalls at 10.
    """
    return recalls(retrieval_ranks(ecg_NE, text_NE, report_N))


def recalls(ranks: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Summarises `retrieval_ranks` as `retrieval` does."""
    result: dict[str, float] = {}
    for name, ranks_N in ranks.items():
        result |= {f"{name}_recall_{k}": float(np.mean(ranks_N <= k)) for k in RECALL_AT}
        result[f"{name}_median_rank"] = float(np.median(ranks_N))
    result["recall"] = (result["ecg_to_text_recall_10"] + result["text_to_ecg_recall_10"]) / 2
    return result


def retrieval_ranks(
    ecg_NE: NDArray, text_NE: NDArray, report_N: NDArray, block: int = 1024
) -> dict[str, NDArray[np.float64]]:
    """Ranks each record [N] as a query, by direction: `ecg_to_text` and `text_to_ecg`.

    A query's candidates with its own report are correct. Its rank is one more than the number of incorrect candidates
    that score above the best correct one. Candidates of equal score count half, so that equal embeddings gain nothing.
    `block` queries are compared at a time.
    """
    return {
        name: np.concatenate(
            [
                _ranks(queries_NE[start : start + block] @ keys_NE.T, report_N[start : start + block], report_N)
                for start in range(0, len(report_N), block)
            ]
        )
        for name, queries_NE, keys_NE in (("ecg_to_text", ecg_NE, text_NE), ("text_to_ecg", text_NE, ecg_NE))
    }


def _ranks(scores_QN: NDArray, report_Q: NDArray, report_N: NDArray) -> NDArray[np.float64]:
    hit_QN = report_Q[:, None] == report_N
    best_Q1 = np.max(scores_QN, axis=1, where=hit_QN, initial=-np.inf, keepdims=True)
    higher_Q = np.sum((scores_QN > best_Q1) & ~hit_QN, axis=1)
    same_Q = np.sum((scores_QN == best_Q1) & ~hit_QN, axis=1)
    return 1 + higher_Q + same_Q / 2
