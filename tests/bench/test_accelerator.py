"""Tests the study for a machine with an accelerator: its commands are valid, and its goals are judged rightly."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from etp_jax.cli import main
from etp_jax.models.huggingface import load_bert

STUDY = Path(__file__).parents[2] / "studies" / "accelerator.py"


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("accelerator", STUDY)
    assert spec is not None and spec.loader is not None
    module = sys.modules["accelerator"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step(ms: float, framework: str = "etp-jax", batch: int = 1024, **values: float) -> dict[str, Any]:
    about = {"what": "train step", "framework": framework, "batch_size": batch, "ecg_per_s": 1000 * batch / ms}
    return about | {"step_ms": ms} | values


def test_every_command_is_valid(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for sizes in (study.Sizes(), study.TINY):
        parts = study.parts(sizes, "h200:1x1x1", compare=True)
        names = [main.parse(part.command.split())[0].summary for part in parts]
        assert len(names) == len({part.name for part in parts}) == 13


def test_goals_are_judged_by_the_fastest_step_of_ours(study: Any):
    rows = [
        {"name": "mets-5000", "rows": [step(32), step(80, "torch compiled", time_of_ours=0.4)]},
        {"name": "mets-1000", "rows": [step(10), step(30, batch=4096), {"what": "train step", "out_of_memory": True}]},
        {"name": "etp", "rows": [step(40, batch=512, mfu=0.44)]},
        {"name": "deterministic", "rows": [step(11)]},
        {"name": "pre-training", "seconds": 59.0, "loss": 1.0},
        {"name": "plan-mets-5000", "low_ms": 21.0, "high_ms": None},
        {"name": "plan-mets-1000", "low_ms": 11.0, "high_ms": 20.0},
    ]
    found = {goal: (value, verdict) for goal, value, verdict in study.goals(rows, 1024)}
    assert found["mets-5000: ≥ 25,000 ECG/s"] == ("3.2e+04 ECG/s", "met")
    assert found["mets-5000: ≥ 2 times the speed of torch.compile"] == ("2.5 times", "met")
    assert found["mets-1000: ≥ 120,000 ECG/s"] == ("1.365e+05 ECG/s", "met")
    assert found["mets-1000: ≥ 2 times the speed of torch.compile"] == ("not measured", "")
    assert found["etp: ≥ 45 % MFU"] == ("44 %", "**not met**")
    assert found["pre-training: ≤ 60 s, from start to exit"] == ("59 s", "met")
    assert found["deterministic: time added to a step of mets-1000"] == ("10.0 %", "")
    assert found["mets-5000: the step is in the range of `etp plan`"] == ("32 ms; planned at least 21 ms", "met")
    assert found["mets-1000: the step is in the range of `etp plan`"] == ("10 ms; planned 11 to 20 ms", "**not met**")


def test_a_part_that_fails_or_lasts_too_long_is_a_row_of_its_own(study: Any, tmp_path: Path):
    wrong = study.Part("wrong", "bench --samples 0", 60, study.bench)
    row = study.run(wrong, tmp_path, time.monotonic() + 60)
    assert row["failed"] == "exit status 2: etp: --samples 0: it must be positive"
    assert study.run(wrong, tmp_path, time.monotonic() + 1)["failed"] == "no time was left"
    page = study.page([row], study.TINY, "a device")
    assert page.count("not measured") == 9 and "| `etp bench --samples 0` | exit status 2" in page


def test_the_tower_of_the_runs_can_be_read(study: Any, tmp_path: Path):
    study.write_tower(tmp_path)
    config, params, _ = load_bert(tmp_path)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (768, 12, 77)
    assert params["embeddings"]["word_embeddings"]["embedding"].shape == (77, 768)
