"""Tests `etp runs` on run folders with real files."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from etp_jax import config as config_module
from etp_jax import configs
from etp_jax.api import load
from etp_jax.cli import main
from etp_jax.config import OptimConfig
from etp_jax.errors import EtpError
from etp_jax.report.runs import compare, find_runs
from etp_jax.training.log import MetricsLog
from tests.helpers.small_run import small_config, write_run

EVALUATION = {
    "kind": "zero-shot",
    "checkpoint": {"which": "best", "step": 3},
    "shards": {"name": "small"},
    "task": "ptbxl-super",
    "split": "test",
    "summary": {"trained": {"0.0": {"macro_auroc": {"mean": 0.8765, "low": 0.86, "high": 0.89}}}, "random": {}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A finished run, a slower one that stopped, an exported encoder, and three broken folders."""
    folder = tmp_path_factory.mktemp("runs")
    config = small_config(shards)
    for name, rate, epochs, speed in (("a/fast", 0.01, 10.0, 200.0), ("a/slow", 0.02, 4.0, 50.0)):
        run = write_run(folder / name, replace(config, optim=OptimConfig(learning_rate=rate)))
        log = MetricsLog(run, 0)
        log.write("train", 1, {"epoch": 0.1, "loss": 3.0, "ecg_per_s": 0.0})
        log.write("train", 2, {"epoch": epochs, "loss": 1.23456, "ecg_per_s": speed})
        log.write("validation", 2, {"epoch": epochs, "loss": 2.5})
        log.close()
    (folder / "a" / "fast" / "evaluation").mkdir()
    (folder / "a" / "fast" / "evaluation" / "ptbxl-super-zero-shot-test.json").write_text(json.dumps(EVALUATION))
    load(folder / "a" / "fast").save(folder / "exported")
    shutil.copytree(folder / "a" / "slow", folder / "bad" / "config")
    (folder / "bad" / "config" / "config.json").write_text("{")
    shutil.copytree(folder / "a" / "slow", folder / "bad" / "evaluation")
    (folder / "bad" / "evaluation" / "evaluation").mkdir()
    (folder / "bad" / "evaluation" / "evaluation" / "x.json").write_text("[]")
    shutil.copytree(folder / "a" / "slow", folder / "bad" / "new", ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "bad" / "new" / "metrics.jsonl").unlink()
    (folder / "no-run").mkdir()
    (folder / "no-run" / "config.json").write_text("{}")  # such as a text tower's
    return folder


def test_runs_are_compared(folder: Path) -> None:
    rows = {row["run"]: row for row in compare([folder, folder / "a"])}
    fast, slow = (rows[str(folder / "a" / name)] for name in ("fast", "slow"))
    assert list(rows) == sorted(str(folder / name) for name in (
        "a/fast", "a/slow", "bad/config", "bad/evaluation", "bad/new", "exported"
    ))  # fmt: skip
    assert fast == {
        "run": str(folder / "a" / "fast"),
        "recipe": None,
        "data.shards": slow["data.shards"],
        "optim.learning_rate": 0.01,
        "train loss": 1.23456,
        "validation loss": 2.5,
        "best step": 3,
        "ECG/s": 200.0,
        "ptbxl-super-zero-shot-test macro_auroc": 0.8765,
        "trouble": "",
    }
    assert (slow["optim.learning_rate"], slow["ptbxl-super-zero-shot-test macro_auroc"]) == (0.02, None)
    assert slow["trouble"] == "validated up to epoch 4 of 10"
    exported = rows[str(folder / "exported")]
    assert (exported["best step"], exported["data.shards"], exported["trouble"]) == (3, "", "")
    troubles = {name: str(rows[str(folder / "bad" / name)]["trouble"]) for name in ("config", "evaluation", "new")}
    assert "config.json was changed since the folder was written" in troubles["config"]
    assert "x.json: holds no JSON object" in troubles["evaluation"]
    assert troubles["new"] == "no checkpoint yet"


def test_a_best_step_by_changed_metrics_is_not_shown(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder / "a" / "fast", tmp_path / "run"))
    (metrics,) = run.glob("checkpoints/*/metrics/metrics")
    metrics.write_text(metrics.read_text().replace("1", "2"))
    (row,) = compare([run])
    assert row["best step"] is None and "the checkpoint is damaged (metrics/metrics was changed)" in str(row["trouble"])


def test_figures_of_an_earlier_checkpoint_are_named_and_not_shown(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder / "a" / "fast", tmp_path / "run"))
    for name, checkpoint in {"old": {"which": "best", "step": 2}, "old-latest": {"which": "latest", "step": 2}}.items():
        (run / "evaluation" / f"{name}.json").write_text(json.dumps(EVALUATION | {"checkpoint": checkpoint}))
    (row,) = compare([run])
    assert row["trouble"] == "old-latest, old: of an earlier checkpoint; evaluate again"
    assert [name for name in row if "macro_auroc" in name] == ["ptbxl-super-zero-shot-test macro_auroc"]


def test_other_data_and_few_labels_have_columns_of_their_own(folder: Path, tmp_path: Path) -> None:
    """The data are named where runs were evaluated on several, whatever each was trained on."""
    one, two = (Path(shutil.copytree(folder / "a" / "fast", tmp_path / name)) for name in ("one", "two"))
    few = {"trained": {"0.005": EVALUATION["summary"]["trained"]["0.0"]}}
    (one / "evaluation" / "few.json").write_text(json.dumps(EVALUATION | {"summary": few}))
    name = "ptbxl-super-zero-shot-test"
    (two / "evaluation" / f"{name}.json").write_text(json.dumps(EVALUATION | {"shards": {"name": "elsewhere"}}))
    rows = compare([tmp_path])
    for row, data in zip(rows, ("small", "elsewhere"), strict=True):
        found = {column for column, value in row.items() if "macro_auroc" in column and value is not None}
        assert found - {"few macro_auroc 0.5% of the labels"} == {f"{name} macro_auroc of {data}"}
    assert rows[0]["few macro_auroc 0.5% of the labels"] == 0.8765


def test_an_unfinished_run_with_old_figures_has_both_troubles(folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder / "a" / "slow", tmp_path / "run"))
    (run / "evaluation").mkdir()
    old = EVALUATION | {"checkpoint": {"which": "best", "step": 2}}
    (run / "evaluation" / "old.json").write_text(json.dumps(old))
    (row,) = compare([run])
    assert row["trouble"] == "validated up to epoch 4 of 10; old: of an earlier checkpoint; evaluate again"


def test_the_command_prints_a_table_and_writes_csv(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main.main(["runs", str(folder / "a"), "--csv", str(tmp_path / "new" / "runs.csv")])
    head, fast, slow, wrote = capsys.readouterr().out.splitlines()
    assert "data.shards" not in head and wrote == f"wrote {tmp_path / 'new' / 'runs.csv'}"
    column = head.index("optim.learning_rate")
    assert fast[column:].split() == ["0.01", "1.235", "2.5", "3", "200", "0.8765", "-"]
    assert slow[column:].split(maxsplit=6)[5:] == ["-", "validated up to epoch 4 of 10"]
    with (tmp_path / "new" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["train loss"] for row in rows] == ["1.23456", "1.23456"] and rows[1]["recipe"] == ""


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EtpError, match="none: no such folder"):
        find_runs([tmp_path / "none"])
    with pytest.raises(EtpError, match="no run folder there or below"):
        compare([tmp_path])


def test_a_recipe_is_recognised_by_model_and_loss() -> None:
    for name in configs.recipe_names():
        config = configs.load_recipe(name)
        text = replace(config.model.text, pretrained="/elsewhere")
        changed = replace(config, seed=3, model=replace(config.model, text=text), optim=OptimConfig(epochs=1))
        assert configs.recipe_of(config_module.from_dict(config_module.to_dict(changed))) == name
    assert configs.recipe_of(replace(config, model=replace(config.model, embedding_dim=7))) is None
