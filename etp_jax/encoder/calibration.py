"""Probabilities from zero-shot scores: Platt scaling, fitted on a validation split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
from etp_jax.tasks import get_task, labels, task_names


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


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes the calibration as JSON."""
    write_text(folder / CALIBRATION_FILE, json.dumps(asdict(calibration), indent=1) + "\n")


def load_calibration(folder: Path) -> Calibration | None:
    """Reads the calibration in a folder; returns None if there is none."""
    file = folder / CALIBRATION_FILE
    if not file.exists():
        return None
    try:
        return Calibration(**read_json(file, "export the run again"))
    except TypeError as error:
        raise EtpError(f"{file}: cannot be read ({error}); export the run again") from None


MINIMUM = 10
"""Minimum number of positive and of negative records that a class needs to be calibrated."""


def calibrate(encoder: Encoder, shards: Shards, prompts: str, own: Sequence[str] = ()) -> Calibration:
    """Fits Platt scaling for each class that has enough records in the validation split.

    Each fit uses all records of the split.

    Args:
      encoder: encoder that computes the scores.
      shards: shard folder with the validation split. Shipped tasks without a label code in it are skipped.
      prompts: prompt set that the scores are computed with.
      own: paths of a user's own tasks, calibrated before the shipped ones.
    """
    split = shards.split(VALIDATION)
    _, ecg_NE = encoder.ecg(split)
    tasks, digests = {}, {}
    for task in (get_task(name, prompts) for name in (*own, *task_names())):
        if task.max_per_class or task.overlapping or task.codes.isdisjoint(shards.label_vocabulary):
            continue
        _, y_NC = labels(task, split.columns)
        scores_NC = class_scores(ecg_NE, encoder, task)
        fits = {
            c.code: platt(scores_N, y_N)
            for c, scores_N, y_N in zip(task.classes, scores_NC.T, y_NC.T, strict=True)
            if min(y_N.sum(), (~y_N).sum()) >= MINIMUM
        }
        if fits:
            tasks[task.name] = fits
            digests |= {task.name: task.digest} if task.file else {}
    fitted_on = f"{VALIDATION} split of {shards.name}, {len(split)} records"
    return Calibration(prompts, fitted_on, tasks, digests)


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
