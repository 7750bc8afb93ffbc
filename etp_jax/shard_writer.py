"""Writing a shard folder: files appear whole or not at all, `build.json` last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax import tfrecord
from etp_jax.records import BUILD_FILE, TEXT_LISTS, TEXTS, Record, encode_record


def shard_name(name: str, split: str, number: int, count: int) -> str:
    """File name of a shard, in TFDS's pattern."""
    return f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write_shard(path: Path, records: Iterable[Record]) -> dict[str, Any]:
    """Writes one TFRecord file under a temporary name and renames it when it lies on the disk.

    Returns:
      `file`, `records`, `bytes`, `sha256`: its entry in `build.json`.
    """
    temporary = temporary_path(path)
    digest, count = hashlib.sha256(), 0
    with temporary.open("wb") as file:
        for record in records:
            frame = tfrecord.frame(encode_record(record))
            digest.update(frame)
            file.write(frame)
            count += 1
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    temporary.replace(path)
    return {"file": path.name, "records": count, "bytes": size, "sha256": digest.hexdigest()}


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = temporary_path(path)
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is renamed; hidden, so that nobody takes it for a shard."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_metadata(folder: Path, build: dict[str, Any]) -> None:
    """Writes `features.json` and `dataset_info.json` for TFDS, then `build.json`: from now on the folder is finished.

    Args:
      folder: holds all shards that `build` lists.
      build: content of `build.json`.
    """
    # Imported here: reading shards does not need it, and it takes half a second.
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=build["name"], split=None, filetype_suffix="tfrecord"
    )
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard["records"] for shard in split["shards"]],
            num_bytes=sum(shard["bytes"] for shard in split["shards"]),
            filename_template=template.replace(split=name),
        )
        for name, split in build["splits"].items()
    ]
    text, text_list = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
    features: dict[str, Any] = dict.fromkeys(TEXTS, text) | dict.fromkeys(TEXT_LISTS, text_list)
    features["likelihoods"] = tfds.features.Sequence(np.float32)
    features["age"] = np.float32
    features["lead_mask"] = tfds.features.Tensor(shape=(len(build["leads"]),), dtype=np.bool_)
    features["ecg"] = tfds.features.Tensor(
        shape=(build["samples"], len(build["leads"])), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        check_data=False,  # reading back would need TensorFlow
        description=f"ECGs with reports: {build['name']}, {build['fs']} Hz, leads {' '.join(build['leads'])}, int16, 1 µV a step.",
    )
    write_text(folder / BUILD_FILE, json.dumps(build, indent=1, ensure_ascii=False) + "\n")
