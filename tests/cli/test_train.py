"""Tests the options of `etp train` and `etp bench`: towers, short help, short runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etp_jax import config as c
from etp_jax.cli import main
from etp_jax.training import room
from tests.helpers.tiny_run import tiny_config, write_shards


def parsed(*options: str) -> Any:
    return main.parse(["train", "--workdir", "run", *options])[1]


def test_options_of_towers() -> None:
    config = parsed("--config", "mets", "--model.ecg.width", "32", "--model.ecg.norm", "group").config
    assert config.model.ecg == c.ResNetConfig(width=32, norm="group")
    vit = parsed("--config", "fgclep", "--model.ecg.width", "24", "--model.ecg.kind", "vit").config
    assert vit.model.ecg == c.ViTConfig(width=24)
    assert parsed("--model.ecg.kind=resnet", "--model.ecg.blocks", "1", "2").config.model.ecg.blocks == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.ecg.kind", "vit", "--model.ecg.stem", "conv"], "--model.ecg.stem"),
        (["--model.ecg.patch", "50"], "--model.ecg.patch"),
        (["--model.ecg.kind", "lstm"], "etp: model.ecg.kind: no ECG tower 'lstm'; there are resnet, vit"),
        (["--model.ecg.kernel", "2"], "etp: model.ecg.kernel is 2; residual branches only line up for an odd kernel"),
        (["--loss.semantic-weight", "2"], "etp: loss.semantic_weight is 2.0; it must lie between 0 and 1"),
        (["--data.shards", "none", "--loss.pairs", "x"], "etp: loss.pairs is 'x'; there are own, equal-masked"),
    ],
)
def test_wrong_options_are_found_before_anything_is_read(
    options: list[str], message: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["train", "--workdir", str(tmp_path / "run"), *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "most", "words"),
    [
        (["train"], 120, ["--workdir", "--max-steps", "--optim.learning-rate", "0.002", "--model.ecg.stem"]),
        (["train", "--config", "fgclep", "--model.ecg.kind", "vit"], 120, ["--model.ecg.patch", "2e-05", "sigmoid"]),
        (["bench"], 30, ["--batch-sizes", "--config", "mets"]),
        (["plan", "--topology", "v5e:2x4"], 30, ["--topology", "--quick", "--price", "mets"]),
    ],
)
def test_help_is_short_and_shows_the_recipe(
    command: list[str], most: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main([*command, "--help"])
    text = capsys.readouterr().out
    assert not stop.value.code and all(word in text for word in words)
    assert text.count("\n") <= most and max(map(len, text.splitlines())) <= 120
    assert "--help-all" in text

    with pytest.raises(SystemExit):
        main.main([*command, "--help-all"])
    every = capsys.readouterr().out
    assert "--optim.b1" in every and "--optim.b1" not in text


def test_a_run_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(write_shards(tmp_path / "shards"))
    c.save(config, tmp_path / "recipe.json")
    monkeypatch.setattr(room, "device_bytes", lambda _: 2**16)
    monkeypatch.setattr(room, "parts_for", lambda _: 2)
    with pytest.raises(SystemExit) as stop:
        main.main(["train", "--config", str(tmp_path / "recipe.json"), "--workdir", str(tmp_path / "run")])
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(said) == 1, said
    assert "a step needs 0.00 GiB on each device" in said[0]
    assert "it may fit with --data.batch-size 4 or --optim.micro-batches 2" in said[0]
