"""Tests of the probe's text prior: columns with a penalty of their own, and zero-shot scores beside the features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from etp_jax.cli import main
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.scores import class_scores
from etp_jax.errors import EtpError
from etp_jax.evaluation import Result, evaluate, logistic
from etp_jax.evaluation.probe import PRIOR_PENALTY, Probe
from etp_jax.evaluation.records import TaskRecords
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from tests.helpers.small_run import small_config, write_run, write_shards

PENALTY = np.array([1, 1, 0.01, 3, 0.1, 1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("prior")
    shards = write_shards(folder / "shards")
    return write_run(folder / "run", small_config(shards)), shards


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal scale, and two classes that depend on them."""
    rng = np.random.default_rng(0)
    x_NF = (rng.normal(size=(300, 6)) * np.logspace(-1, 1, 6) + 2).astype(np.float32)
    logits_NC = (x_NF - x_NF.mean(0)) / x_NF.std(0) @ rng.normal(size=(6, 2))
    return x_NF, rng.random((300, 2)) < 1 / (1 + np.exp(-logits_NC))


def standardised(x_NF: np.ndarray) -> np.ndarray:
    x_NF = x_NF.astype(np.float64)
    return (x_NF - x_NF.mean(0)) / x_NF.std(0)


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_penalties_equal_rescaled_columns_of_scikit_learn(l2: float) -> None:
    x_NF, y_NC = problem()
    logits_NC = logistic.fit(x_NF, y_NC, (l2,), PENALTY).logits(x_NF)[0]
    rescaled_NF = standardised(x_NF) / np.sqrt(PENALTY)
    for c in range(2):
        reference = LogisticRegression(C=1 / (l2 * len(x_NF)), tol=1e-10, max_iter=10_000, solver="newton-cg")
        expected_N = reference.fit(rescaled_NF, y_NC[:, c]).decision_function(rescaled_NF)
        np.testing.assert_allclose(logits_NC[:, c], expected_N, atol=2e-4)


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_gradient_of_the_penalised_loss_is_zero(l2: float) -> None:
    """The loss is written out: mean log-loss plus l / 2 sum_f p_f w_f², w the weights of the standardised features."""
    x_NF, y_NC = problem()
    probes = logistic.fit(x_NF, y_NC, (l2,), PENALTY)
    z_NF = standardised(x_NF)
    weights_FC = probes.weights_LFC[0] * (x_NF.std(0, dtype=np.float64) / probes.scale_F)[:, None]
    p_NC = 1 / (1 + np.exp(-(z_NF @ weights_FC + probes.bias_LC[0])))
    gradient_FC = z_NF.T @ (p_NC - y_NC) / len(y_NC) + l2 * PENALTY[:, None] * weights_FC
    np.testing.assert_allclose(gradient_FC, 0, atol=2e-5)
    np.testing.assert_allclose((p_NC - y_NC).mean(0), 0, atol=2e-5)


def test_a_penalty_of_one_changes_no_bit() -> None:
    x_NF, y_NC = problem()
    plain, ones = logistic.fit(x_NF, y_NC), logistic.fit(x_NF, y_NC, penalty_F=np.ones(6))
    np.testing.assert_array_equal(plain.weights_LFC, ones.weights_LFC)
    np.testing.assert_array_equal(plain.logits(x_NF), ones.logits(x_NF))


def test_the_probe_adds_the_zero_shot_scores(run: tuple[Path, Path]) -> None:
    """The figures are those of a probe that is fitted by hand on features and zero-shot scores."""
    result = evaluate(Probe(run=run[0], shards=run[1], split="test", fractions=(1.0,), bootstrap=5, text_prior=True))
    assert result.protocol["text_prior"] == (
        f"zero-shot scores of prompts default, version 1; their penalty is {PRIOR_PENALTY} x the L2"
    )
    assert (run[0] / "evaluation/ptbxl-super-probe-test-text-prior.json").exists()
    encoder, task = Encoder.from_run(run[0]), get_task("ptbxl-super")
    records = TaskRecords(Shards(run[1]), task)

    def columns(split: str) -> np.ndarray:
        features_nF, embeddings_nE = records.of(split).encode(encoder)
        return np.concatenate([features_nF, class_scores(embeddings_nE, encoder, task)], axis=1)

    x_nF, y_nC = columns("train"), records.of("train").y_nC
    penalty_F = np.array([1.0] * (x_nF.shape[1] - 5) + [PRIOR_PENALTY] * 5)
    row = result.rows[0]
    # All strengths, as each starts from the solution of the next: a fit ends within a tolerance, not at the minimum.
    by_hand = logistic.fit(x_nF, y_nC, penalty_F=penalty_F).logits(columns("test"))
    strength = logistic.L2.index(row.details["l2"])
    np.testing.assert_allclose(result.arrays["trained"], by_hand[strength], atol=1e-4)


def test_results_without_a_prior_do_not_mention_it(run: tuple[Path, Path]) -> None:
    evaluate(Probe(run=run[0], shards=run[1], fractions=(1.0,), bootstrap=5))
    text = (run[0] / "evaluation/ptbxl-super-probe-validation.json").read_text(encoding="utf-8")
    assert "text_prior" not in json.loads(text)["protocol"]


def test_the_prior_goes_with_all_feature_sets_and_views(run: tuple[Path, Path]) -> None:
    common: Any = {"run": run[0], "shards": run[1], "fractions": (0.5,), "seeds": (0,), "bootstrap": 5}
    evaluate(Probe(**common, features=("pooled", "stages"), views=(1, 2), text_prior=True))
    path = run[0] / "evaluation/ptbxl-super-probe-validation-pooled+stages-1-2-text-prior.json"
    assert {"features", "text_prior"} <= set(Result.load(path).protocol)


def test_what_has_no_prompts_is_refused(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All refusals come before an ECG is encoded."""
    monkeypatch.setattr(Encoder, "ecg", lambda *_: pytest.fail("ECGs were encoded"))
    task = tmp_path / "mine.json"
    classes = [{"code": code, "name": code.lower(), "labels": [code]} for code in ("NORM", "IMI")]
    task.write_text(json.dumps({"format": 1, "name": "mine", "title": "Mine", "classes": classes}))
    common = ["evaluate", "probe", "--run", str(run[0]), "--shards", str(run[1]), "--text-prior"]
    with pytest.raises(SystemExit):
        main.main([*common, "--task", str(task)])
    assert "classes NORM, IMI have no prompt of set 'default'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main([*common, "--protocol", "merl-as-published"])
    assert "has its own features; omit --features, --views, --head and --text-prior" in capsys.readouterr().err
    load = Encoder.from_run
    monkeypatch.setattr(Encoder, "from_run", lambda *args: replace(load(*args), text_about={"absent": True}))
    with pytest.raises(EtpError, match=r"has no text tower.*by probe \(without --text-prior\)"):
        evaluate(Probe(run=run[0], shards=run[1], text_prior=True))
