"""Tests of the metrics log, and of Weights & Biases.

The latter always with a fake package; if it is installed, with the real one, offline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from etp_jax.config import RunConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.training.log import MetricsLog, boards, check_boards, gap, read_metrics
from tests.helpers.wandb_stand_in import StandIn

LINES = [{"kind": "train", "step": step, "loss": 0.25 * step, "skipped": None} for step in (5, 10)]


def test_no_changed_bit_of_the_log_is_taken(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for line in LINES:
        log.write(line["kind"], line["step"], {name: line[name] for name in ("loss", "skipped")})
    log.close()
    path = tmp_path / "metrics.jsonl"
    sound = path.read_bytes()
    assert read_metrics(tmp_path) == LINES
    for place in range(len(sound) - 1):
        for bit in range(8):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises(EtpError, match=r"metrics.jsonl: (line \d was changed|not written by `etp train`)"):
                read_metrics(tmp_path)
    path.write_bytes(sound[:-1] + b"!")  # as if the process had ended in the last line
    assert read_metrics(tmp_path) == LINES[:1]


def test_a_log_of_an_earlier_version_goes_on_with_checksums(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    log = MetricsLog(tmp_path, 5)
    log.write("train", 10, {"loss": 1.5})
    log.close()
    assert read_metrics(tmp_path) == [LINES[0], {"kind": "train", "step": 10, "loss": 1.5}]
    assert path.read_text().count('"crc32c"') == 2


def test_lost_lines_are_counted_from_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for line in LINES:
        log.write(line["kind"], line["step"], {"loss": line["loss"]})
    log.close()
    path = tmp_path / "metrics.jsonl"
    sound = path.read_bytes()
    assert log.lines == 2 and gap(tmp_path, 10, 2) == gap(tmp_path, 5, 1) == gap(tmp_path, 10, None) == ""
    for rest, lost in ((sound[: sound.index(b"\n") + 1], 1), (sound[:-1], 1), (b"", 2)):
        path.write_bytes(rest)
        assert f"metrics.jsonl: lacks {lost} of the 2 lines up to step 10" in gap(tmp_path, 10, 2)


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
