"""Tests `etp reproduce` on tiny shards: training, interruption, resumption, evaluation, and the table."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from etp_jax import config as config_module
from etp_jax.cli import main
from etp_jax.errors import EtpError
from etp_jax.evaluation.evaluate import REVISION
from etp_jax.metrics.bootstrap import bootstrap_weights
from etp_jax.reproduce import plan, reproduce
from etp_jax.reproduce.study import read
from etp_jax.training import digest
from etp_jax.training.progress import Progress
from tests.helpers.small_run import small_config, write_run, write_shards

pytestmark = pytest.mark.slow

STUDY = """
title = "Tiny <study>"
shards = "{folder}/shards"
split = "test"
checkpoint = "latest"
tasks = ["ptbxl-super"]
recipe = "{folder}/recipe.json"
seeds = [0, 1]
options = "--data.batch-size 40 --optim.epochs 1 --run.log-every 2"

[[run]]
name = "first"

[[run]]
name = "broken"
seeds = [0]
options = "--data.batch-size 100000"

[[run]]
name = "older"
folder = "{folder}/older-{{seed}}"
pretrained_on = "nothing, in truth"

[[evaluate]]
kind = "zero-shot"
prompts = ["default", "contrast"]

[[evaluate]]
kind = "knn"
options = "--fractions 0.01 1.0"
runs = ["first", "broken"]

[[evaluate]]
kind = "retrieval"

[[compare]]
pair = ["first", "older"]

[[published]]
name = "Others"
pretrained_on = "their own"
source = "their paper"
kind = "knn"
labels = 0.01
macro_auroc = {{ ptbxl-super = 0.8 }}
"""
SECONDS = {"time", "seconds"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_shards(folder / "shards")
    config = small_config(folder / "shards")
    config_module.save(config, folder / "recipe.json")
    for seed in (0, 1):
        write_run(folder / f"older-{seed}", replace(config, seed=seed))
    file = folder / "tiny.toml"
    file.write_text(STUDY.format(folder=folder))
    return file


@pytest.fixture(scope="module")
def out(study: Path) -> Path:
    """Result of the command after it was stopped during the second training and started again."""
    out, original, calls = study.parent / "out", Progress.step, 0

    def stopping(self: Progress, *args: Any) -> None:
        nonlocal calls
        original(self, *args)
        calls += 1
        if calls == 7:  # each run has 5 steps
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "step", stopping)
        with pytest.raises(SystemExit) as stop:
            reproduce(study, out)
    assert stop.value.code == 143
    # the first was trained and evaluated four times
    assert [line["run"] for line in plan.read_log(out)] == ["first"] * 5 + ["older"] * 3
    seeds = {(row["run"], row["status"], tuple(row["seeds"])) for row in rows(out, encoder="trained")}
    assert seeds == {("first", "measured", (0,)), ("broken", "failed", ()), ("older", "measured", (0,))}
    with pytest.raises(SystemExit) as end:
        main.main(["reproduce", str(study), "--out", str(out)])
    assert end.value.code == 2
    return out


def test_deterministic_runs_are_prepared_before_the_devices_start(study: Path, monkeypatch: pytest.MonkeyPatch):
    def early() -> None:
        raise EtpError("in time")

    monkeypatch.setattr("etp_jax.reproduce.run.build.make_deterministic", early)
    monkeypatch.setattr(plan, "trainings", None)
    file = study.with_name("deterministic.toml")
    file.write_text(study.read_text().replace("--run.log-every 2", "--run.deterministic"))
    with pytest.raises(EtpError, match="in time"):
        reproduce(file, study.parent / "never")


def test_a_full_disk_ends_the_study_at_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def full(config: Any, folder: Path) -> None:
        begun.append(folder)
        raise EtpError(f"{folder}: {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr("etp_jax.reproduce.run.loop.train", full)
    with pytest.raises(EtpError, match="No space left on device"):
        reproduce(study, study.parent / "full")
    assert len(begun) == 1


def test_the_time_of_an_evaluation_without_a_kind_is_left_out(tmp_path: Path) -> None:
    lines = [
        {"what": "evaluate", "error": None, "seconds": n, **kind} for n, kind in ((2.0, {"kind": "knn"}), (3.0, {}))
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert plan.evaluation_times(tmp_path) == {"knn": 2.0}


def test_a_truncated_line_of_the_log_is_dropped(tmp_path: Path) -> None:
    log, line = tmp_path / plan.LOG, '{"what": "train", "error": null, "seconds": 1.0}\n'
    log.write_text(line + line[:20])
    plan.repair_log(tmp_path)
    assert log.read_text() == line
    log.write_text(line[:20])
    plan.repair_log(tmp_path)
    assert plan.read_log(tmp_path) == []


def table(out: Path) -> dict[str, Any]:
    return json.loads((out / "table.json").read_text())


def rows(out: Path, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in table(out)["rows"] if all(row[key] == value for key, value in wanted.items())]


def arrays(folder: Path, stem: str) -> list[dict[str, np.ndarray]]:
    """Reads the `.npz` of an evaluation for both seeds; the seed is appended to `folder`."""
    return [dict(np.load(f"{folder}-{seed}/evaluation/{stem}.npz")) for seed in (0, 1)]


def test_nothing_is_done_twice(out: Path, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = plan.read_log(out)
    assert all(line["error"] is None for line in before)
    names = [tuple(value for key, value in line.items() if key not in SECONDS) for line in before]
    assert len(set(names)) == len(names) == 2 + 4 + 4 + 3 + 3
    figures = table(out)
    with pytest.raises(EtpError, match=r"tiny\.toml: failed: 1; the first, broken-0: data\.batch_size is 100000"):
        reproduce(study, out, progress=print)
    assert plan.read_log(out) == before and table(out) == figures
    said = capsys.readouterr().out
    assert "3 runs, 5 with their seeds; 4 are finished" in said and "0 of 18 evaluations" in said, said

    for file in (out / "runs" / "first-0" / "evaluation").glob("retrieval-test-latest.*"):
        file.rename(file.with_stem("retrieval-test"))  # its name before the checkpoint was in it
    reproduce(study, out, dry_run=True, progress=print)
    assert "0 of 18 evaluations" in capsys.readouterr().out

    lost = out / "runs" / "first-1" / "evaluation" / "retrieval-test-latest.npz"
    lost.unlink()
    reproduce(study, out, dry_run=True, progress=print)
    assert "1 of 18 evaluations to run: 0 min" in capsys.readouterr().out and not lost.exists()
    with pytest.raises(EtpError, match="failed: 1"):
        reproduce(study, out, train=True)
    assert lost.exists() and len(plan.read_log(out)) == len(before) + 1 and table(out) == figures


def test_a_run_that_fails_before_its_first_step_fails_alone(study: Path, tmp_path: Path) -> None:
    file, out = study.with_name("unfit.toml"), tmp_path / "out"
    runs, evaluations = study.read_text().split("[[run]]"), '[[evaluate]]\nkind = "zero-shot"\n'
    unfit = '\nname = "unfit"\noptions = "--model.ecg.kind vit --model.ecg.patch 7"\n'
    shutil.copytree(study.parent / "older-0", tmp_path / "older-0")
    older = runs[3].split("[[evaluate]]")[0].replace(f"{study.parent}/older", f"{tmp_path}/older")
    file.write_text(f"{runs[0].replace('[0, 1]', '[0]')}[[run]]{unfit}[[run]]{older}{evaluations}")
    for _ in range(2):
        with pytest.raises(EtpError, match=r"failed: 1; the first, unfit-0: .*patch"):
            reproduce(file, out)
        assert {(row["run"], row["status"]) for row in rows(out, encoder="trained")} == {
            ("unfit", "failed"),
            ("older", "measured"),
        }


def test_figures_of_a_half_trained_run_stay_out(out: Path, study: Path) -> None:
    opened = read(study)
    training = plan.trainings(opened, out)[0]
    assert plan.measured(opened, training)
    assert not plan.measured(opened, replace(training, total=training.total + 1))


def test_a_second_process_keeps_out_of_the_folder(study: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EtpError, match="another process runs a study in this folder"):
            reproduce(study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_one_line_for_a_folder_that_cannot_be_written(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EtpError, match=r"table.json: cannot be written .*; name another place"):
        reproduce(study, tmp_path / "file" / "table")


def test_means_and_intervals_against_scikit_learn(out: Path) -> None:
    (row,) = rows(out, run="first", encoder="trained", kind="zero-shot", how="default")
    aurocs = []
    for found in arrays(out / "runs/first", "ptbxl-super-zero-shot-test-latest"):
        both = found["y"].any(axis=0) & ~found["y"].all(axis=0)
        patients = np.array([str(int(name.split("-")[1]) // 2) for name in found["record_id"]])
        weights = bootstrap_weights(patients, 1000)
        y, trained = found["y"][:, both], found["trained"][:, both]
        expected = [roc_auc_score(y, trained, sample_weight=weights[:, draw]) for draw in (0, 1, 2, 500, 1000)]
        np.testing.assert_allclose(found["replicates_macro_auroc"][0, [0, 1, 2, 500, 1000]], expected, atol=1e-6)
        aurocs.append(found["replicates_macro_auroc"][0].astype(float))
    figure = row["values"]["macro_auroc"]
    assert row["seeds"] == [0, 1] and row["records"] == 40 and row["pretrained_on"] == "small train"
    assert figure["by_seed"] == pytest.approx([replicates[0] for replicates in aurocs], abs=1e-6)
    assert figure["mean"] == pytest.approx(np.mean(figure["by_seed"]), abs=1e-6)
    low, high = np.percentile(np.mean(aurocs, axis=0)[1:], [2.5, 97.5])
    assert figure["patients"] == pytest.approx({"low": low, "high": high}, abs=1e-6)
    for replicates, ends in zip(aurocs, figure["patients_by_seed"], strict=True):
        assert list(ends.values()) == pytest.approx(np.percentile(replicates[1:], [2.5, 97.5]), abs=1e-6)
    half = 12.7062047 * abs(figure["by_seed"][0] - figure["by_seed"][1]) / 2  # t(0.975, 1); s / sqrt(2) of two values
    assert figure["seeds"]["high"] - figure["mean"] == pytest.approx(half, abs=1e-5)


def test_differences_are_paired(out: Path) -> None:
    compared = table(out)["comparisons"]
    assert all(c["pair"] == ["first", "older"] for c in compared)
    assert [(c["kind"], c["how"], c["fraction"]) for c in compared] == [
        ("zero-shot", "default", 0.0),
        ("zero-shot", "contrast", 0.0),
        *[("retrieval", None, 0.0)] * 2,
    ]
    stem, name = "ptbxl-super-zero-shot-test-contrast-latest", "replicates_macro_auroc"
    pairs = zip(arrays(out / "runs/first", stem), arrays(out.parent / "older", stem), strict=True)
    differences = np.mean([first[name][0].astype(float) - second[name][0] for first, second in pairs], axis=0)
    found = compared[1]
    assert found["mean"] == pytest.approx(differences[0], abs=1e-6) and found["common_seeds"] == [0, 1]
    assert found["patients"]["low"] == pytest.approx(np.percentile(differences[1:], 2.5), abs=1e-6)
    rarer = min(np.sum(differences[1:] <= 0), np.sum(differences[1:] >= 0))
    assert found["p"]["patients"] == pytest.approx(min(1, 2 * (1 + rarer) / 1001), abs=1e-6)
    assert 0 < found["p"]["seeds"] <= 1


def test_random_encoders_failed_and_missing_cells(out: Path) -> None:
    (drawn,) = rows(out, encoder="random", kind="zero-shot", how="default")
    assert (drawn["run"], drawn["pretrained_on"], drawn["seeds"]) == ("random encoder", "nothing", [0, 1, 2])
    assert {row["status"] for row in rows(out, run="broken")} == {"failed"}
    assert list(table(out)["failed"]) == ["broken-0"]
    (older,) = rows(out, run="older", encoder="trained", kind="retrieval")
    assert older["pretrained_on"] == "nothing, in truth" and older["seeds"] == [0, 1]


def test_classes_that_a_subset_lacks_are_told(out: Path) -> None:
    (few,) = rows(out, run="first", encoder="trained", kind="knn", fraction=0.01)
    results = [out / f"runs/first-{seed}/evaluation/ptbxl-super-knn-test-latest.json" for seed in (0, 1)]
    found = [
        row["train_classes"]
        for result in results
        for row in json.loads(result.read_text())["rows"]
        if row["encoder"] == "trained" and row["fraction"] == 0.01
    ]
    assert few["classes"] == 5 and few["classes_fitted"] == pytest.approx(np.mean(found)) and np.mean(found) < 5
    assert f"] ({np.mean(found):.1f} of 5) |" in re.sub(r" ±[\d.]+", "", (out / "table.md").read_text())
    (zero_shot,) = rows(out, run="first", encoder="trained", kind="zero-shot", how="default")
    assert zero_shot["classes_fitted"] is None


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        self.scripts += tag == "script"


def test_the_files_that_people_read(out: Path) -> None:
    with (out / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    (cell,) = rows(out, run="first", encoder="trained", kind="knn", fraction=1.0)
    (line,) = [
        line
        for line in lines
        if (line["run"], line["kind"], line["fraction"], line["metric"]) == ("first", "knn", "1.0", "macro_f1")
        and (line["encoder"], line["seed"]) == ("trained", "mean")
    ]
    assert float(line["value"]) == cell["values"]["macro_f1"]["mean"] and line["revision"] == str(REVISION)
    assert float(line["low"]) == cell["values"]["macro_f1"]["patients"]["low"]
    assert line["protocol"] == "honest, --fractions 0.01 1.0"
    assert not [line for line in lines if line["run"] == "broken"]  # only rows with a value
    (p,) = [
        line
        for line in lines
        if (line["run"], line["prompts"], line["metric"]) == ("first - older", "contrast", "macro_auroc_p_patients")
    ]
    assert float(p["value"]) == table(out)["comparisons"][1]["p"]["patients"] and p["encoder"] == "difference"

    mean = f"{cell['values']['macro_auroc']['mean']:.3f} ["
    text = (out / "table.md").read_text()
    assert "# Tiny <study>" in text and "| failed |" in text
    assert f"| first | small train | 100%, --fractions 0.01 1.0 | 2 | {mean}" in text
    assert "| Others their paper | their own | 1% | – | 0.800 |" in text
    html = (out / "table.html").read_text()
    page = Page()
    page.feed(html)
    assert "Tiny &lt;study&gt;" in html and "width=device-width" in html and not page.scripts
    assert page.loaded and all(place.startswith("#") for place in page.loaded)


def test_runs_of_other_options_are_refused(out: Path, study: Path, tmp_path: Path) -> None:
    text = study.read_text().replace("--run.log-every 2", "--optim.ema 0.5")
    other = tmp_path / "other.toml"
    other.write_text(text)
    with pytest.raises(EtpError, match=r"run first, seed 0: .*first-0: --optim\.ema was 0\.0") as error:
        reproduce(other, out)
    assert str(error.value).startswith(str(other))
    other.write_text(study.read_text().replace("older-{seed}", "olden-{seed}"))
    with pytest.raises(EtpError, match=r"run older, seed 0: .*olden-0/config\.json: no such file"):
        reproduce(other, out)


def test_runs_of_a_study_may_be_moved_together(out: Path, study: Path, tmp_path: Path) -> None:
    """A run that started from another remains the same run when both are moved."""
    text = study.read_text().replace('name = "older"\n', 'name = "older"\nstart_from = "first"\n')
    file = tmp_path / "from.toml"
    file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("folder")))
    shutil.copytree(out / "runs", tmp_path / "runs")
    for seed in (0, 1):
        run = shutil.copytree(out / "runs" / f"first-{seed}", tmp_path / "runs" / f"older-{seed}")
        saved = json.loads((run / "config.json").read_text())
        digest.forget(run)
        (run / "config.json").write_text(json.dumps(saved | {"start_from": f"elsewhere/first-{seed}"}))
    found = {str(training): training for training in plan.trainings(read(file), tmp_path)}
    assert found["older-1"].finished and found["older-1"].config.start_from == "elsewhere/first-1"
