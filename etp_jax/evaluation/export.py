"""`etp export`: the encoder of a run in a small folder, ready for prediction without training data or text tower."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from etp_jax import config as config_module
from etp_jax.errors import EtpError
from etp_jax.evaluation.embed import Encoder
from etp_jax.evaluation.encoder_file import (
    CALIBRATION_FILE,
    ENCODER_FILE,
    Calibration,
    save_calibration,
    save_encoder,
    save_prompts,
)
from etp_jax.evaluation.labelled import VALIDATION
from etp_jax.evaluation.onnx_file import ONNX_FILE, save_onnx
from etp_jax.evaluation.zero_shot import class_scores
from etp_jax.records import Shards
from etp_jax.tasks import get_task, labels, prompt_sets, task_names
from etp_jax.training import setup

PROMPTS = "contrast"
"""Prompt set of the probabilities: the one that was chosen on fold 9."""
MINIMUM = 10
"""Positive and negative records from which on a class gets a probability."""


def export(
    run: Path,
    out: Path,
    checkpoint: Literal["best", "latest"] = "best",
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    shards: Path | None = None,
    prompts: str = PROMPTS,
    onnx: bool = False,
) -> str:
    """Writes the folder that `encoder_file` describes; returns the summary.

    Args:
      run: run folder.
      out: where to; an earlier export there is replaced.
      checkpoint: which one.
      dtype: of the weights.
      shards: if given, probabilities are calibrated on their validation split.
      prompts: the prompt set that is calibrated.
      onnx: also write the ECG encoder, with the same weights, as `encoder.onnx`.

    Raises:
      EtpError: no run, `out` is it or holds something else, shards that do not fit the encoder, or see `save_onnx`.
    """
    if out.resolve() == run.resolve():
        raise EtpError(f"{out}: is what would be exported; name another folder as --out")
    encoder = Encoder.from_run(run, checkpoint)
    if out.is_file() or (out.exists() and any(out.iterdir()) and not (out / ENCODER_FILE).exists()):
        raise EtpError(f"{out}: holds something other than an exported encoder; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in (CALIBRATION_FILE, ONNX_FILE):
        (out / name).unlink(missing_ok=True)
    for name in (setup.TEXT_FILE, setup.SHARDS_FILE):
        shutil.copyfile(run / name, out / name)
    # Folders of the machine that trained it mean nothing elsewhere.
    bare = replace(encoder.config, data=replace(encoder.config.data, shards=""), start_from="")
    config_module.save(bare, out / setup.CONFIG_FILE)
    save_encoder(out, encoder.variables, encoder.step, dtype)
    texts = all_prompts()
    embeddings_PE = np.concatenate(
        [encoder.text([text for text, whole in texts if whole is kind], kind) for kind in (False, True)]
    )
    save_prompts(out, texts, embeddings_PE)
    if onnx:
        save_onnx(out, Encoder.from_run(out))
    size = sum(file.stat().st_size for file in out.iterdir())
    told = "no probabilities: name --shards to calibrate them"
    if shards is not None:
        calibration = calibrate(Encoder.from_run(out), Shards(shards), prompts)
        save_calibration(out, calibration)
        told = f"probabilities of {sum(map(len, calibration.tasks.values()))} classes, {calibration.fitted_on}"
    return f"encoder of {run} (step {encoder.step}) as {dtype}, {size / 1e6:.1f} MB; {told}\nwrote {out}"


def all_prompts() -> list[tuple[str, bool]]:
    """Every prompt of every task and set, once, and whether it is all that the text tower reads; these come last."""
    tasks = [get_task(name, prompts) for name in task_names() for prompts in prompt_sets()]
    pairs = {(text, t.whole_prompts) for t in tasks for c in t.classes for text in (*c.prompts, *t.against)}
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def calibrate(encoder: Encoder, shards: Shards, prompts: str) -> Calibration:
    """Platt scaling of every class that is often enough in the validation split, among all of its records."""
    split = shards.split(VALIDATION)
    _, ecg_NE = encoder.ecg(split)
    tasks = {}
    for name in task_names():
        task = get_task(name, prompts)
        if task.most is not None or task.overlapping or not task.codes & set(shards.label_vocabulary):
            continue
        _, y_NC = labels(task, split.columns)
        scores_NC = class_scores(ecg_NE, encoder, task)
        fits = {
            c.code: platt(scores_N, y_N)
            for c, scores_N, y_N in zip(task.classes, scores_NC.T, y_NC.T, strict=True)
            if min(y_N.sum(), (~y_N).sum()) >= MINIMUM
        }
        if fits:
            tasks[name] = fits
    fitted_on = f"{VALIDATION} split of {shards.name}, {len(split)} records"
    return Calibration(prompts, fitted_on, tasks)


def platt(scores_N: NDArray[np.float32], y_N: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the logit of a class's probability, by its score.

    Maximum likelihood with the targets that Platt (1999) gives in place of 0 and 1, so that a class that is told apart
    perfectly keeps finite probabilities.
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
