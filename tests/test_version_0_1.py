"""What version 0.1 wrote opens in this version and gives the same numbers.

`data/version_0_1.tar.xz` was written by version 0.1: an archive of 44 ECGs and its shards, a study of one small run, an
exported encoder, and proposed waveform features. The numbers below are what version 0.1 printed for them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import etp_jax
from etp_jax.cli import main
from etp_jax.shards.reader import Shards
from etp_jax.training.log import read_metrics
from tests.helpers.devices import QUICK_COMPILING, ROOT

ARCHIVE = Path(__file__).parent / "data" / "version_0_1.tar.xz"
RUN = Path("study/runs/tiny-0")
RESULTS = Path("evaluation/ptbxl-super-zero-shot-validation.json")
PREP = (
    "prep table --csv archive/records.csv --signal-column file --report-column report --patient-column patient"
    " --split-column split --label-column codes --age-column age --sex-column sex --translate --fs 50 --unit uV"
    " --rate 50 --seconds 3 --name small --out shards --workers 1"
)
KEY = ("run", "encoder", "kind", "task", "fraction", "metric")
EMBEDDING_OF_ECG00 = [0.169316, -0.019004, 0.319679, 0.198582, 0.175443, 0.491492, 0.063395, 0.743625]
RESTORED = "61df30321435c3fb"
"""Digest of the restored reports and features. Those of version 0.1 differ, because it measured some rhythms and waves
wrongly (CHANGELOG.md); its shards had them in place of the plain reports."""
LOSS_OF_EPOCH_5 = 2.6012444496154785


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files in a working directory of their own: the run and the study name their shards by a relative path."""
    with tarfile.open(ARCHIVE) as opened:
        opened.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "version_0_1")
    return Path.cwd()


def etp(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs `etp command`; returns what it printed."""
    main.main(command.split())
    return capsys.readouterr().out


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time and size of every file."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def table(folder: Path, value: str, low: str, high: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The values of a study and their intervals over patients, from the named columns of its table."""
    with (folder / "table.csv").open(encoding="utf-8", newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row[low]]
    return {tuple(row[name] for name in KEY): (row[value], row[low], row[high]) for row in rows}


def numbers(results: Path) -> dict[str, Any]:
    content = json.loads(results.read_text(encoding="utf-8"))
    return {name: content[name] for name in ("rows", "summary", "records", "checkpoint", "shards")}


def test_shards_are_sound(folder, capsys):
    assert "shards: sound; 44 records" in etp("shards check shards", capsys)


def test_finished_shards_are_not_built_again(folder, capsys):
    before = state(folder / "shards")
    assert "none, the folder was finished already" in etp(PREP, capsys)
    assert state(folder / "shards") == before


def test_a_run_is_evaluated_to_the_same_numbers(folder, capsys):
    path = folder / RUN / RESULTS
    expected = numbers(path)
    path.unlink()
    etp(f"evaluate zero-shot --run {RUN} --shards shards", capsys)
    assert numbers(path) == expected


def test_a_study_is_finished(folder, capsys):
    runs, expected = state(folder / "study" / "runs"), table(folder / "study", "mean", "patients_low", "patients_high")
    printed = etp("reproduce study.toml --out study --no-train", capsys)
    assert "measured" not in printed and "1 are finished" in printed
    assert state(folder / "study" / "runs") == runs
    assert len(expected) == 22 and table(folder / "study", "value", "low", "high") == expected


def test_an_exported_encoder_gives_the_same_embedding(folder):
    embedding = etp_jax.load("exported").encode_ecg(np.load("archive/ecg00.npy"), fs=50, unit="uV")
    np.testing.assert_allclose(embedding, EMBEDDING_OF_ECG00, atol=2e-6)


def test_an_exported_encoder_predicts_the_same(folder, capsys):
    printed = etp("predict archive/ecg00.npy --run exported --fs 50 --unit uV", capsys)
    assert re.search(r"similarity, no probabilities\n +0\.372  normal ECG", printed)
    assert "no thresholds" in printed and "what it rests on\n  normal ECG: " in printed


def test_proposed_features_are_restored_to_the_same_reports(folder, capsys):
    options = "--shards shards --features proposals.json --filter measurement --workers 1"
    assert "records with restored features: 35 of 44" in etp(f"waveform restore {options} --out restored", capsys)
    assert "restored: sound; 44 records" in etp("shards check restored", capsys)
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        columns = Shards("restored").split(split).columns
        assert columns.report_restored is not None
        for report, features in zip(columns.report_restored, columns.features, strict=True):
            digest.update(f"{report}\n{'|'.join(features)}\n".encode())
    assert digest.hexdigest()[:16] == RESTORED


@pytest.mark.slow
def test_training_goes_on_to_the_same_loss(folder):
    """A process of its own compiles with some optimisation; with none, the gradient of the maximum is 0 / 0."""
    options = "--config tiny.py --data.shards shards --extend --optim.epochs 5 --quiet"
    command = [sys.executable, "-m", "etp_jax", "train", *options.split(), "--workdir", str(RUN)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    flags = QUICK_COMPILING.replace("optimization_level=0", "optimization_level=1")
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 12" in done.stdout and "finished at step 15" in done.stdout
    last = read_metrics(folder / RUN)[-1]
    assert (last["kind"], last["step"]) == ("validation", 15)
    assert last["loss"] == pytest.approx(LOSS_OF_EPOCH_5, rel=1e-5)
