"""Robustness: a linear probe fitted on whole ECGs, scored on ECGs with fewer leads, a lower rate or added noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.figures import PartFigures
from etp_jax.evaluation.outcome import Outcome, make_row
from etp_jax.evaluation.probe import best_setting, fitted_and_chooser
from etp_jax.evaluation.records import Labelled
from etp_jax.evaluation.request import TaskRequest, check_fitted
from etp_jax.evaluation.results import number
from etp_jax.metrics.bootstrap import Floats, bootstrap_weights, interval
from etp_jax.metrics.classification import has_both, macro_auroc_replicates
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder
    from etp_jax.evaluation.conditions import Change

CLEAN = "clean"
RECORDS = 256
"""Number of records that are changed and encoded at a time."""


@dataclass(frozen=True, kw_only=True)
class Robustness(TaskRequest):
    """Fits the linear probe on whole ECGs, and scores it with leads masked, a lower sampling rate and added noise."""

    kind: ClassVar[str] = "robustness"

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_fitted(self)
        super().check()

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training labels for which the result has rows."""
        return (1.0,)


def evaluate(request: Robustness, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits the probe of `etp evaluate probe` on all training records, then scores a split under each condition."""
    from etp_jax.evaluation import conditions, logistic  # these load scipy and jax

    records = request.records(shards)
    target = records.of(request.split)
    fitted, chooser = fitted_and_chooser(records, request.split)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    outcome = Outcome.of_task(
        records,
        request.split,
        target,
        None,
        fitted_on=f"{len(fitted)} whole records of train",
        chosen_by=f"macro AUROC over {len(chooser)} whole records",
        parts="condition",
        difference=f"from {CLEAN}, by the same draws of patients",
        conditions=conditions.about(shards.fs),
    )
    for name, encoder in encoders:
        probes = logistic.fit(fitted.encode(encoder)[0], fitted.y_nC)
        best = best_setting(probes.logits(chooser.encode(encoder)[0]), chooser.y_nC)
        clean_nC = probes.logits(target.encode(encoder)[0])[best]
        clean_R = macro_auroc_replicates(clean_nC, target.y_nC, weights_nR)
        parts = {CLEAN: part_of(target, clean_R)}
        for condition, change in Bar(conditions.of(shards).items(), desc=f"{name} encoder", unit="condition"):
            if change is None:
                parts[condition] = PartFigures(0, 0, note="the shards do not have these leads")
                continue
            features_nF, silent = encode_changed(encoder, target, change)
            changed_R = macro_auroc_replicates(probes.logits(features_nF)[best], target.y_nC, weights_nR)
            note = f"{silent} records have none of these leads and are scored as silent" if silent else ""
            parts[condition] = part_of(target, changed_R, changed_R - clean_R, note)
        details = {"train_records": len(fitted), **probes.details(best)}
        row = make_row(name, 1.0, encoder.train_seed, None, {"macro_auroc": clean_R}, details, parts=parts)
        outcome.rows.append(row)
    return outcome


def part_of(target: Labelled, auroc_R: Floats, difference_R: Floats | None = None, note: str = "") -> PartFigures:
    """Returns the figures of a condition from replicates [1 + R] of the macro-AUROC and of its difference."""
    some = [auroc_R] if difference_R is None else [auroc_R, difference_R]
    figures = [figure for values_R in some for figure in (values_R[0], *interval(values_R[1:]))]
    return PartFigures(len(target), int(has_both(target.y_nC).sum()), *map(number, figures), note=note)


def encode_changed(encoder: Encoder, records: Labelled, change: Change) -> tuple[NDArray[np.float32], int]:
    """Computes features [n, F] of changed records, and counts the records without any lead left."""
    draws = np.random.default_rng(0)
    features, silent = [], 0
    for start in range(0, len(records), RECORDS):
        ecg_bTL, lead_mask_bL = records.read(np.arange(start, min(start + RECORDS, len(records))))
        changed_bTL, lead_mask_bL = change(ecg_bTL.astype(np.float64), lead_mask_bL, draws)
        microvolts_bTL = np.rint(np.clip(changed_bTL * lead_mask_bL[:, None], -32768, 32767)).astype(np.int16)
        features.append(encoder.signals(microvolts_bTL, lead_mask_bL)[0])
        silent += int((~lead_mask_bL.any(axis=1)).sum())
    return np.concatenate(features), silent
