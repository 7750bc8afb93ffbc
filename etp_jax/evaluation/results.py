"""Rows and summaries of an evaluation, as JSON and as a printed table."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation.records import Labelled
from etp_jax.files import whole_file, write_text
from etp_jax.metrics.classification import METRICS, Scored, interval
from etp_jax.tasks import Task

REPLICATES = "replicates_"
"""Beginning of the names of replicates in the `.npz`."""


@dataclass(frozen=True)
class Row:
    """One encoder, on one subset of the training records."""

    encoder: str
    """`trained`, `random` or `supervised`."""
    fraction: float
    """Share of the training records whose labels were used; 0 where none were."""
    train_seed: int
    subset_seed: int | None
    """None where nothing is drawn."""
    values: dict[str, NDArray[np.float64]]
    """[1 + R] by metric: on the sample and on its replicates."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else is to be told, ready for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The row in the evaluation JSON."""
        return {
            "encoder": self.encoder,
            "fraction": self.fraction,
            "train_seed": self.train_seed,
            "subset_seed": self.subset_seed,
            **{name: number(values_R[0]) for name, values_R in self.values.items()},
            **self.details,
        }


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found."""

    records: int
    """Number of records scored."""
    thresholds_from: str | None
    protocol: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    scores: dict[str, NDArray] = field(default_factory=dict)
    """[n, C] by encoder; of its first row at the greatest fraction."""


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
    """The row of a classification: macro metrics, others and, in the details, those of each class."""
    per_class = {}
    for c, values_MR, positives in zip(task.classes, scored.values, scored.positives, strict=True):
        per_class[c.code] = {name: number(value) for name, value in zip(METRICS, values_MR[:, 0], strict=True)}
        per_class[c.code] |= {f"auroc_{end}": value for end, value in _interval(values_MR[0, 1:]).items()}
        per_class[c.code]["positives"] = int(positives)
    values = {f"macro_{name}": values_R for name, values_R in zip(METRICS, scored.macro, strict=True)}
    values |= also or {}
    details = {"classes_scored": scored.classes_scored, **details, "per_class": per_class}
    return Row(encoder, fraction, train_seed, subset_seed, values, details)


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and 95 % interval of every metric, by encoder and fraction.

    All rows of a replicate share one draw of patients. Where a group has several rows (subset seeds, random encoders),
    the replicate also draws among them with replacement: the interval covers both.
    """
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.encoder, row.fraction), []).append(row)
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (encoder, fraction), group in groups.items():
        metrics = summary.setdefault(encoder, {})[str(fraction)] = {}
        for name in group[0].values:
            values_SR = np.stack([row.values[name] for row in group])
            replicates_SR = values_SR[:, 1:]
            drawn_SR = np.random.default_rng(seed).integers(len(group), size=replicates_SR.shape)
            means_R = np.take_along_axis(replicates_SR, drawn_SR, axis=0).mean(axis=0)
            metrics[name] = {"mean": number(values_SR[:, 0].mean()), **_interval(means_R)}
    return summary


def versions() -> dict[str, str]:
    """What computed the figures."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("etp-jax", "jax", "flax", "numpy")}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes the folder of a result that is about to be written; what prevents that becomes an EtpError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise EtpError(f"{path}: cannot be written ({error.strerror}); name another file with --json") from None


def write_json(result: dict[str, Any], path: Path) -> None:
    """Writes a result, whole or not at all; raises EtpError if that cannot be done."""
    with writing(path):
        write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def write_arrays(outcome: Outcome, task: Task, target: Labelled | None, path: Path) -> None:
    """Writes what the JSON has no room for, for ROC curves, other metrics and paired comparisons.

    An `.npz` with, for each metric M, `replicates_M` float32 [rows, 1 + R]: its value on the sample and on its
    replicates, in the order of the JSON's rows. The draws of patients depend on the records alone, so replicate r is
    the same draw for every encoder that is measured on the same records. Where records were scored for classes also
    `record_id` [n], `classes` [C] (codes), `y` bool [n, C], and [n, C] float32 scores under the name of each encoder.

    Args:
      outcome: of the evaluation.
      task: what was scored.
      target: the records scored; None where there are no scores.
      path: of the file.
    """
    arrays = {
        f"{REPLICATES}{name}": np.stack([row.values[name] for row in outcome.rows]).astype(np.float32)
        for name in outcome.rows[0].values
    }
    if target is not None:
        codes = np.array([c.code for c in task.classes])
        arrays |= {"record_id": target.record_ids, "classes": codes, "y": target.y_nC, **outcome.scores}
    with writing(path), whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def table(result: dict[str, Any]) -> str:
    """A result as aligned plain text: a line for each encoder and fraction, then one for each class."""
    summary, rows = result["summary"], result["rows"]
    names = list(next(iter(summary["trained"].values())))
    lines = [["encoder", "labels", *map(_title, names)]]
    for encoder, fractions in summary.items():
        for fraction, metrics in fractions.items():
            lines.append([encoder, f"{float(fraction):.0%}", *(_with_interval(metrics[name]) for name in names)])
    head = [
        f"{' '.join(filter(None, (result['kind'], result['task'])))} on {result['split']}: {result['records']} records",
        f"pre-trained on {result['pretrained_on']}, checkpoint of step {result['checkpoint']['step']}",
    ]
    if "prompts" in result["protocol"]:
        head.append(f"prompts {result['protocol']['prompts']}")
    if "records" in result["protocol"]:
        head.append(result["protocol"]["records"])
    if result["thresholds_from"]:
        head.append(f"thresholds of F1 from {result['thresholds_from']}")
    text = ["; ".join(head), "", *_align(lines)]
    if "per_class" not in rows[0]:
        return "\n".join(text)
    fraction = max(row["fraction"] for row in rows)
    trained, other = (
        next(r for r in rows if r["encoder"] == encoder and r["fraction"] == fraction) for encoder in list(summary)[:2]
    )
    classes = [["class", "positives", "AUROC", "AUPRC", "F1", f"{other['encoder']} encoder's AUROC"]]
    for code, values in trained["per_class"].items():
        auroc = {"mean": values["auroc"], "low": values["auroc_low"], "high": values["auroc_high"]}
        others = [values["auprc"], values["f1"], other["per_class"][code]["auroc"]]
        classes.append([code, str(values["positives"]), _with_interval(auroc), *map(_short, others)])
    scored = f"macro over {trained['classes_scored']} of {len(trained['per_class'])} classes: those with both outcomes"
    return "\n".join([*text, "", scored, "", *_align(classes)])


def sensitivity(found: Mapping[str, dict[str, Any]]) -> str:
    """Zero-shot results of one task by their prompts, as aligned plain text."""
    lines = [["prompts", "macro AUROC", "random encoders", "classes"]]
    for prompts, result in found.items():
        trained, random = (result["summary"][encoder]["0.0"]["macro_auroc"] for encoder in ("trained", "random"))
        classes = str(result["rows"][0]["classes_scored"])
        lines.append([prompts, _with_interval(trained), _with_interval(random), classes])
    means = [result["summary"]["trained"]["0.0"]["macro_auroc"]["mean"] or 0.0 for result in found.values()]
    return "\n".join([*_align(lines), f"least to greatest: {max(means) - min(means):.3f}"])


def _title(metric: str) -> str:
    """Such as "macro AUROC" or "ecg to text recall 1"."""
    return " ".join(word.upper() if word in METRICS else word for word in metric.split("_"))


def number(value: float) -> float | None:
    """Six decimals; None for NaN, which JSON does not know."""
    return None if math.isnan(value) else round(float(value), 6)


def _interval(replicates: NDArray[np.float64]) -> dict[str, float | None]:
    low, high = interval(replicates)
    return {"low": number(low), "high": number(high)}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(value: dict[str, float | None]) -> str:
    return f"{_short(value['mean'])} [{_short(value['low'])}, {_short(value['high'])}]"


def _align(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
