"""Tests of a step that `etp plan --save` compiled: the run that loads it, and the runs that may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from etp_jax import config as config_module
from etp_jax.cli import main
from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.models.text_tower import TextTower, build_text
from etp_jax.shards.reader import Shards
from etp_jax.training.build import text_inputs
from etp_jax.training.loop import train
from tests.helpers.devices import ROOT
from tests.helpers.tiny_run import SAMPLES, change, final_state, learned_lines, tiny_config, write_shards
from tests.training.test_multihost import DEVICES


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    shards = write_shards(tmp_path_factory.mktemp("saved") / "shards")
    options = {"optim": {"epochs": 2.0}, "data": {"resident": "never"}, "run": {"parallel": "shard_map"}}
    config = change(tiny_config(shards), **options)
    pieces = tower(config).bert_config.vocab_size  # no more than the few reports have
    return change(config, model={"text": change(config.model.text, vocabulary=pieces)})


def tower(config: TrainConfig) -> TextTower:
    return build_text(config.model.text, Shards(config.data.shards).reports("train").reports)


def sizes(config: TrainConfig) -> list[str]:
    """The options that state the sizes of the data."""
    reports = Shards(config.data.shards).reports("train").reports
    tokens = text_inputs(config, tower(config), reports, None)["input_ids"].shape[1]
    found = {"samples": SAMPLES, "fs": 100, "records": 41, "reports": len(reports), "tokens": tokens}
    return [part for name, value in found.items() for part in (f"--{name}", str(value))]


def saved(config: TrainConfig, folder: Path, devices: int = 1) -> Path:
    """The step of a run, compiled by the command."""
    recipe, path = folder / "recipe.json", folder / "compiled"
    config_module.save(config, recipe)
    own = ("--topology", f"cpu:{devices}", "--config", str(recipe), *sizes(config), "--no-others", "--save", str(path))
    main.main(["plan", *own])
    return path


@pytest.fixture(scope="module")
def compiled(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(config, tmp_path_factory.mktemp("compiled"))


def assert_same_run(run: Path, other: Path) -> None:
    ours, theirs = final_state(run), final_state(other)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert learned_lines(run) == learned_lines(other)


@pytest.mark.slow
def test_the_run_is_that_which_compiles_itself(config: TrainConfig, compiled: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "loads", compiled=compiled)
    train(config, tmp_path / "compiles")
    assert_same_run(tmp_path / "loads", tmp_path / "compiles")


@pytest.mark.slow
def test_on_four_devices_with_resident_records(config: TrainConfig, tmp_path: Path) -> None:
    changed = change(config, data={"resident": "always"}, run={"steps_per_dispatch": 2})
    path = saved(changed, tmp_path, devices=4)
    for name, own in (("loads", ("--compiled", str(path))), ("compiles", ())):
        command = ["train", "--config", str(tmp_path / "recipe.json"), "--workdir", str(tmp_path / name), *own]
        env = {**os.environ, "XLA_FLAGS": f"{DEVICES}4"}
        subprocess.run([sys.executable, "-m", "etp_jax", *command], cwd=ROOT, env=env, check=True)
    assert_same_run(tmp_path / "loads", tmp_path / "compiles")


def refusal(config: TrainConfig, compiled: Path, run: Path) -> str:
    """The error of a run that must not start."""
    with pytest.raises(EtpError) as error:
        train(config, run, compiled=compiled)
    assert not (run / "metrics.jsonl").exists()
    return str(error.value)


def test_another_step(config: TrainConfig, compiled: Path, tmp_path: Path) -> None:
    changed = change(config, optim={"learning_rate": 0.5})
    line = refusal(changed, compiled, tmp_path / "run")
    assert line.startswith(f"{compiled}: is another step, with optim.learning_rate ")
    assert line.endswith(" (here 0.5); save it again with `etp plan`")


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("target", "devices", 256, "was compiled for devices 256 (here 1); save it again"),
        ("target", "jax", "0.1", "was compiled for jax 0.1 (here "),
        ("sizes", "reports", 7, "is another step, with reports 7 (here 6); save it again"),
        ("text_tower", "hidden_size", 9, "is another step, with hidden_size 9 (here 8); save it again"),
        ("", "", "", "is the step of another version of etp-jax; save it again"),
    ],
)
def test_what_differs_is_named(
    config: TrainConfig, compiled: Path, tmp_path: Path, part: str, name: str, value: object, message: str
) -> None:
    first, program = compiled.read_bytes().split(b"\n", 1)
    about = json.loads(first)
    about["fingerprint"] = "0" * 64
    if part:
        about[part][name] = value
    other = tmp_path / "other"
    other.write_bytes(json.dumps(about).encode() + b"\n" + program)
    assert refusal(config, other, tmp_path / "run").startswith(f"{other}: {message}")


def test_what_is_no_compiled_step(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "step"
    assert "No such file or directory; `etp plan --save` writes" in refusal(config, path, tmp_path / "run")
    for content in (b"", b"no JSON\nx", b"[]\nx", b'{"format": 0}\nx'):
        path.write_bytes(content)
        assert "not a compiled step of this version" in refusal(config, path, tmp_path / "run")


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_damaged_program_is_not_loaded(config: TrainConfig, compiled: Path, tmp_path: Path, place: int) -> None:
    first, program = compiled.read_bytes().split(b"\n", 1)
    flipped = bytearray(program)
    flipped[place] ^= 1
    path = tmp_path / "step"
    for damaged in (flipped, program[:-1], b""):
        path.write_bytes(first + b"\n" + damaged)
        message = f"{path}: the compiled step is damaged; save it again with `etp plan`"
        assert refusal(config, path, tmp_path / "run") == message


@pytest.mark.parametrize("name", ["target", "fingerprint", "sha256", "options", "sizes", "text_tower"])
def test_a_description_without_a_part(config: TrainConfig, compiled: Path, tmp_path: Path, name: str) -> None:
    first, program = compiled.read_bytes().split(b"\n", 1)
    path = tmp_path / "step"
    for replaced in ({}, {name: []}):
        about = {key: value for key, value in json.loads(first).items() if key != name} | replaced
        path.write_bytes(json.dumps(about).encode() + b"\n" + program)
        assert "not a compiled step of this version" in refusal(config, path, tmp_path / "run")


def test_options_that_rule_it_out(config: TrainConfig, compiled: Path, tmp_path: Path) -> None:
    pmap, auto = change(config, run={"parallel": "pmap"}), change(config, data={"resident": "auto"})
    assert "needs --run.parallel shard_map" in refusal(pmap, compiled, tmp_path / "run")
    assert "needs --data.resident never, always or sharded" in refusal(auto, compiled, tmp_path / "run")
