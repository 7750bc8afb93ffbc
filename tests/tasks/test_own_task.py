"""Tests the walkthrough of docs/own-task.md: from .npy files and a table to findings for a user's own labels."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from etp_jax.cli import main
from tests.helpers.small_run import small_config, write_run

FS, SECONDS = 100, 2
LABELS = {
    "AFIB": "atrial fibrillation",
    "left_bundle_branch_block": "left bundle branch block",
    "NORM": "normal ECG",
}


def write_records(folder: Path, count: int = 100) -> Path:
    """Writes ECGs as .npy files with their table; rhythm and width of the beats depend on the labels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for number in range(count):
        label = list(LABELS)[number % 3]
        beats = np.cumsum(rng.uniform(0.1, 0.4, 20) if label == "AFIB" else np.full(20, 0.25))
        width = 0.06 if label == "left_bundle_branch_block" else 0.02
        seconds = np.arange(FS * SECONDS) / FS
        beat = np.exp(-(((seconds[:, None] - beats) / width) ** 2)).sum(axis=1)
        signal = beat[:, None] * rng.uniform(0.5, 1.5, 12) + rng.normal(0, 0.02, (len(seconds), 12))
        np.save(folder / f"{number}.npy", signal.astype(np.float32))
        rare = "; a_rare_one" * (number == 0)
        rows.append([f"{number}.npy", f"patient {number}", LABELS[label], label + rare])
    table = folder / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "patient", "report", "labels"], *rows])
    return table


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records, `shards`, `my.json`, `run` and `exported`."""
    folder = tmp_path_factory.mktemp("walk")
    table, shards, task, run = write_records(folder / "own"), folder / "shards", folder / "my.json", folder / "run"
    columns = ["--signal-column", "file", "--report-column", "report", "--label-column", "labels"]
    columns += ["--patient-column", "patient", "--fs", str(FS), "--workers", "1"]
    columns += [
        "--seconds",
        str(SECONDS),
        "--rate",
        "32",
    ]
    main.main(["prep", "table", "--csv", str(table), "--out", str(shards), "--name", "own", *columns])
    main.main(["shards", "check", str(shards)])
    main.main(["tasks", "new", "--shards", str(shards), "--out", str(task)])
    main.main(["tasks", "lint", str(task), "--shards", str(shards)])
    write_run(run, small_config(shards))  # replaces `etp train`, which tests/test_end_to_end.py covers
    argv = ["--run", str(run), "--out", str(folder / "exported"), "--shards", str(shards), "--task", str(task)]
    main.main(["export", *argv])
    return folder


@pytest.mark.parametrize("kind", ["zero-shot", "probe", pytest.param("finetune", marks=pytest.mark.slow)])
def test_evaluation_on_ones_own_labels(kind: str, walk: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["--run", str(walk / "run"), "--shards", str(walk / "shards"), "--task", str(walk / "my.json")]
    main.main(["evaluate", kind, *argv])
    printed = capsys.readouterr().out
    assert "AFIB" in printed and "left_bundle_branch_block" in printed and "a_rare_one" not in printed
    result = json.loads((walk / "run" / "evaluation" / f"my-{kind}-validation.json").read_text())
    assert result["task"] == "my"
    if kind == "probe":
        assert result["summary"]["trained"]["1.0"]["macro_auroc"]["mean"] > 0.7


def test_prediction_on_ones_own_task(walk: Path, capsys: pytest.CaptureFixture[str]):
    argv = [str(walk / "own" / "3.npy"), "--fs", str(FS), "--run", str(walk / "exported"), "--out", str(walk / "out")]
    main.main(["predict", *argv, "--task", str(walk / "my.json")])
    by_file = capsys.readouterr().out
    assert "atrial fibrillation" in by_file and "left bundle branch block" in by_file and "a_rare_one" not in by_file
    main.main(["predict", *argv, "--task", "my"])  # the exported encoder keeps the task
    assert capsys.readouterr().out == by_file


def test_a_study_on_ones_own_task_is_answered_anew_when_the_task_changes(
    walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    task, study = tmp_path / "mine.json", tmp_path / "study.toml"
    shutil.copyfile(walk / "my.json", task)
    run = shutil.copytree(walk / "run", tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    study.write_text(
        f'title = "own"\nshards = "{walk / "shards"}"\nsplit = "validation"\ncheckpoint = "latest"\n'
        f'tasks = ["{task}"]\n[[run]]\nname = "own"\nseeds = [7]\nfolder = "{run}"\n[[evaluate]]\nkind = "knn"\n'
    )
    result = run / "evaluation" / "my-knn-validation-latest.json"

    def classes() -> set[str]:
        main.main(["reproduce", str(study), "--out", str(tmp_path / "out")])
        return set(json.loads(result.read_text())["rows"][0]["per_class"])

    assert classes() == {"AFIB", "left_bundle_branch_block", "NORM"}
    assert "| my |" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    written = result.stat().st_mtime_ns
    classes()
    assert result.stat().st_mtime_ns == written
    content = json.loads(task.read_text(encoding="utf-8"))
    content["scored"].remove("NORM")
    task.write_text(json.dumps(content), encoding="utf-8")
    assert classes() == {"AFIB", "left_bundle_branch_block"}
