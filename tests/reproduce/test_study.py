"""Tests study files: their content is read, and each mistake gives one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etp_jax.cli import main
from etp_jax.encoder.folder import PRETRAINED
from etp_jax.errors import EtpError
from etp_jax.evaluation.probe import Probe
from etp_jax.evaluation.results import Result, Row
from etp_jax.reproduce import plan, tables
from etp_jax.reproduce.study import read
from etp_jax.tasks import get_task

HEAD = 'shards = "data"\ntasks = ["ptbxl-super"]\nrecipe = "ptbxl"\nseeds = [0, 1]\noptions = "--optim.epochs 4"\n'
RUNS = """
[[run]]
name = "coarse"

[[run]]
name = "fine"
start_from = "coarse"
shards = "fine-data"
options = ["--optim.epochs", "2", "--loss.bias", "None"]
"""
EVALUATE = '[[evaluate]]\nkind = "zero-shot"\nprompts = ["default", "contrast"]\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(text)
    return file


def test_common_options_come_before_a_runs_own(tmp_path: Path) -> None:
    study = read(
        write(tmp_path, HEAD + RUNS + EVALUATE + '[[evaluate]]\nkind = "retrieval"\nruns = ["fine"]\nseeds = [1]\n')
    )
    coarse, fine = study.runs
    assert coarse.config is not None and fine.config is not None
    _, train = main.parse(
        ["train", "--workdir", "w", "--config", "ptbxl", "--optim.epochs", "4", "--data.shards", "data"]
    )
    assert coarse.config == train.config and coarse.seeds == (0, 1)
    assert (fine.config.optim.epochs, fine.config.loss.bias, fine.config.data.shards) == (2, None, "fine-data")
    assert fine.start_from == "coarse" and study.split == "validation" and study.checkpoint == "best"
    assert list(map(str, study.measurements["coarse"])) == [
        "zero-shot ptbxl-super, default",
        "zero-shot ptbxl-super, contrast",
    ]
    assert list(map(str, study.measurements["fine"]))[2:] == ["retrieval"]
    assert list(study.measurements["fine"].values()) == [(0, 1), (0, 1), (1,)]
    twice = read(write(tmp_path, HEAD + RUNS + EVALUATE + EVALUATE + "seeds = [0]\n"))
    assert set(twice.measurements["fine"].values()) == {(0, 1)}
    other = read(study.file, tmp_path / "elsewhere")
    configs = [run.config.data.shards for run in other.runs if run.config]
    assert other.shards == tmp_path / "elsewhere" and configs == [str(tmp_path / "elsewhere"), "fine-data"]


RUN = '[[run]]\nname = "a"\n'
PUBLISHED = '[[published]]\nname = "X"\npretrained_on = "Y"\nsource = "Z"\nkind = "zero-shot"\n'
PUBLISHED += "macro_auroc = { ptbxl-super = 0.8 }\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shards = ", "cannot be read as TOML"),
        (f"shards = {'[' * 5000}", "cannot be read as TOML"),
        (f"a{'.a' * 100_000} = 1", "cannot be read as TOML (line 1 has more than 200 dots)"),  # took 40 GB
        (HEAD + RUN + EVALUATE + "shards = [1]\n", "evaluate zero-shot: `shards` must be a string"),
        (HEAD + RUN + 'options = "\'"\n' + EVALUATE, 'run a: options "\'": No closing quotation'),
        (HEAD + RUN, "has no `evaluate`"),
        ('sharts = "x"\n' + HEAD + RUN + EVALUATE, "unknown key 'sharts'; there are title, shards"),
        (HEAD + 'checkpoint = "first"\n' + RUN + EVALUATE, "checkpoint 'first' is neither"),
        (HEAD + RUN + "seeds = [1, 1]\n" + EVALUATE, "run a: `seeds` must be a list of distinct whole numbers"),
        (HEAD + RUN + RUN + EVALUATE, "run a: is defined twice"),
        (HEAD + '[[run]]\nname = "a/b"\n' + EVALUATE, "run a/b: a name must consist of"),
        (HEAD + RUN + 'recipe = "nosuch"\n' + EVALUATE, "run a: no recipe 'nosuch'"),
        (
            HEAD + RUN + 'options = "--optim.epoch 3"\n' + EVALUATE,
            "run a: options: no option --optim.epoch; did you mean --optim.epochs?",
        ),
        (
            HEAD + RUN + 'options = "--optim.epochs many"\n' + EVALUATE,
            "options: --optim.epochs is 'many'; it must be a number",
        ),
        (HEAD + RUN + 'options = "--seed 3"\n' + EVALUATE, "run a: --seed is set by `seeds`"),
        (HEAD + RUN + 'start_from = "b"\n' + EVALUATE, "run a: start_from 'b' is not a run above"),
        (
            HEAD + RUN + 'recipe = "fgclep"\nstage = "fine"\n' + EVALUATE,
            "run a: its recipe starts from another run; name that run as `start_from`",
        ),
        (HEAD + RUN + 'folder = "old"\n' + EVALUATE, "run a: `folder` must contain"),
        (HEAD + RUN + 'folder = "old"\nstage = "fine"\n' + EVALUATE, "takes no `stage`"),
        (HEAD + RUN + '[[evaluate]]\nkind = "guess"\n', "evaluate guess: no such kind"),
        (HEAD + RUN + '[[evaluate]]\nkind = "probe"\ntasks = ["ptbxl"]\n', "evaluate probe: no task 'ptbxl'"),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "probe"\ntasks = ["mets-super"]\n',
            "mets-super is too small to fit probes",
        ),
        (HEAD + RUN + '[[evaluate]]\nkind = "zero-shot"\nprompts = ["nice"]\n', "no prompt set 'nice'"),
        (HEAD + RUN + EVALUATE + '[[compare]]\npair = ["a", "b"]\n', "compare 1: no run 'b'; there are a"),
        (HEAD + RUN + EVALUATE + 'runs = ["b"]\n', "evaluate zero-shot: no run 'b'; there are a"),
        (HEAD + RUN + '[[evaluate]]\nkind = "probe"\nprotocols = ["mine"]\n', "probe has no protocol 'mine'"),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "knn"\nprotocols = ["mine"]\n',
            "knn has no protocol 'mine'; there is honest",
        ),
        (HEAD + RUN + '[[evaluate]]\nkind = "probe"\nprompts = ["contrast"]\n', "a probe takes no `prompts`"),
        (HEAD + RUN + '[[evaluate]]\nkind = "retrieval"\ntasks = ["ptbxl-super"]\n', "retrieval has no tasks"),
        (
            HEAD + RUN + EVALUATE + PUBLISHED.replace("zero-shot", "linear"),
            "published X: no such kind; there are zero-shot, probe",
        ),
        (HEAD + RUN + EVALUATE + "seeds = [9]\n", "evaluate zero-shot: run a has none of the `seeds`"),
        (
            HEAD + RUN + EVALUATE + EVALUATE + 'split = "test"\n',
            "evaluate zero-shot: zero-shot ptbxl-super, default is measured on two splits or shard folders",
        ),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "probe"\noptions = "--viws 8"\n',
            "evaluate probe: options: a probe of a study takes no --viws",
        ),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "probe"\noptions = "--views many"\n',
            "evaluate probe: options: --views is 'many'; it must be a list of a whole number",
        ),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "probe"\noptions = "--split=test"\n',
            "evaluate probe: options: a probe of a study takes no --split",
        ),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "probe"\noptions = "--head attention --views 8"\n',
            "evaluate probe: --head attention reads the last stage over time",
        ),
        (
            HEAD + RUN + '[[evaluate]]\nkind = "probe"\n[[evaluate]]\nkind = "probe"\noptions = "--seeds 0"\n',
            "evaluate probe: probe ptbxl-super, honest has the result file of another measurement",
        ),
        (HEAD + RUN + EVALUATE + '[[published]]\nname = "X"\n', "published X: has no `pretrained_on`"),
    ],
)
def test_a_mistake_is_one_line_with_the_file_and_the_place(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(EtpError) as error:
        read(file)
    assert said in str(error.value) and str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_the_shipped_encoder_is_a_finished_run(tmp_path: Path) -> None:
    text = 'shards = "data"\ntasks = ["ptbxl-super"]\n[[run]]\nname = "ours"\nfolder = "shipped"\n' + EVALUATE
    (training,) = plan.trainings(read(write(tmp_path, text)), tmp_path)
    assert training.folder == PRETRAINED and training.finished and training.done == training.total > 0


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "studies").glob("*.toml")), ids=lambda f: f.stem)
def test_the_studies_of_this_repository_are_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {c.code: list(c.prompts) for c in get_task("ptbxl-super").classes}
    for name in re.findall(r'"(prompts/.+?\.json)"', file.read_text(encoding="utf-8")):  # made by an earlier command
        (tmp_path / "prompts").mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(prompts), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    study = read(file)
    assert study.runs and all(study.measurements.values())
    assert all(run.config or run.folder == "shipped" for run in study.runs)


def test_an_evaluation_may_have_records_of_its_own(tmp_path: Path) -> None:
    own = EVALUATE + 'tasks = ["cpsc2018"]\nshards = "cpsc"\nsplit = "all"\n'
    study = read(write(tmp_path, HEAD + RUN + EVALUATE + own))
    found = {(m.request.task_name, m.request.shards, m.request.split) for m in study.measurements["a"]}
    assert found == {("ptbxl-super", Path("data"), "validation"), ("cpsc2018", Path("cpsc"), "all")}


def test_an_evaluation_may_have_options_of_its_kind(tmp_path: Path) -> None:
    probes = '[[evaluate]]\nkind = "probe"\n[[evaluate]]\nkind = "probe"\noptions = "--features stages --views 1 8"\n'
    study = read(write(tmp_path, HEAD + RUN + probes))
    plain, own = study.measurements["a"]
    assert (plain.columns()["how"], own.columns()["how"]) == ("honest", "honest, --features stages --views 1 8")
    assert isinstance(own.request, Probe) and own.request.candidates() == (("stages", 1), ("stages", 8))
    assert plain.request.file_name() != own.request.file_name()


def test_a_result_of_other_shares_or_subsets_is_no_answer() -> None:
    about: dict[str, Any] = {"run": "", "task": "ptbxl-super", "kind": "probe", "protocol": {}, "split": "validation"}
    about |= {"records": 9, "pretrained_on": "x", "checkpoint": {"which": "best", "step": 1}, "thresholds_from": None}
    shares = ((0.1, 0), (0.1, 1), (1.0, None))
    rows = [Row("trained", share, train_seed=0, subset_seed=seed, values={}) for share, seed in shares]
    about |= {"shards": {}, "revision": None, "versions": {}, "rows": rows, "summary": {}}
    stored = Result(**about)
    asked = Probe(run=Path(), shards=Path(), fractions=(0.1, 1.0), seeds=(0, 1))
    assert asked.answered_by(stored) and replace(asked, fractions=(1.0,), seeds=(7,)).answered_by(stored)
    assert not replace(asked, fractions=(0.01, 1.0)).answered_by(stored)
    assert not replace(asked, seeds=(0,)).answered_by(stored)
    published = replace(asked, protocol="merl-as-published", fractions=(0.01,))
    rows = [Row("trained", 0.01, train_seed=0, subset_seed=42, values={})]
    assert published.answered_by(replace(stored, rows=rows)) and not published.answered_by(stored)


def test_shares_of_labels_and_metrics_are_told_apart() -> None:
    few, fewer = ({"fraction": share, "how": "honest"} for share in (0.002, 0.001))
    assert (tables._how(few), tables._how(fewer)) == ("0.2%", "0.1%")
    assert tables._how({"fraction": 1.0, "how": None, "metric": "age_mae"}, several=True) == "100%, age MAE (years)"
    assert tables._choice({"kind": "probe", "how": None, "status": "published"}) == {}


@pytest.mark.parametrize("name", ["table.json", "table.csv", "table.md", "table.html"])
def test_the_table_of_a_study_replaces_no_other_file(tmp_path: Path, name: str) -> None:
    figures = {"title": "T", "study": "t.toml", "split": "test", "checkpoint": "best", "bootstrap": "1000 draws"}
    figures |= {
        "shards": {"name": "small", "fs": 100, "fingerprint": "f"},
        "other_shards": [],
        "rows": [],
        "comparisons": [],
        "failed": {},
    }
    tables.write(figures, tmp_path)
    tables.check_free(tmp_path)
    (tmp_path / name).write_text("# my notes")
    with pytest.raises(EtpError, match=f"{name}: holds something other than the table of a study"):
        tables.check_free(tmp_path)
