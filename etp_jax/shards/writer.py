"""Writing of shard folders: every file is written atomically, `build.json` last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.files import sha256, whole_file, write_text
from etp_jax.shards import tfrecord
from etp_jax.shards.record import BUILD_FILE, RESTORED_FORMAT, TEXT_LISTS, Record, encode_record, text_fields

DIGESTS = "digests"
"""Field of `build.json` with the SHA-256 of the other files, and of its own other fields."""
REJECTS = "rejects.csv"
METADATA = ("features.json", "dataset_info.json", REJECTS)


def shard_name(name: str, split: str, number: int, count: int) -> str:
    """Returns the file name of a shard, in TFDS's pattern."""
    return f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write_shard(path: Path, records: Iterable[Record]) -> dict[str, Any]:
    """Writes one TFRecord file completely or not at all.

    Returns:
      The shard's entry in `build.json`: `file`, `records`, `bytes`, `sha256`.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    with whole_file(path) as file:
        for record in records:
            frame = tfrecord.frame(encode_record(record))
            digest.update(frame)
            file.write(frame)
            count += 1
            size += len(frame)
    return {"file": path.name, "records": count, "bytes": size, "sha256": digest.hexdigest()}


def write_metadata(folder: Path, build: dict[str, Any]) -> dict[str, Any]:
    """Writes `features.json` and `dataset_info.json` for TFDS, then `build.json`, which marks the folder as finished.

    Args:
      folder: the shard folder, which holds all shards that `build` lists.
      build: content of `build.json`; digests in it, as of the shards that these were made from, are replaced.

    Returns:
      The content with the digests of the metadata.
    """
    # Imported here because reading shards does not need TFDS, and importing it takes half a second.
    import tensorflow_datasets as tfds
    from etils import epath

    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder), dataset_name=build["name"], filetype_suffix="tfrecord"
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
    texts = text_fields(build["format"] == RESTORED_FORMAT)
    features: dict[str, Any] = {**dict.fromkeys(texts, text), **dict.fromkeys(TEXT_LISTS, text_list)}
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
        check_data=False,  # reading the data back would require TensorFlow
        description=f"ECGs with reports, {build['fs']} Hz, leads {' '.join(build['leads'])}, int16, 1 µV a step.",
    )
    build = {**build, DIGESTS: metadata_digests(folder, build)}
    write_text(folder / BUILD_FILE, json.dumps(build, indent=1, ensure_ascii=False) + "\n")
    return build


def metadata_digests(folder: Path, build: dict[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of every file of a shard folder but the shards, and of `build.json` without these digests."""
    there = [name for name in (BUILD_FILE, *METADATA) if (folder / name).exists() or name == BUILD_FILE]
    return {name: _digest(folder, build, name) for name in there}


def check_digest(folder: Path, build: dict[str, Any], name: str) -> None:
    """Raises EtpError if a file of a shard folder was changed after it was written; earlier versions wrote no digests.

    Args:
      folder: the shard folder.
      build: content of its `build.json`.
      name: `build.json`, or one of `METADATA`; a missing file is not compared.
    """
    written = build.get(DIGESTS, {}).get(name)
    if written and (folder / name).exists() and _digest(folder, build, name) != written:
        raise EtpError(
            f"{folder / name}: was changed since the folder was written; copy or prepare the shards again, "
            f"or delete {DIGESTS!r} in {BUILD_FILE} if you changed it on purpose"
        )


def _digest(folder: Path, build: dict[str, Any], name: str) -> str:
    if name != BUILD_FILE:
        return sha256(folder / name)
    own = json.dumps({name: value for name, value in build.items() if name != DIGESTS}, sort_keys=True)
    return hashlib.sha256(own.encode()).hexdigest()
