"""Tests figures by group and the calibration against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from etp_jax.cli import main
from etp_jax.errors import EtpError
from etp_jax.evaluation import Result, subgroups
from etp_jax.report.results import read_evaluations, results_section
from tests.helpers.evaluations import measure
from tests.helpers.people import AGES, MARKS, SEXES, write_people


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "shards", marks=MARKS)


@pytest.fixture(scope="module")
def measured(run_dir: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Result]:
    out = tmp_path_factory.mktemp("out") / "evaluation" / "subgroups.json"
    content = measure("subgroups", run_dir, people, bootstrap=40, json=out)
    return content, Result.load(out)


def test_the_whole_is_the_probes_result(measured: tuple[dict[str, Any], Result], run_dir: Path, people: Path, tmp_path):
    probe = measure("probe", run_dir, people, bootstrap=40, fractions=(1.0,), json=tmp_path / "probe.json")
    for own, other in zip(measured[0]["rows"], probe["rows"], strict=True):
        assert {name: own[name] for name in other} == other


def test_each_record_is_in_its_groups(measured: tuple[dict[str, Any], Result]):
    parts = measured[0]["rows"][0]["parts"]
    numbers = [n for n in range(60) if n % 5]  # the others have no label of the task
    sexes, ages = [SEXES[n % 4] for n in numbers], [AGES[n % 5] for n in numbers]
    expected = {
        "women": sexes.count("female"),
        "men": sexes.count("male"),
        "sex unknown": sexes.count(""),
        "under 50": 0,  # each 40-year-old lacks a label of the task
        "50 to 64": ages.count(64.0),
        "65 to 74": ages.count(65.0),
        "75 and over": ages.count(80.0),
        "age unknown": sum(map(np.isnan, ages)),
        "static noise": sum(n % 2 == 0 for n in numbers),
        "electrodes problems": 1,
    }
    assert {name: part["records"] for name, part in parts.items()} == expected
    assert parts["under 50"]["note"] == "no record" and parts["under 50"]["auroc"] is None
    assert parts["electrodes problems"]["classes"] == 0 and "HYP " in parts["electrodes problems"]["note"]
    assert parts["static noise"]["note"].startswith("left out for too few records with or without: ")
    assert "STTC 0, CD 0" in parts["static noise"]["note"]


def test_a_groups_figures_are_those_of_scikit_learn(measured: tuple[dict[str, Any], Result]):
    result = measured[1]
    y, scores, names = result.arrays["y"], result.arrays["trained"], result.arrays["record_id"].tolist()
    inside = np.isin(names, MARKS["static noise"])
    positives = y[inside].sum(axis=0)
    enough = np.minimum(positives, inside.sum() - positives) >= subgroups.LEAST
    assert enough.any() and not enough.all()
    own, rest = (
        np.mean([roc_auc_score(y[some, c], scores[some, c]) for c in np.flatnonzero(enough)])
        for some in (inside, ~inside)
    )
    part = measured[0]["rows"][0]["parts"]["static noise"]
    assert part["classes"] == enough.sum()
    assert part["auroc"] == pytest.approx(own, abs=1e-6)
    assert part["difference"] == pytest.approx(own - rest, abs=1e-6)
    assert part["auroc_low"] < part["auroc"] < part["auroc_high"]
    assert part["difference_low"] < part["difference_high"]


def test_intervals_come_from_the_draws_of_the_whole_sample():
    """A group's bootstrap, written out: patients are drawn from all, and the group's share of each draw is scored."""
    rng = np.random.default_rng(0)
    y, scores = rng.random((80, 1)) < 0.5, rng.normal(size=(80, 1)).astype(np.float32)
    inside, weights = rng.random(80) < 0.6, rng.multinomial(80, np.full(80, 1 / 80), size=30).T.astype(np.int32)
    weights = np.concatenate([np.ones((80, 1), np.int32), weights], axis=1)
    part = subgroups.group_figures(scores, y, inside, weights, ["A"])
    own, differences = [], []
    for draw in weights.T[1:]:
        groups = [np.repeat(np.flatnonzero(some), draw[some]) for some in (inside, ~inside)]
        auroc, rest = (roc_auc_score(y[rows, 0], scores[rows, 0]) for rows in groups)
        own.append(auroc)
        differences.append(auroc - rest)
    expected = [*np.percentile(own, [2.5, 97.5]), *np.percentile(differences, [2.5, 97.5])]
    found = [part.auroc_low, part.auroc_high, part.difference_low, part.difference_high]
    np.testing.assert_allclose(np.array(found, np.float64), expected, atol=2e-6)


def test_a_group_without_others_has_no_difference():
    y = np.arange(40)[:, None] % 2 == 0
    part = subgroups.group_figures(y.astype(np.float32), y, np.ones(40, bool), np.ones((40, 3), np.int32), ["A"])
    assert (part.auroc, part.difference) == (1.0, None) and part.note.startswith("no difference")


def test_calibration_of_the_probe(measured: tuple[dict[str, Any], Result]):
    result = measured[1]
    row, y = result.rows[0], result.arrays["y"]
    assert list(row.reliability) == ["NORM", "MI", "HYP"]  # the classes with both outcomes
    p = 1 / (1 + np.exp(-result.arrays["trained"][:, 0].astype(np.float64)))
    share, mean = calibration_curve(y[:, 0], p, n_bins=10)
    table = np.array(row.reliability["NORM"].equal_width)
    np.testing.assert_allclose(table[:, 1:], np.stack([mean, share], axis=1), atol=1e-6)
    assert table[:, 0].sum() == len(p)
    errors = [each.ece_equal_mass for each in row.reliability.values()]
    assert row.values["ece_equal_mass"] == pytest.approx(np.mean(errors), abs=2e-6)
    figure = measured[0]["summary"]["trained"]["1.0"]["ece_equal_mass"]
    assert figure["low"] < figure["mean"] < figure["high"]


def test_without_a_class_of_both_outcomes_there_is_no_error():
    replicates, reliability = subgroups.calibrated(
        np.ones((5, 1)), np.ones((5, 1), bool), np.ones((5, 3), np.int32), ["A"]
    )
    assert reliability == {} and all(np.isnan(values).all() and len(values) == 3 for values in replicates.values())


def test_the_file_holds_all(measured: tuple[dict[str, Any], Result]):
    content, result = measured
    assert result.to_dict() == json.loads(json.dumps(content))
    assert result.protocol["parts"] == "group" and "lacks" not in result.protocol


def test_command_and_page(run_dir: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "evaluation" / "x.json"
    command = ["evaluate", "subgroups", "--run", str(run_dir), "--shards", str(shards), "--bootstrap", "5"]
    main.main([*command, "--json", str(out)])
    printed = capsys.readouterr().out
    assert "the shards carry no marks of noise" in printed  # an older folder opens, and this is what it lacks
    lines = {line.split("  ")[0]: line for line in printed.splitlines()}
    assert "no record" in lines["women"] and "48" in lines["sex unknown"] and "ECE equal mass" in lines["encoder"]
    page = results_section(read_evaluations(out.parent))
    assert "Reliability" in page and "75 and over" in page and "the shards carry no marks" in page


def test_options_are_checked(run_dir: Path, people: Path):
    with pytest.raises(EtpError, match="subgroups is fitted on split 'train'; score another split"):
        measure("subgroups", run_dir, people, split="train")
    with pytest.raises(EtpError, match="too small to fit probes"):
        measure("subgroups", run_dir, people, "mets-super", split="test")


def test_a_damaged_table_is_refused(measured: tuple[dict[str, Any], Result], tmp_path: Path):
    for table, value in (("parts", {"women": {"records": 1}}), ("reliability", {"MI": {"ece_equal_mass": "low"}})):
        content = json.loads(json.dumps(measured[0]))
        content["rows"][0][table] = value
        file = tmp_path / f"{table}.json"
        file.write_text(json.dumps(content))
        with pytest.raises(EtpError, match="not written by `etp evaluate`"):
            Result.load(file)
