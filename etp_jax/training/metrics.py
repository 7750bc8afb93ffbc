"""What a run reports: `metrics.jsonl`, TensorBoard, and retrieval over a whole split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.files import write_text

FILE = "metrics.jsonl"
RECALL_AT = (1, 5, 10)


class MetricsLog:
    """Writes a run's metrics, a JSON line each, and to TensorBoard if asked.

    A line holds `kind` (`train` or `validation`), `step` (updates made) and numbers.
    """

    def __init__(self, run_dir: Path, step: int, tensorboard: bool):
        """Opens the log of a run that goes on at `step`: lines of later steps, and one cut short, are removed."""
        path = run_dir / FILE
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_metrics(run_dir) if line["step"] <= step))
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._board = _tensorboard(run_dir / "tensorboard", step) if tensorboard else None

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Adds a line, which is on disk when this returns."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, none if there is no file; one that a killed run cut short is left out."""
    path = run_dir / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is cut short
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise EtpError(f"{path}: not written by `etp train` ({error}); move it away") from None


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        import tensorboardX
    except ImportError:
        raise EtpError("run.tensorboard: tensorboardX is missing; `pip install 'etp-jax[tensorboard]'`") from None
    return tensorboardX.SummaryWriter(str(folder), purge_step=step + 1)


def retrieval(ecg_NE: NDArray, text_NE: NDArray, report_N: NDArray) -> dict[str, float]:
    """Finds the report of each ECG among all N, and an ECG of each report.

    Args:
      ecg_NE: unit ECG embeddings.
      text_NE: unit embeddings of the records' reports.
      report_N: number of each record's report; equal reports count as hits.

    Returns:
      Recall at 1, 5 and 10 and median rank, both directions: `ecg_to_text_recall_1`, ...,
      `text_to_ecg_median_rank`; and `recall`, the mean of both recalls at 10.
    """
    result: dict[str, float] = {}
    for name, ranks_N in retrieval_ranks(ecg_NE, text_NE, report_N).items():
        result |= {f"{name}_recall_{k}": float(np.mean(ranks_N <= k)) for k in RECALL_AT}
        result[f"{name}_median_rank"] = float(np.median(ranks_N))
    result["recall"] = (result["ecg_to_text_recall_10"] + result["text_to_ecg_recall_10"]) / 2
    return result


def retrieval_ranks(
    ecg_NE: NDArray, text_NE: NDArray, report_N: NDArray, block: int = 1024
) -> dict[str, NDArray[np.float64]]:
    """Rank [N] of each record as a query, by direction: `ecg_to_text` and `text_to_ecg`.

    A record's rank is one more than the number of records with another report that score higher than the best one
    with its own; those that score the same count half, so that equal embeddings gain nothing. `block` queries are
    compared at a time.
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
