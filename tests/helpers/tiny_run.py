"""A training run small enough to be started many times, in this process or, run as a script, in others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from etp_jax import config as config_module
from etp_jax.config import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
    TextTowerConfig,
    TrainConfig,
)
from etp_jax.ecg.leads import LEADS
from etp_jax.shards.record import FORMAT, RESTORED_FORMAT, Record
from etp_jax.shards.writer import shard_name, write_metadata, write_shard
from etp_jax.training.checkpoint import Checkpoints
from etp_jax.training.log import read_metrics
from etp_jax.training.loop import train
from tests.helpers.devices import ROOT

SAMPLES = 64
TRAIN, VALIDATION, BATCH = 42, 20, 8  # 41 of 42 records have a report: 5 steps an epoch
REPORTS = [
    "sinus rhythm",
    "atrial fibrillation",
    "left bundle branch block",
    "sinus rhythm. st depression",
    "pacemaker",
]


def write_shards(folder: Path, seed: int = 0, restored: bool = False) -> Path:
    """A shard folder of noise with a few reports, most of them several times, one of them empty.

    Restored, every other report has a waveform feature.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    content = {}
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        records = [record(f"{split}-{number}", rng, number, restored) for number in range(count)]
        shard = write_shard(folder / shard_name("tiny", split, 0, 1), records)
        content[split] = {"records": count, "shards": [shard]}
    build = {
        "format": RESTORED_FORMAT if restored else FORMAT,
        "name": "tiny",
        "fs": 100,
        "leads": list(LEADS),
        "samples": SAMPLES,
    }
    write_metadata(folder, {**build, "label_vocabulary": [], "splits": content})
    return folder


def record(name: str, rng: np.random.Generator, number: int, restored: bool) -> Record:
    report = "" if number == 3 else REPORTS[number % len(REPORTS)]
    return Record(
        ecg=rng.integers(-2000, 2000, (SAMPLES, len(LEADS)), np.int16),
        lead_mask=np.arange(len(LEADS)) != number % 24,
        record_id=name,
        patient_id=name,
        report=report,
        report_original=report,
        statements=(),
        labels=(),
        likelihoods=(),
        age=50.0,
        sex="",
        dataset="tiny",
        report_restored=report + ". qrs lasts 160 ms" * (number % 2 == 0) if restored else None,
    )


def tiny_config(shards: Path) -> TrainConfig:
    """Every kind of state and of chance: optimiser, batch statistics, moving average, augmentation, dropout."""
    return TrainConfig(
        data=DataConfig(shards=str(shards), batch_size=BATCH),
        augment=AugmentConfig(time_shift_s=0.05, lead_dropout=0.1, few_leads=0.2),
        model=ModelConfig(
            ecg=ResNetConfig(blocks=(1, 1), width=2, stem="conv-pool", drop_path=0.1),
            text=TextTowerConfig(vocabulary=60, layers=1, hidden=8, heads=2, max_tokens=16),
            embedding_dim=8,
        ),
        optim=OptimConfig(epochs=3, warmup_epochs=1, weight_decay=1e-3, clip_norm=1.0, ema=0.9),
        run=RunConfig(log_every=1, checkpoint_every=3),
    )


def change(config: Any, **values: Any) -> Any:
    """The config with some options of its parts replaced: `change(config, optim={"epochs": 4})`."""
    parts = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return replace(config, **parts)


def final_state(run_dir: Path, which: Any = "latest") -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path."""
    with Checkpoints(run_dir, "loss", read_only=True) as checkpoints:
        step = checkpoints.find(which)
        assert step is not None
        state = checkpoints.restore_numpy(step, ("step", "params", "batch_stats", "opt_state", "ema"))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def learned_lines(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if name not in ("ecg_per_s", "wait_share")}
        for line in read_metrics(run_dir)
    ]


def start(config: TrainConfig, run_dir: Path, *kill_in_save: int, **env: str) -> subprocess.Popen[str]:
    """Starts the run in another process; `kill_in_save` n: SIGKILL as soon as the n-th save writes to the disk."""
    command = [
        sys.executable,
        "-m",
        __name__,
        json.dumps(config_module.to_dict(config)),
        str(run_dir),
        *map(str, kill_in_save),
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def disturb(cls: type, method: str, call: int, number: int) -> None:
    """Sends this process a signal after call `call` of a method."""
    original, calls = getattr(cls, method), 0

    def disturbed(*args: Any) -> None:
        nonlocal calls
        original(*args)
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)

    setattr(cls, method, disturbed)


if __name__ == "__main__":
    config, run_dir = config_module.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2])
    if sys.argv[3:]:
        disturb(Checkpoints, "save", int(sys.argv[3]), signal.SIGKILL)
    train(config, run_dir)
