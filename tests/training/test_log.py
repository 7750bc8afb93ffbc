"""Tests of Weights & Biases logging: always with a fake package; if it is installed, with the real one, offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from etp_jax.config import RunConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.training.log import MetricsLog, boards, check_boards
from tests.helpers.wandb_stand_in import StandIn


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(run=RunConfig(wandb="ecg"))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_run_that_goes_on_is_the_same(config: TrainConfig, tmp_path: Path, wandb: StandIn) -> None:
    for step in (0, 7):
        MetricsLog(tmp_path, step, boards(config, tmp_path, step)).close()
    first, second = wandb.started
    assert (first["project"], first["resume"], first["config"]["run"]["wandb"]) == ("ecg", "allow", "ecg")
    assert first["id"] == second["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert wandb.finished == 2


def test_another_folder_is_another_run(config: TrainConfig, tmp_path: Path, wandb: StandIn) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        boards(config, tmp_path / name, 0)
    assert wandb.started[0]["id"] != wandb.started[1]["id"]
    (tmp_path / "one" / "wandb.json").write_text("[]")
    with pytest.raises(EtpError, match=r"one/wandb.json: not written by `etp train`"):
        boards(config, tmp_path / "one", 0)


def test_what_the_service_refuses_is_one_line(
    config: TrainConfig, tmp_path: Path, wandb: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise StandIn.Error("No API key configured.\nMore about it")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(EtpError, match=r"run.wandb: No API key configured.; run `wandb login`, or set WANDB_MODE=off"):
        boards(config, tmp_path, 0)


@pytest.mark.optional
def test_the_package_itself_offline(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    check_boards(config.run)
    for step in (0, 1):  # the second time goes on
        (board,) = boards(config, tmp_path, step)
        board.write("train", step + 1, {"loss": 1.0 - step})
        board.write("validation", step + 1, {"loss": 2.0})
        board.close()
    number = json.loads((tmp_path / "wandb.json").read_text())["id"]
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(number) for folder in folders)
    assert all((folder / f"run-{number}.wandb").stat().st_size for folder in folders)
