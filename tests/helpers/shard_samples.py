"""Small shard folders for the tests of reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etp_jax.ecg.leads import LEADS
from etp_jax.shards.record import FORMAT, Record
from etp_jax.shards.writer import shard_name, write_metadata, write_shard

SAMPLES = 50
VOCABULARY = ("AFIB", "NORM", "SR")


def make_record(number: int, split: str = "train", **fields: object) -> Record:
    """A record that differs from all others in every field."""
    rng = np.random.default_rng(number)
    ecg = rng.integers(-32768, 32768, (SAMPLES, len(LEADS)), np.int16)
    mask = np.arange(len(LEADS)) != number % 20
    ecg[:, ~mask] = 0
    labels = VOCABULARY[: number % 4]
    values = {
        "ecg": ecg,
        "lead_mask": mask,
        "record_id": f"{split}-{number}",
        "patient_id": f"{split}-patient-{number // 2}",
        "report": ("", "sinus rhythm", "vorhofflimmern – ÄÖÜ ♥")[number % 3],
        "report_original": f"original {number}",
        "statements": ("sinus rhythm", "")[: number % 3],
        "labels": labels,
        "likelihoods": (100.0, 0.0, -1.0)[: len(labels)],
        "age": float("nan") if number % 5 == 0 else 20.5 + number,
        "sex": ("male", "female", "")[number % 3],
        "dataset": "sample",
        "features": ("QRS > 120 ms",) * (number % 2),
        "feature_evidence": ("measured",) * (number % 2),
    }
    return Record(**{**values, **fields})  # pyright: ignore[reportArgumentType]


def write_folder(folder: Path, splits: dict[str, list[list[Record]]], **build: object) -> Path:
    """A finished shard folder with one shard for each inner list."""
    folder.mkdir()
    content = {}
    for split, groups in splits.items():
        shards = [
            write_shard(folder / shard_name("sample", split, number, len(groups)), group)
            for number, group in enumerate(groups)
        ]
        content[split] = {"records": sum(map(len, groups)), "shards": shards}
    fields = {"format": FORMAT, "name": "sample", "fs": 100, "leads": list(LEADS), "samples": SAMPLES}
    write_metadata(folder, {**fields, "label_vocabulary": list(VOCABULARY), "splits": content, **build})
    return folder


def sample_splits() -> dict[str, list[list[Record]]]:
    """Two splits; one shard of the first is empty."""
    train = [make_record(number) for number in range(10)]
    return {"train": [train[:4], [], train[4:]], "test": [[make_record(number, "test") for number in range(3)]]}
