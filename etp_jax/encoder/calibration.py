"""Probabilities from zero-shot scores by Platt scaling, and thresholds, both fitted on a validation split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import CALIBRATION_FILE
from etp_jax.encoder.scores import class_scores
from etp_jax.errors import EtpError
from etp_jax.files import read_json, write_text
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import VALIDATION
from etp_jax.tasks import Task, get_task, labels, task_names


@dataclass(frozen=True)
class Threshold:
    """The probability from which a finding counts as present, and how often that was right on the validation split."""

    probability: float
    """The threshold. Of all probabilities of the split, it has the greatest F1 score."""
    precision: float
    """Of the records at or above the threshold, the share that had the finding."""
    sensitivity: float
    """Of the records that had the finding, the share at or above the threshold."""

    def verdict(self, probability: float) -> Verdict:
        """Compares a probability. At or above the threshold, it must also be more likely right than wrong.

        It is so if the probability or the threshold's precision is at least one half; otherwise nothing is decided.
        """
        if probability < self.probability:
            return "below"
        return "above" if max(self.precision, probability) >= DECIDED else "not decided"


@dataclass(frozen=True)
class Calibration:
    """Parameters that turn zero-shot scores into probabilities."""

    prompts: str
    """Prompt set that the scores were computed with."""
    fitted_on: str
    """Description of the records that the parameters were fitted on."""
    tasks: dict[str, dict[str, tuple[float, float]]]
    """Parameters (a, b) by task and class; the probability is 1 / (1 + exp(-(a x score + b)))."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of each task that comes from a user's own file, by task name."""
    thresholds: dict[str, dict[str, Threshold]] = field(default_factory=dict)
    """Thresholds by task and class, for the classes of `tasks`; empty for a file of version 0.1."""


CALIBRATION_TYPES = {
    **{"prompts": str, "fitted_on": str, "tasks": {str: {str: [float]}}, "digests?": {str: str}},
    "thresholds?": {str: {str: {"probability": float, "precision": float, "sensitivity": float}}},
}
"""Types of the fields of `calibration.json`."""


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes the calibration as JSON."""
    write_text(folder / CALIBRATION_FILE, json.dumps(asdict(calibration), indent=1) + "\n")


def load_calibration(folder: Path) -> Calibration | None:
    """Reads the calibration in a folder; returns None if there is none."""
    file = folder / CALIBRATION_FILE
    if not file.exists():
        return None
    try:
        content = read_json(file, "export the run again", CALIBRATION_TYPES)
        thresholds = {
            task: {code: Threshold(**values) for code, values in classes.items()}
            for task, classes in content.get("thresholds", {}).items()
        }
        if any(len(platt) != 2 for classes in content["tasks"].values() for platt in classes.values()):
            raise ValueError("a class has other than two parameters")
        return Calibration(**{**content, "thresholds": thresholds})
    except (TypeError, ValueError) as error:
        raise EtpError(f"{file}: cannot be read ({error}); export the run again") from None


Verdict = Literal["above", "below", "not decided"]
"""A probability compared with the threshold of its class."""
DECIDED = 0.5
"""Minimum probability, or precision of the threshold, of a finding that counts as above its threshold."""
MINIMUM = 10
"""Minimum number of positive and of negative records that a class needs to be calibrated."""


TOO_FEW = f"no class has {MINIMUM} records with and {MINIMUM} without it"


def why_none(task: Task) -> str:
    """Reason why a task gets no probabilities."""
    if task.max_per_class:
        return "it draws a balanced set of records, whose shares are not those of patients"
    return "its classes overlap with those of another task" if task.overlapping else TOO_FEW


def calibrate(encoder: Encoder, shards: Shards, prompts: str, own: Sequence[str] = ()) -> Calibration:
    """Fits Platt scaling for each class that has enough records in the validation split.

    Each fit uses all records of the split that the task may use: those of its archive, if it names one.

    Args:
      encoder: encoder that computes the scores.
      shards: shard folder with the validation split. Shipped tasks without prompts, or without a label
        code in it, are skipped.
      prompts: prompt set that the scores are computed with.
      own: paths of a user's own tasks, calibrated before the shipped ones.
    """
    split = shards.split(VALIDATION)
    _, ecg_NE = encoder.ecg(split)
    tasks, digests, thresholds, partly = {}, {}, {}, []
    for task in (get_task(name, prompts) for name in (*own, *task_names())):
        if why_none(task) != TOO_FEW or task.codes.isdisjoint(shards.label_vocabulary):
            continue
        if not any(c.prompts for c in task.classes):  # scores are cosines with prompts
            continue
        keep_N, y_NC = labels(replace(task, every_record=True), split.columns)  # those of the task's archive
        y_NC, scores_NC = y_NC[keep_N], class_scores(ecg_NE[keep_N], encoder, task)
        fits = {
            c.code: platt(scores_N, y_N)
            for c, scores_N, y_N in zip(task.classes, scores_NC.T, y_NC.T, strict=True)
            if min(y_N.sum(), (~y_N).sum()) >= MINIMUM
        }
        if fits:
            tasks[task.name] = fits
            partly += [task.name] * (not keep_N.all())
            digests |= {task.name: task.digest} if task.file else {}
            thresholds[task.name] = fit_thresholds(task, fits, scores_NC, y_NC)
    fitted_on = f"{VALIDATION} split of {shards.name}, {len(split)} records"
    if partly:
        fitted_on += f", or those that {', '.join(partly)} may use"
    return Calibration(prompts, fitted_on, tasks, digests, thresholds)


def fit_thresholds(
    task: Task, fits: Mapping[str, tuple[float, float]], scores_NC: NDArray[np.float32], y_NC: NDArray[np.bool_]
) -> dict[str, Threshold]:
    """Fits the threshold of each calibrated class of a task, from the scores [N, C] and classes [N, C] of N records."""
    columns = zip(task.classes, scores_NC.T, y_NC.T, strict=True)
    return {
        c.code: threshold(expit(fits[c.code][0] * scores_N + fits[c.code][1]), y_N)
        for c, scores_N, y_N in columns
        if c.code in fits
    }


def threshold(probability_N: NDArray[np.floating], y_N: NDArray[np.bool_]) -> Threshold:
    """Finds the probability with the greatest F1 score; of several, the highest."""
    order_N = np.argsort(-probability_N, kind="stable")
    sorted_N, found_N = probability_N[order_N], np.cumsum(y_N[order_N])
    count_N = np.arange(1, len(y_N) + 1)
    last_N = np.append(sorted_N[1:] != sorted_N[:-1], True)  # equal probabilities are above the threshold together
    best = int(np.where(last_N, 2 * found_N / (count_N + y_N.sum()), -1).argmax())
    precision, sensitivity = found_N[best] / count_N[best], found_N[best] / y_N.sum()
    return Threshold(float(sorted_N[best]), float(precision), float(sensitivity))


def platt(scores_N: NDArray[np.float32], y_N: NDArray[np.bool_]) -> tuple[float, float]:
    """Fits the logit of a class's probability as a linear function of its score; returns slope and intercept.

    The fit is by maximum likelihood. Platt's (1999) targets replace 0 and 1, so that the parameters of a perfectly
    separated class stay finite.
    """
    positives, negatives = y_N.sum(), (~y_N).sum()
    target_N = np.where(y_N, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = scores_N.mean(dtype=np.float64), scores_N.std(dtype=np.float64) or 1.0
    x_N = (scores_N - centre) / spread

    def loss(weights: NDArray) -> tuple[float, NDArray]:
        logit_N = weights[0] * x_N + weights[1]
        value = -(target_N * log_expit(logit_N) + (1 - target_N) * log_expit(-logit_N)).mean()
        error_N = expit(logit_N) - target_N
        return value, np.array([(error_N * x_N).mean(), error_N.mean()])

    slope, intercept = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return float(slope / spread), float(intercept - slope * centre / spread)
