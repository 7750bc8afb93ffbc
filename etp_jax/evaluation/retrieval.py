"""Retrieval over a split: finds the report of each ECG among all reports, and an ECG of each report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.evaluation.outcome import Outcome, make_row
from etp_jax.evaluation.request import Request
from etp_jax.metrics.bootstrap import bootstrap_weights, weighted_mean, weighted_median
from etp_jax.metrics.retrieval import RECALL_AT, retrieval_ranks
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import ALL

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

COMPARED = ("ecg_to_text_recall_10", "text_to_ecg_recall_10")
"""Metrics for comparing runs."""
NOTE = "Among all reports of the split; equal reports count as hits."
"""Note above the kind's table in a study."""


@dataclass(frozen=True, kw_only=True)
class Retrieval(Request):
    """Finds the report of each ECG and an ECG of each report; recall at 1, 5, 10 and the median rank."""

    kind: ClassVar[str] = "retrieval"

    @property
    def reads_text(self) -> bool:
        """Whether the evaluation needs an encoder that reads sentences."""
        return True

    def check(self) -> None:
        """Raises EtpError for options that contradict each other."""
        super().check()
        if self.split == ALL:
            raise EtpError(f"retrieval reads one split of the shards; it does not take `{ALL}`")


def evaluate(request: Retrieval, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Computes recall at 1, 5 and 10 and the median rank, in both directions; equal reports count as hits.

    Intervals come from draws of the queries by patient; the searched set is always the whole split.

    Args:
      request: names the split, whose records with a report are searched.
      encoders: each with its name in the result.
      shards: shard folder with that split.

    Raises:
      EtpError: no record of the split has a report.
    """
    records, table = shards.split(request.split), shards.reports(request.split)
    paired = table.paired
    if len(paired) == 0:
        raise EtpError(f"{shards.folder}: no record of split {request.split!r} has a report")
    weights_NR = bootstrap_weights(np.array(records.columns.patient_id)[paired], request.bootstrap)
    outcome = Outcome(
        records=len(paired),
        thresholds_from=None,
        protocol={"searched": "all records of the split that have a report; a hit is any record with an equal report"},
    )
    for name, encoder in encoders:
        text_NE = encoder.text(table.reports)[table.number[paired]]  # first, as the text tower may be missing
        ecg_NE = encoder.ecg(records)[1][paired]
        values = {}
        for direction, ranks_N in retrieval_ranks(ecg_NE, text_NE, table.number[paired]).items():
            values |= {f"{direction}_recall_{k}": weighted_mean(ranks_N <= k, weights_NR) for k in RECALL_AT}
            values[f"{direction}_median_rank"] = weighted_median(ranks_N, weights_NR)
        outcome.rows.append(make_row(name, 0.0, encoder.train_seed, None, values))
    return outcome
