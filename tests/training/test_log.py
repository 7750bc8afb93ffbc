"""Weights & Biases beside `metrics.jsonl`: by a stand-in of its package, and by itself if installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.training.log import boards, check_boards
from etp_jax.training.loop import train
from tests.helpers.tiny_run import change, learned_lines, quick_compiling, tiny_config, write_shards


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainConfig]:
    folder = tmp_path_factory.mktemp("log")
    with quick_compiling(tmp_path_factory.getbasetemp() / "jax-cache"):
        config = tiny_config(write_shards(folder / "shards"))
        yield change(config, optim={"epochs": 1, "warmup_epochs": 0.2}, run={"wandb": "ecg", "log_every": 1})


class StandIn(ModuleType):
    """The part of the package that is used; keeps what it is given."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **about: Any) -> StandIn:
        self.started.append(about)
        return self

    def define_metric(self, *_: str, **__: str) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_run_is_logged_and_goes_on_as_the_same(config: TrainConfig, tmp_path: Path, wandb: StandIn) -> None:
    train(config, tmp_path)
    train(change(config, optim={"epochs": 2}), tmp_path, extend=True)
    first, second = wandb.started
    assert first["project"] == "ecg" and first["resume"] == "allow" and first["config"]["seed"] == config.seed
    assert first["id"] == second["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert wandb.finished == 2
    kinds = ("ecg_per_s", "wait_share")
    shown = [
        {name.split("/")[-1]: value for name, value in values.items() if name.split("/")[-1] not in kinds}
        for values in wandb.logged
    ]
    assert shown == [{k: v for k, v in line.items() if k != "kind"} for line in learned_lines(tmp_path)]
    assert {name.split("/")[0] for values in wandb.logged for name in values} == {"step", "train", "validation"}


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
