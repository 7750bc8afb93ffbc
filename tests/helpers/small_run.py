"""A labelled shard folder and an untrained run folder, small enough to be made for each test module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etp_jax.config import DataConfig, ModelConfig, ResNetConfig, TextTowerConfig, TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.models.dual_encoder import init_variables
from etp_jax.models.text_tower import build_text
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import FORMAT, Record
from etp_jax.shards.writer import shard_name, write_metadata, write_shard
from etp_jax.training import build, run_folder
from etp_jax.training.checkpoint import Checkpoints

SAMPLES = 64
COUNTS = {"train": 240, "validation": 60, "test": 50}
FINDINGS = {"NORM": "normal ecg", "IMI": "inferior myocardial infarction", "SR": "sinus rhythm", "LVH": "hypertrophy"}
VOCABULARY = tuple(sorted(FINDINGS))


def write_shards(folder: Path, **build: Any) -> Path:
    """Labelled records in three splits, two of each patient; a record's level tells a little of its labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    metadata = {"format": FORMAT, "name": "small", "fs": 100, "leads": list(LEADS), "samples": SAMPLES}
    metadata |= {"label_vocabulary": list(VOCABULARY), **build}
    shape = metadata["samples"], len(metadata["leads"])
    content = {}
    for split, count in COUNTS.items():
        records = [make_record(split, number, rng, shape) for number in range(count)]
        shard = write_shard(folder / shard_name("small", split, 0, 1), records)
        content[split] = {"records": count, "shards": [shard]}
    write_metadata(folder, {**metadata, "splits": content})
    return folder


def make_record(split: str, number: int, rng: np.random.Generator, shape: tuple[int, int]) -> Record:
    """Every fifth record has no label of `ptbxl-super`; every seventh no report."""
    labels = ("SR",) if number % 5 == 0 else tuple(code for code in ("IMI", "LVH") if rng.random() < 0.4) or ("NORM",)
    level = 300 * ("IMI" in labels) - 300 * ("NORM" in labels)
    report = "" if number % 7 == 0 else ". ".join(FINDINGS[code] for code in labels)
    return Record(
        ecg=(rng.normal(level, 400, shape)).astype(np.int16),
        lead_mask=np.ones(shape[1], bool),
        record_id=f"{split}-{number}",
        patient_id=f"{split}-{number // 2}",
        report=report,
        report_original=report,
        statements=tuple(report.split(". ")),
        labels=labels,
        likelihoods=(0.0,) * len(labels),
        age=50.0,
        sex="",
        dataset="small",
    )


def small_config(shards: Path, **text: Any) -> TrainConfig:
    """Slim towers of two blocks; the text tower is from scratch unless `text` says otherwise."""
    tower = {"vocabulary": 60, "layers": 1, "hidden": 8, "heads": 2, "max_tokens": 16, "pool": "mean"}
    tower |= {"template": "ECG: {report}"}
    return TrainConfig(
        data=DataConfig(shards=str(shards)),
        model=ModelConfig(
            ecg=ResNetConfig(blocks=(1, 1), width=4, stem="conv-pool"),
            text=TextTowerConfig(**{**tower, **text}),
            embedding_dim=8,
        ),
        seed=7,
    )


def write_run(folder: Path, config: TrainConfig, step: int = 3) -> Path:
    """A run folder with one checkpoint: initial parameters and batch statistics that are not the initial ones."""
    shards = Shards(config.data.shards)
    text = build_text(config.model.text, shards.reports("train").reports)
    model = build.build_model(config, text.bert_config, jnp.dtype(jnp.float32))
    weights = None if config.model.text.frozen else text.params
    variables = init_variables(model, jax.random.key(config.seed), shards.samples, len(shards.leads), weights)
    variables["batch_stats"] = jax.tree.map(lambda x: 0.9 * x, variables["batch_stats"])
    folder.mkdir(parents=True)
    run_folder.write_run_folder(folder, config, shards, text)
    with Checkpoints(folder, config.run.best) as checkpoints:
        checkpoints.save(step, {"step": jnp.int32(step), **variables}, {}, {"loss": 1.0, "recall": 0.1})
    return folder
