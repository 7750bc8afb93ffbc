"""What a kind of evaluation hands over: rows with bootstrap replicates, scores, and how they were measured. No jax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.records import Labelled, TaskRecords
from etp_jax.evaluation.results import ClassFigures, Figure, Row, number
from etp_jax.metrics.classification import METRICS, Scored, interval
from etp_jax.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """The figures of an evaluation before they are summarised."""

    records: int
    """Number of records scored."""
    thresholds_from: str | None
    """Records that the thresholds of F1 were chosen on, in words; None where there are no thresholds."""
    protocol: dict[str, Any]
    """How it was measured, in words."""
    rows: list[Row] = field(default_factory=list)
    """One for each encoder, fraction and subset."""
    arrays: dict[str, NDArray] = field(default_factory=dict)
    """Arrays for the `.npz` beside the replicates, see `Result.arrays`."""

    @classmethod
    def of_task(
        cls, records: TaskRecords, split: str, target: Labelled, thresholds_from: str | None, **protocol: Any
    ) -> Outcome:
        """An outcome without rows yet, for scoring `target`, the task's records of a split."""
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
) -> Row:
    """A row whose values are the first of the replicates [1 + R] of each metric."""
    values = {name: number(values_R[0]) for name, values_R in replicates.items()}
    about = dict(details or {}), dict(per_class or {})
    return Row(encoder, fraction, train_seed, subset_seed, values, *about, dict(replicates))


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
    """The row of a classification: macro metrics, those in `also`, and the figures of each class."""
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
    """Mean and 95 % interval of every metric, by encoder and fraction.

    All rows of a replicate share one draw of patients. Where a group has several rows (subset seeds, random encoders),
    the replicate also draws among them with replacement: the interval covers both.
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
