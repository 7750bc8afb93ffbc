"""Tests the dry run of a study: estimates of time and memory, without a step, a file or a download."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from etp_jax import config as config_module
from etp_jax.bench import flops
from etp_jax.cli import main
from etp_jax.errors import EtpError
from etp_jax.reproduce import estimate, plan, reproduce
from etp_jax.reproduce.study import read
from etp_jax.training import loop, room
from etp_jax.training.program import text_tower
from tests.helpers.small_run import SAMPLES, small_config, write_shards
from tests.helpers.tiny_run import change

STUDY = """
shards = "{folder}/shards"
split = "test"
recipe = "{folder}/recipe.json"
seeds = [0, 1]
options = "--data.batch-size 40 --optim.epochs 2"

[[run]]
name = "first"

[[run]]
name = "sigmoid"
seeds = [0]
options = "--loss.score sigmoid --loss.temperature 0.1"

[[run]]
name = "unfit"
seeds = [0]
options = "--model.ecg.kind vit --model.ecg.patch 7"

[[evaluate]]
kind = "retrieval"
"""
STEPS = 10  # 2 epochs of 205 records with a report


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_shards(folder / "shards")
    config_module.save(small_config(folder / "shards"), folder / "recipe.json")
    file = folder / "small.toml"
    file.write_text(STUDY.format(folder=folder))
    return file


def benchmark(out: Path, **changes: Any) -> None:
    """A benchmark of 4 GFLOP/s in one round, and of 2 in the others; an encoder and PyTorch beside it."""
    row = {"what": "train step", "framework": "etp-jax", "devices": jax.device_count(), "flops": 8e9}
    step, slow = row | {"step_s": [2.0, 4.0, 4.0]}, row | {"step_s": [5.0]}
    rows = [slow, step, step | {"what": "encoder", "flops": 8e12}, step | {"framework": "pytorch", "flops": 8e13}]
    rows += [{"batch_size": 2, "devices": 1, "out_of_memory": True}]
    report = {"format": 1, "recipe": "mets", "device": jax.devices()[0].device_kind, "rows": rows}
    out.mkdir(exist_ok=True)
    (out / "bench.json").write_text(json.dumps(report | changes))


def test_nothing_is_run(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "train", None)
    compiled = []
    original = room.check_fits

    def counting(*args: Any) -> int | None:
        assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(args[1]))
        compiled.append(args[2])
        return original(*args)

    monkeypatch.setattr(estimate, "check_fits", counting)
    estimate._memory.cache_clear()  # pyright: ignore[reportPrivateUsage]
    out = tmp_path / "out"
    main.main(["reproduce", str(study), "--out", str(out), "--dry-run"])
    said = capsys.readouterr().out
    assert "3 runs, 4 with their seeds; 0 are finished" in said
    assert len(re.findall(rf": train {STEPS} steps: time unknown; a step needs 0\.\d GiB \(XLA's count\)", said)) == 3
    assert re.search(r"unfit-0: cannot be trained: .*patch", said)
    assert f"time: unknown for 3 of 4 runs; `etp bench --config mets --json {out}/bench.json`" in said
    assert not out.exists()
    assert len(compiled) == 1, "runs that differ in seed and score have the same memory"


def test_time_from_a_benchmark(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark(tmp_path)
    reproduce(study, tmp_path, dry_run=True, progress=print)
    said = capsys.readouterr().out
    assert said.count(f"train {STEPS} steps: 0 min (2 GFLOP/s, as bench.json has for mets)") == 3
    assert "time: unknown" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]


def test_the_time_is_the_work_at_the_speed_of_the_benchmark(study: Path, tmp_path: Path) -> None:
    benchmark(tmp_path)
    speed, found = estimate.read_benchmark(tmp_path), plan.trainings(read(study), tmp_path)[0]
    assert speed and speed.flops_per_s == 2e9
    needed = estimate.training_time(found, [], speed)
    half = estimate.training_time(replace(found, done=STEPS // 2), [], speed)
    model = found.config.model
    towers = (
        flops.ecg_tower(model, SAMPLES, 12).flops + flops.bert(text_tower(found.config), model.text.max_tokens).flops
    )
    least = STEPS * 40 * 3 * towers / 2e9  # without projections and loss
    assert needed and half and least < needed.seconds == 2 * half.seconds < 1.1 * least


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "TPU v9"}, r"bench\.json: not measured on \d+ x .*; measure again with `etp bench"),
        ({"rows": []}, "not measured on"),
        ({"rows": [{"what": "train step"}]}, "not the JSON of `etp bench`"),
        ({"rows": None}, "not the JSON of `etp bench`"),
    ],
)
def test_a_benchmark_of_something_else_is_refused(
    changes: dict[str, Any], message: str, study: Path, tmp_path: Path
) -> None:
    benchmark(tmp_path, **changes)
    with pytest.raises(EtpError, match=message):
        reproduce(study, tmp_path, dry_run=True)


def test_a_step_that_does_not_fit_is_named(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "device_bytes", lambda _: 2**18)
    estimate._memory.cache_clear()  # pyright: ignore[reportPrivateUsage]
    reproduce(study, tmp_path, dry_run=True, progress=print)
    said = capsys.readouterr().out
    assert re.search(
        r"first-0: cannot be trained: a step needs .* and a device has 0\.00; it may fit with --data", said
    )


def test_a_tower_that_is_not_here_counts_as_bert_base(tmp_path: Path) -> None:
    """No name is looked up on the hub."""
    config = small_config(tmp_path)
    config = change(config, model={"text": change(config.model.text, pretrained="someone/clinical-bert")})
    assert text_tower(config).hidden_size == 768
    here = change(config, model={"text": change(config.model.text, pretrained="package:no_such_package")})
    with pytest.raises(EtpError, match="no_such_package"):
        text_tower(here)
    assert text_tower(small_config(tmp_path)).hidden_size == 8
