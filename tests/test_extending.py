"""docs/extending.md, followed to the letter: its code blocks are written as they are into a copy of the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from etp_jax import config as config_module
from etp_jax.config import ResNetConfig
from etp_jax.configs import load_recipe
from etp_jax.configs.mets import config as mets
from etp_jax.shards.reader import Shards
from tests.helpers.devices import ROOT
from tests.helpers.small_run import VOCABULARY, small_config, write_shards

PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r'^```\w+ title="([^" ]+)( \(append\))?"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SECTIONS = {
    "An archive": ["data_prep/archives/folder.py", "etp_jax/cli/prep.py (append)"],
    "A task": ["rhythms.json"],
    "An ECG tower": ["etp_jax/models/linear1d.py", "etp_jax/models/towers.py (append)"],
    "A score": ["etp_jax/losses/scores.py (append)"],
    "A pair rule": ["etp_jax/losses/pairs.py (append)"],
    "An evaluation": ["etp_jax/evaluation/spread.py", "etp_jax/evaluation/kinds.py (append)"],
    "A recipe": ["my_recipe.py"],
}
"""What each addition takes: new files, and files that get a line or a function at their end."""

Etp = Callable[[str], str]


class Block(NamedTuple):
    """A code block with a title."""

    path: str
    append: bool
    text: str

    @property
    def title(self) -> str:
        """Title as the page shows it."""
        return f"{self.path} (append)" if self.append else self.path


def blocks() -> dict[str, list[Block]]:
    """The titled code blocks of the page by the heading above them."""
    page = PAGE.read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    found = {}
    for section in sections:
        heading, _, text = section.partition("\n")
        found[heading] = [Block(path, bool(append), code) for path, append, code in BLOCK.findall(text)]
    return found


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Etp]]:
    """Writes the blocks of some sections; returns what runs `etp` there, in a process that imports the changed copy."""

    def run(command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "etp_jax", *command.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(*sections: str) -> Etp:
        for name in ("etp_jax", "data_prep", "configs"):
            ignored = shutil.ignore_patterns("__pycache__", "data_prep", "configs", "*.safetensors")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        for name in ("data_prep", "configs"):
            (tmp_path / "etp_jax" / name).symlink_to(Path("..", name))
        for section in sections:
            for block in blocks()[section]:
                path = tmp_path / block.path
                assert path.exists() == block.append, f"{block.title}: a new file that exists, or none to append to"
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"\n\n{block.text}" if block.append else block.text)
        return run

    yield write
    shutil.rmtree(tmp_path / "etp_jax", ignore_errors=True)


@pytest.fixture
def small_recipe(tmp_path: Path, shards: Path) -> Path:
    """A recipe that compiles and trains in seconds, as a saved config."""
    config = small_config(shards)
    path = tmp_path / "small.json"
    model = replace(config.model, ecg=ResNetConfig(blocks=(1,), width=2))
    config_module.save(replace(config, model=model), path)
    return path


def test_the_page_names_what_each_addition_takes() -> None:
    assert {heading: [block.title for block in found] for heading, found in blocks().items()} == SECTIONS


@pytest.mark.slow
def test_an_archive(follow: Callable[..., Etp], tmp_path: Path) -> None:
    (tmp_path / "ecgs").mkdir()
    signals = np.random.default_rng(0).normal(0, 0.3, (30, 5000, 12))
    for number, signal in enumerate(signals):
        np.save(tmp_path / "ecgs" / f"{number}.npy", signal)
    etp = follow("An archive")
    assert "etp prep folder " in etp("prep --help")
    etp("prep folder --source ecgs --out shards --workers 1")
    assert "shards: sound; 30 records" in etp("shards check shards")
    train = Shards(tmp_path / "shards").split("train")
    assert set(train.columns.report) == {"sinus rhythm"}


def test_a_task(follow: Callable[..., Etp], tmp_path: Path, run_dir: Path) -> None:
    etp = follow("A task")
    shards = write_shards(tmp_path / "own", label_vocabulary=["AFIB", "AFLT", *VOCABULARY])
    assert "no flaws" in etp("tasks lint rhythms.json --shards own")
    etp(f"evaluate zero-shot --run {run_dir} --shards {shards} --task rhythms.json")
    (result,) = (run_dir / "evaluation").glob("rhythms-zero-shot-*.json")
    row, *_ = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert row["per_class"]["SR"]["positives"] == 12 and row["per_class"]["AF"]["positives"] == 0


@pytest.mark.slow
def test_a_tower_a_score_a_pair_rule_and_an_evaluation(
    follow: Callable[..., Etp], tmp_path: Path, shards: Path, small_recipe: Path
) -> None:
    """One run has the tower, the score and the rule, and the evaluation measures it: each process compiles anew."""
    etp = follow("An ECG tower", "A score", "A pair rule", "An evaluation")
    options = "--model.ecg.kind linear --model.ecg.segment 32 --loss.score squared --loss.pairs soft"
    assert "finished at step 2" in etp(f"train --config {small_recipe} --workdir run {options} --max-steps 2")
    saved = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert saved["model"]["ecg"]["kind"] == "linear" and saved["model"]["ecg"]["segment"] == 32
    assert (saved["loss"]["score"], saved["loss"]["pairs"]) == ("squared", "soft")
    assert "--bootstrap" in etp("evaluate spread --help")
    etp(f"evaluate spread --run run --shards {shards}")
    (result,) = (tmp_path / "run" / "evaluation").glob("*spread*.json")
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert {row["encoder"] for row in rows} == {"trained", "random"} and all(row["spread"] > 0 for row in rows)
    etp(f"report --run run --shards {shards}")
    assert "Spread" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_recipe(follow: Callable[..., Etp], tmp_path: Path, shards: Path) -> None:
    etp = follow("A recipe")
    assert "width" in etp("train --config my_recipe.py --workdir run --help")
    recipe = load_recipe(str(tmp_path / "my_recipe.py"))
    assert recipe.model.ecg == ResNetConfig(width=32)
    assert recipe.loss.score == "sigmoid" and recipe.loss.pairs == "own"
    assert recipe.optim == mets.optim and recipe.model.text == mets.model.text
