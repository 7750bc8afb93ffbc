"""Recomputes the figures of the shipped encoder's model card on PTB-XL's fold 9."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from etp_jax.encoder.calibration import load_calibration
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.export import REFERENCES
from etp_jax.encoder.folder import PRETRAINED, load_reference
from etp_jax.encoder.scores import class_scores
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task, labels

pytestmark = pytest.mark.skipif("ETP_DATA_ROOT" not in os.environ, reason="ETP_DATA_ROOT is not set")

TASKS = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm")


def test_figures_and_probabilities_of_the_card(fold_9: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # do not use the cache of an earlier run
    encoder, split = Encoder.from_run(PRETRAINED), Shards(fold_9).split("validation")
    ecg_NE = encoder.ecg(split)[1]
    calibration = load_calibration(PRETRAINED)
    reference_RE = load_reference(PRETRAINED)
    assert reference_RE is not None and len(reference_RE) == REFERENCES
    nearest_R = (reference_RE[:50] @ ecg_NE.T).max(axis=1)
    np.testing.assert_allclose(nearest_R, 1, atol=2e-3)
    assert calibration is not None and calibration.prompts == "contrast" and calibration.tasks.keys() == set(TASKS)
    card = (PRETRAINED / "MODEL_CARD.md").read_text(encoding="utf-8").split("Fold 10")[0]
    for name in TASKS:
        told = re.search(rf"\| `{name}` \| (0\.\d+)[^|]*\| (0\.\d+)", card)
        assert told, name
        for prompts, figure in zip(("default", "contrast"), told.groups(), strict=True):
            task = get_task(name, prompts)
            keep_N, y_NC = labels(task, split.columns)
            scores_NC = class_scores(ecg_NE, encoder, task)
            # The stored bfloat16 weights are exact, so this is the card's last digit and float32's rounding; the
            # float32 weights that they were rounded from score within 0.0001 on `ptbxl-super`.
            measured = np.mean(
                [
                    roc_auc_score(y_N[keep_N], scores_N[keep_N])
                    for y_N, scores_N in zip(y_NC.T, scores_NC.T, strict=True)
                    if y_N[keep_N].any()
                ]
            )
            assert abs(measured - float(figure)) <= 0.001, (name, prompts, measured)
        for c, scores_N, y_N in zip(task.classes, scores_NC.T, y_NC.T, strict=True):
            if c.code in calibration.tasks[name]:
                a, b = calibration.tasks[name][c.code]
                probability_N, found = expit(a * scores_N + b), calibration.thresholds[name][c.code]
                assert abs(probability_N.mean() - y_N.mean()) < 0.005, (name, c.code)
                above_N = probability_N >= found.probability - 1e-4  # a record at the threshold, despite rounding
                assert abs(y_N[above_N].mean() - found.precision) < 0.02, (name, c.code)
                assert abs(above_N[y_N].mean() - found.sensitivity) < 0.02, (name, c.code)
