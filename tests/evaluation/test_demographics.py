"""Tests sex and age from frozen features against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from etp_jax.cli import main
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation import Result, demographics, logistic, ridge
from etp_jax.evaluation.records import Labelled
from etp_jax.report.runs import compare
from etp_jax.shards.reader import Shards
from tests.helpers.evaluations import measure
from tests.helpers.people import AGES, SEXES, write_people


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "shards")


@pytest.mark.parametrize("records", [30, 300])
def test_ridge_is_scikit_learns(records: int):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(records, 40)) * np.logspace(0, -2, 40) + 3).astype(np.float32)
    x[:, 7] = 1.5  # a feature that is always equal
    y = x[:, 0] * 8 + rng.normal(60, 10, records)
    predicted = ridge.fit(x, y, logistic.L2).predict(x)
    standard = (x - x.mean(0, np.float64)) / np.where(np.arange(40) == 7, 1, x.std(0, dtype=np.float64))
    for number, l2 in enumerate(logistic.L2):
        expected = Ridge(alpha=l2 * records).fit(standard, y).predict(standard)
        np.testing.assert_allclose(predicted[:, number], expected, rtol=1e-6)


def test_figures_are_those_of_scikit_learn(run_dir: Path, people: Path, tmp_path: Path):
    """Sex is read from all records of known sex, age from all of known age."""
    result = measure("demographics", run_dir, people, split="test", bootstrap=30, json=tmp_path / "x.json")
    with_sex, aged = [n for n in range(50) if SEXES[n % 4]], [n for n in range(50) if not np.isnan(AGES[n % 5])]
    women = sum(SEXES[n % 4] == "female" for n in with_sex)
    assert result["task"] is None and result["records"] == len({*aged, *with_sex})
    known = f"{women} women, {len(with_sex) - women} men and {len(aged)} known ages among the 50 records"
    assert known in result["protocol"]["records"]
    row, shards, encoder = result["rows"][0], Shards(people), Encoder.from_run(run_dir)
    fitted, target = parts_of(shards, "sex")
    (x, _), (z, _) = fitted.encode(encoder), target.encode(encoder)
    logits = logistic.fit(x, fitted.y_nC, (row["l2_sex"],)).logits(z)[0, :, 0]
    female = np.array([SEXES[n % 4] == "female" for n in with_sex])
    assert row["sex_auroc"] == pytest.approx(roc_auc_score(female, logits), abs=2e-3)
    fitted, target = parts_of(shards, "age")
    assert row["train_records_age"] == len(fitted) and f"scored on {len(target)}" in result["protocol"]["age"]
    (x, _), (z, _) = fitted.encode(encoder), target.encode(encoder)
    mean, std = x.mean(0, np.float64), x.std(0, dtype=np.float64)
    x, z = ((each - mean) / np.where(std > 0, std, 1) for each in (x, z))
    model = Ridge(alpha=row["l2_age"] * len(x)).fit(x, demographics.ages(fitted))
    error = np.abs(model.predict(z) - [AGES[n % 5] for n in aged]).mean()
    assert row["age_mae"] == pytest.approx(error, rel=1e-4)
    median = np.median(demographics.ages(fitted))
    assert row["age_mae_of_median"] == pytest.approx(np.abs(median - demographics.ages(target)).mean(), abs=1e-6)
    for encoder_name in ("trained", "random"):
        for figure in result["summary"][encoder_name]["1.0"].values():
            assert figure["low"] <= figure["mean"] <= figure["high"]


def parts_of(shards: Shards, quantity: Any) -> tuple[Labelled, Labelled]:
    found = demographics.Known(shards, quantity).measured_on("test")
    assert found is not None
    return found.fitted, found.target


def test_the_strengths_are_chosen_elsewhere(run_dir: Path, people: Path, tmp_path: Path):
    result = measure("demographics", run_dir, people, bootstrap=5, json=tmp_path / "x.json")
    fitted = demographics.Known(Shards(people), "age").of("train")
    assert result["rows"][0]["train_records_age"] == (~fitted.calibration_patients()).sum() < len(fitted)


def test_command_and_comparison_of_runs(
    run_dir: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = run_dir / "evaluation" / "demographics-validation.json"
    main.main(["evaluate", "demographics", "--run", str(run_dir), "--shards", str(people), "--bootstrap", "5"])
    printed = capsys.readouterr().out
    assert "sex AUROC" in printed and "age MAE" in printed and "known ages among the 60 records" in printed
    [row], figure = compare([run_dir]), Result.load(out).rows[0].values["sex_auroc"]
    assert row["demographics-validation sex_auroc"] == pytest.approx(figure, abs=1e-3)
    out.unlink()


@pytest.mark.parametrize(
    ("change", "measured", "missing"),
    [
        ({"age": float("nan")}, "sex", "age"),
        ({"age": 70.0}, "sex", "age"),
        ({"sex": "female"}, "age", "sex"),
        ({"sex": ""}, "age", "sex"),
    ],
)
def test_one_of_both_is_measured_alone(
    change: dict[str, Any], measured: str, missing: str, run_dir: Path, tmp_path: Path
):
    shards = write_people(tmp_path / "shards", everyone=change)
    result = measure("demographics", run_dir, shards, split="test", bootstrap=5, json=tmp_path / "x.json")
    metrics = {"sex": "sex_auroc", "age": "age_mae"}
    values = result["summary"]["trained"]["1.0"]
    assert values[metrics[measured]]["mean"] is not None and values[metrics[missing]]["mean"] is None
    assert "the same in all records" in result["protocol"][missing] and "scored on" in result["protocol"][measured]


def test_what_cannot_be_measured(run_dir: Path, shards: Path, people: Path):
    with pytest.raises(EtpError, match=r"has 0 women, 0 men and 60 known ages among the 60 records of split 'valid"):
        measure("demographics", run_dir, shards)
    with pytest.raises(EtpError, match="demographics is fitted on split 'train'; score another split"):
        measure("demographics", run_dir, people, split="train")
