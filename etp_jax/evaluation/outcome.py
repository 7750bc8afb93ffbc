"""The outcome of one evaluation: rows with bootstrap replicates, scores, and a description of the method. No jax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.figures import ClassFigures, Figure, PartFigures
from etp_jax.evaluation.records import Labelled, TaskRecords
from etp_jax.evaluation.results import Row, number
from etp_jax.metrics.bootstrap import interval
from etp_jax.metrics.classification import METRICS, Scored
from etp_jax.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """The figures of an evaluation before they are summarised."""

    records: int
    """Number of records scored."""
    thresholds_from: str | None
    """Description of the records that F1's thresholds were chosen on; None if there are no thresholds."""
    protocol: dict[str, Any]
    """Description of the evaluation method, by topic."""
    rows: list[Row] = field(default_factory=list)
    """Rows of figures, one for each encoder, fraction and subset."""
    arrays: dict[str, NDArray] = field(default_factory=dict)
    """Arrays that the `.npz` holds in addition to the replicates, see `Result.arrays`."""

    @classmethod
    def of_task(
        cls, records: TaskRecords, split: str, target: Labelled, thresholds_from: str | None, **protocol: Any
    ) -> Outcome:
        """Creates an outcome without rows for scoring `target`, the task's records of a split."""
        codes = np.array([c.code for c in records.task.classes])
        arrays = {"record_id": target.record_ids, "classes": codes, "y": target.y_nC}
        return cls(len(target), thresholds_from, {**protocol, **records.protocol(split)}, arrays=arrays)


def make_row(
    encoder: str,
    fraction: float,
    train_seed: int,
    subset_seed: int | None,
    replicates: Mapping[str, NDArray[np.float64]],
    details: Mapping[str, Any] | None = None,
    per_class: Mapping[str, ClassFigures] | None = None,
    parts: Mapping[str, PartFigures] | None = None,
) -> Row:
    """Creates a row; the value of each metric is the first of its replicates [1 + R]."""
    values = {name: number(values_R[0]) for name, values_R in replicates.items()}
    about = dict(details or {}), dict(per_class or {}), dict(parts or {})
    return Row(encoder, fraction, train_seed, subset_seed, values, *about, replicates=dict(replicates))


def classification_row(
    scored: Scored,
    task: Task,
    encoder: str,
    fraction: float,
    train_seed: int,
    subset_seed: int | None = None,
    also: Mapping[str, NDArray[np.float64]] | None = None,
    **details: Any,
) -> Row:
    """Creates the row of a classification: macro metrics, the metrics in `also`, and the figures of each class."""
    per_class = {}
    for c, values_MR, positives in zip(task.classes, scored.values, scored.positives, strict=True):
        values = {name: number(value) for name, value in zip(METRICS, values_MR[:, 0], strict=True)}
        low, high = map(number, interval(values_MR[0, 1:]))
        per_class[c.code] = ClassFigures(**values, auroc_low=low, auroc_high=high, positives=int(positives))
    replicates = {f"macro_{name}": values_R for name, values_R in zip(METRICS, scored.macro, strict=True)}
    replicates |= also or {}
    details = {"classes_scored": scored.classes_scored, **details}
    return make_row(encoder, fraction, train_seed, subset_seed, replicates, details, per_class)


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, dict[float, dict[str, Figure]]]:
    """Computes mean and 95 % interval of every metric, by encoder and fraction.

    All rows of a replicate share one draw of patients. If a group has several rows (subset seeds, random encoders),
    each replicate also draws among them with replacement, so the interval covers both sources of variation.
    """
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.encoder, row.fraction), []).append(row)
    summary: dict[str, dict[float, dict[str, Figure]]] = {}
    for (encoder, fraction), group in groups.items():
        metrics = summary.setdefault(encoder, {})[fraction] = {}
        for name in group[0].replicates:
            values_SR = np.stack([row.replicates[name] for row in group])
            replicates_SR = values_SR[:, 1:]
            drawn_SR = np.random.default_rng(seed).integers(len(group), size=replicates_SR.shape)
            means_R = np.take_along_axis(replicates_SR, drawn_SR, axis=0).mean(axis=0)
            metrics[name] = Figure(number(values_SR[:, 0].mean()), *map(number, interval(means_R)))
    return summary
