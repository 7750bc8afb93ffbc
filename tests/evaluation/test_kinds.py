"""Tests the registry of kinds: a new kind needs one file and one `Kind(...)`, and everything else finds it."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from etp_jax.cli import evaluate as cli
from etp_jax.cli import main
from etp_jax.cli.command import Command
from etp_jax.encoder.folder import PRETRAINED
from etp_jax.errors import EtpError
from etp_jax.evaluation import KINDS, Kind, Result, evaluate
from etp_jax.evaluation.probe import Probe
from etp_jax.evaluation.zero_shot import ZeroShot
from etp_jax.report.results import read_evaluations, results_section
from etp_jax.reproduce.study import read

PACKAGE = Path(main.__file__).parents[1]
NEW_FILE = '''
"""Similarity of the embeddings of one patient's records, compared with those of different patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from etp_jax.evaluation.outcome import Outcome, make_row
from etp_jax.evaluation.request import Request
from etp_jax.metrics.bootstrap import bootstrap_weights, weighted_mean


@dataclass(frozen=True, kw_only=True)
class Spread(Request):
    """Compares cosines within a patient and between patients."""

    kind: ClassVar[str] = "spread"

    most: int = 20
    """Number of records compared."""


def evaluate(request, encoders, shards):
    split = shards.split(request.split)
    patients = np.array(split.columns.patient_id)[: request.most]
    weights_NR = bootstrap_weights(patients, request.bootstrap)
    outcome = Outcome(len(patients), None, {"compared": f"the first {request.most} records"})
    same_NN = (patients[:, None] == patients[None]) & ~np.eye(len(patients), dtype=bool)
    for name, encoder in encoders:
        unit_NE = encoder.ecg(split)[1][: request.most]
        within_N = np.where(same_NN, unit_NE @ unit_NE.T, 0).sum(axis=1)
        values = {"within_patient": weighted_mean(within_N, weights_NR)}
        outcome.rows.append(make_row(name, 0.0, encoder.train_seed, None, values))
    return outcome
'''


@pytest.fixture
def spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """Adds a kind as a user would: a file and a line in KINDS. The commands are built from KINDS."""
    file = tmp_path / "spread.py"
    file.write_text(NEW_FILE)
    spec = importlib.util.spec_from_file_location("spread", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "spread", module)
    spec.loader.exec_module(module)
    kind = Kind("Spread of patients", module.Spread, module.evaluate, 1, ("within_patient",), "Mean cosine.")
    monkeypatch.setitem(KINDS, kind.name, kind)
    monkeypatch.setitem(main.COMMANDS, f"evaluate {kind.name}", Command(kind.options, cli.evaluate))
    return kind


def test_a_kind_that_is_added_is_measured_printed_shown_and_studied(
    spread: Kind, run_dir: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation" / "spread.json"
    command = ["evaluate", "spread", "--run", str(run_dir), "--shards", str(shards), "--most", "12"]
    main.main([*command, "--bootstrap", "20", "--json", str(out)])
    printed = capsys.readouterr().out
    assert "spread on validation: 12 records" in printed and "within patient" in printed and "random" in printed
    result = Result.load(out)
    assert result.protocol["compared"] == "the first 12 records" and result.first_row("trained")
    page = results_section(read_evaluations(out.parent))
    assert "Spread of patients, validation split" in page and "within patient" in page
    study = tmp_path / "study.toml"
    head = 'shards = "data"\ntasks = ["ptbxl-super"]\nrecipe = "ptbxl"\n[[run]]\nname = "a"\n'
    study.write_text(head + '[[evaluate]]\nkind = "spread"\n')
    assert list(map(str, read(study).measurements["a"])) == ["spread"]


def test_no_kind_is_named_outside_its_file() -> None:
    """Only a kind's own module may contain its name as a string; docstrings of others may mention it."""
    names = set(KINDS)
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for name in strings & names:
            assert path == PACKAGE / "evaluation" / f"{name.replace('-', '_')}.py", f"{path} names {name}"


@pytest.mark.parametrize(
    ("kind", "own", "foreign"),
    [
        ("zero-shot", {"--prompts", "--task", "--published"}, {"--protocol", "--seeds", "--fractions"}),
        ("probe", {"--protocol", "--seeds", "--fractions", "--published"}, {"--prompts"}),
        ("knn", {"--seeds", "--fractions", "--published"}, {"--prompts", "--protocol"}),
        ("finetune", {"--protocol", "--task"}, {"--prompts", "--published", "--seeds"}),
        ("retrieval", {"--split"}, {"--task", "--prompts", "--protocol", "--published"}),
    ],
)
def test_help_lists_the_options_of_the_kind_only(kind: str, own: set[str], foreign: set[str], capsys) -> None:
    with pytest.raises(SystemExit):
        main.main(["evaluate", kind, "--help"])
    listed = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    common = {"--run", "--shards", "--checkpoint", "--json", "--bootstrap"}
    assert own | common <= listed and not foreign & listed


def test_results_of_the_shipped_encoder_go_to_the_working_directory(tmp_path: Path) -> None:
    for run in (Path("shipped"), PRETRAINED):
        request = ZeroShot(run=run, shards=tmp_path, prompts=("contrast",))
        assert request.folder.resolve() == PRETRAINED.resolve()
        assert request.path == Path("evaluation/ptbxl-super-zero-shot-validation-contrast.json")
    assert Probe(run=tmp_path, shards=tmp_path).path.parent == tmp_path / "evaluation"


@pytest.mark.parametrize("name", KINDS)
def test_results_of_both_checkpoints_have_files_of_their_own(name: str, tmp_path: Path) -> None:
    best, latest = (
        KINDS[name].options(run=tmp_path, shards=tmp_path, checkpoint=which) for which in ("best", "latest")
    )
    assert latest.path == best.path.with_name(f"{best.path.stem}-latest.json")


def test_a_request_of_several_prompts_has_parts(tmp_path: Path) -> None:
    request = ZeroShot(run=tmp_path, shards=tmp_path, prompts=("default", "mets"))
    assert [part.how for part in request.parts()] == ["default", "mets"]
    assert request.chosen("waveform").prompts == ("waveform",)
    with pytest.raises(EtpError, match="no prompt set 'nice'"):
        ZeroShot(run=tmp_path, shards=tmp_path, prompts=("default", "nice")).check()
    with pytest.raises(EtpError, match="evaluate the request's parts"):
        evaluate(request)
