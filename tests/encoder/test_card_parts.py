"""Tests the groups and conditions of a model card: tables and plots of an export, from results at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from etp_jax.cli import main
from etp_jax.encoder import card
from etp_jax.encoder.card_parts import read_parts
from etp_jax.encoder.folder import copy_encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation import Result
from etp_jax.files import SEAL, sealed
from tests.helpers.evaluations import measure
from tests.helpers.people import MARKS, write_people


@pytest.fixture(scope="module")
def evaluated(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results of groups and conditions, beside one of another kind and a file that is no result."""
    run = shutil.copytree(run_dir, tmp_path_factory.mktemp("evaluated") / "run")
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    people = write_people(run.parent / "shards", marks=MARKS)
    for kind in ("probe", "subgroups", "robustness"):
        measure(kind, run, people, bootstrap=10)
    (run / "evaluation" / "other.json").write_text("[]")
    return run


def of(run: Path) -> Any:
    """What the table of figures reads of an encoder."""
    return SimpleNamespace(run_dir=run, step=3)


def test_the_card_has_a_table_and_a_plot(evaluated: Path, tmp_path: Path):
    out = tmp_path / "out"
    main.main(["export", "--run", str(evaluated), "--out", str(out)])
    card = (out / "README.md").read_text()
    assert card.index("## Figures") < card.index("## Groups and conditions") < card.index("## Limits")
    names = [f"ptbxl-super-{kind}-validation" for kind in ("robustness", "subgroups")]
    for name in names:
        assert f"](figures/{name}.png)" in card
        assert len(np.unique(matplotlib.image.imread(out / "figures" / f"{name}.png"))) > 10
    part = Result.load(evaluated / "evaluation" / f"{names[1]}.json").rows[0].parts["women"]
    assert f"| women | {part.records} | {part.auroc:.3f} [{part.auroc_low:.3f}, {part.auroc_high:.3f}] |" in card
    assert "| under 50 | 0 | – | – | no record |" in card
    copy_encoder(out, tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy" / "figures").iterdir()} == {f"{name}.png" for name in names}


def test_a_card_has_no_figures_of_another_checkpoint(evaluated: Path, tmp_path: Path):
    """A run that trained on after its evaluation, or was evaluated with another `--checkpoint`."""
    run = shutil.copytree(evaluated, tmp_path / "run")
    names = [f"ptbxl-super-{kind}-validation.json" for kind in ("probe", "subgroups")]
    for name in names:
        content = json.loads((run / "evaluation" / name).read_text())
        del content[SEAL]
        content["checkpoint"]["step"] += 1
        (run / "evaluation" / name).write_text(json.dumps(sealed(content)))
    main.main(["export", "--run", str(run), "--out", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Left out, as figures of another checkpoint or of other weights: {', '.join(names)}." in card
    assert "| robustness |" in card and "| subgroups |" not in card and "| probe |" not in card
    assert [file.stem for file in (tmp_path / "out" / "figures").iterdir()] == ["ptbxl-super-robustness-validation"]


def test_a_card_has_no_figures_of_weights_that_were_replaced(evaluated: Path, tmp_path: Path, shards: Path):
    """A second export to a folder leaves the results of the first one there."""
    first = tmp_path / "first"
    main.main(["export", "--run", str(evaluated), "--out", str(first)])
    measure("knn", first, shards, bootstrap=2, fractions=(0.5,))
    main.main(["export", "--run", str(first), "--out", str(tmp_path / "second")])
    shown = "| knn | ptbxl-super | 50% of the labels | validation of small |"
    assert shown in (tmp_path / "second" / "README.md").read_text()
    main.main(["export", "--run", str(evaluated), "--out", str(first), "--dtype", "float32"])
    main.main(["export", "--run", str(first), "--out", str(tmp_path / "second")])
    card = (tmp_path / "second" / "README.md").read_text()
    assert "| knn |" not in card and "other weights: ptbxl-super-knn-validation.json." in card


def test_a_card_without_such_results_has_no_such_section(evaluated: Path, tmp_path: Path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    for file in (run / "evaluation").glob("*-subgroups-*"):
        file.unlink()
    main.main(["export", "--run", str(run), "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 1
    shutil.rmtree(run / "evaluation")
    main.main(["export", "--run", str(run), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "figures").exists()
    assert "Groups and conditions" not in (tmp_path / "out" / "README.md").read_text()


def test_a_damaged_result_is_named(evaluated: Path, tmp_path: Path):
    assert read_parts(evaluated / "evaluation" / "ptbxl-super-probe-validation.json") is None
    content = json.loads((evaluated / "evaluation" / "ptbxl-super-subgroups-validation.json").read_text())
    content["rows"][0]["reliability"]["NORM"]["equal_mass"] = [[1.0, 0.5]]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(content))
    with pytest.raises(EtpError, match=r"x.json: was changed after it was written"):
        read_parts(file)
    del content[SEAL]
    file.write_text(json.dumps(content))
    with pytest.raises(EtpError, match=r"x.json: a bin of reliability has other than three numbers; move it away"):
        read_parts(file)


def test_a_result_that_was_changed_is_named_and_not_shown(tmp_path: Path) -> None:
    figure = {"macro_auroc": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    about = {"kind": "zero-shot", "task": "mine", "split": "test", "protocol": {"prompts": "contrast, version 1"}}
    result = about | {"checkpoint": {"which": "best", "step": 3}, "shards": {"name": "archive"}}
    result |= {"summary": {"trained": {"0.0": figure}}}
    text = json.dumps(sealed(result))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "sound.json").write_text(text)
    (tmp_path / "evaluation" / "changed.json").write_text(text.replace("0.5", "0.9"))
    shown = card._figures(of(tmp_path))
    assert (
        "| zero-shot | mine | prompts contrast, version 1 | test of archive | macro_auroc | 0.500 [0.400, 0.600] |"
        in shown
    )
    assert "0.9" not in shown
    assert shown.endswith("Left out, as no results of `etp evaluate` or changed since: changed.json.")


def test_a_card_shows_the_figures_of_each_kind(tmp_path: Path) -> None:
    """Subgroups with their calibration, age beside sex; what could not be measured is a dash, not a damaged file."""
    (tmp_path / "evaluation").mkdir()
    unknown, known = dict.fromkeys(("mean", "low", "high")), {"mean": 0.25, "low": 0.2, "high": 0.3}
    for kind, values in {
        "subgroups": {"macro_auroc": unknown, "macro_f1": known, "ece_equal_mass": known, "ece_equal_width": known},
        "demographics": {"sex_auroc": unknown, "age_mae": known, "age_mae_of_median": known},
        "of-a-plugin": {"spread": known, "other": known},
    }.items():
        result = {"kind": kind, "task": None, "split": "test", "checkpoint": {"which": "best", "step": 3}}
        result |= {"shards": {"name": "archive"}, "summary": {"trained": {"1.0": values}}}
        (tmp_path / "evaluation" / f"{kind}.json").write_text(json.dumps(sealed(result)))
    rows = [line.split(" | ")[0:1] + line.split(" | ")[4:] for line in card._figures(of(tmp_path)).splitlines()[4:]]
    figure = "0.250 [0.200, 0.300] |"
    assert rows == [
        ["| demographics", "sex_auroc", "– |"],
        ["| demographics", "age_mae", figure],
        ["| demographics", "age_mae_of_median", figure],
        ["| of-a-plugin", "spread", figure],
        ["| subgroups", "macro_auroc", "– |"],
        ["| subgroups", "ece_equal_mass", figure],
    ]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({}, ()),
        ({"name": "honest", "prompts": "default, version 1"}, ("prompts default, version 1",)),
        ({"name": "honest", "prompts": "default, own.json 0a1b"}, ("prompts default, own.json 0a1b",)),
        ({"name": 5}, ("5",)),
        ({"name": "merl-as-published", "records": "records with a class"}, ("merl-as-published",)),
        ({"name": "honest", "records": "published split, 4 of its 5 records ..."}, ("published labels",)),
        ({"name": "ecg-fm-benchmark", "head": "attention"}, ("ecg-fm-benchmark", "attention head")),
        (
            {"name": "honest", "features": "stages x 8 views (chosen for 100% of ...)", "text_prior": "scores of ..."},
            ("stages x 8 views", "text prior"),
        ),
    ],
)
def test_the_card_tells_evaluations_of_one_task_apart(protocol: dict[str, object], expected: tuple[str, ...]) -> None:
    assert card.choices(protocol) == expected
