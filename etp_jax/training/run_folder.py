"""The run folder: the files that are needed, besides a checkpoint, to load a run."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.files import read_json, write_text
from etp_jax.models.text_tower import TextTower
from etp_jax.shards.index import INDEX_FOLDER
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import BUILD_FILE
from etp_jax.training import checkpoint, digest, log

CONFIG_FILE = "config.json"
TEXT_FILE = "text.json"
TOKENIZER_FILE = "tokenizer.json"
SHARDS_FILE = "shards.json"
RUN_FILES = (CONFIG_FILE, TEXT_FILE, TOKENIZER_FILE, SHARDS_FILE)
"""Files that decide, with a checkpoint, what a run computes; their digest is in the run folder."""


def text_cache(shards: Shards, run_dir: Path) -> Path:
    """Returns the folder for what is computed from reports: beside the shards, shared by all runs, or in the run."""
    writable = os.access(shards.folder, os.W_OK)
    return shards.folder / INDEX_FOLDER if writable else run_dir / ".cache"


def check_free(run_dir: Path) -> None:
    """Raises EtpError if a folder is not that of a run but of shards, or of a text tower, which would be replaced."""
    if any((run_dir / name).exists() for name in (checkpoint.FOLDER, log.FILE)):
        return
    for name in (*RUN_FILES, BUILD_FILE):
        if (run_dir / name).exists():
            raise EtpError(f"{run_dir}: holds {name}, but is not the folder of a run; name another --workdir")


def write_run_folder(run_dir: Path, config: TrainConfig, shards: Shards, text: TextTower) -> None:
    """Writes the files needed to load a checkpoint: recipe, tokenizer, text tower, shards; then their digest."""
    digest.forget(run_dir)
    config_module.save(config, run_dir / CONFIG_FILE)
    write_text_tower(run_dir, config, text)
    about_shards = {
        "fingerprint": shards.fingerprint,
        "fs": shards.fs,
        "leads": shards.leads,
        "samples": shards.samples,
        "filters": shards.filters,
        "name": shards.name,
        "earlier": _earlier(run_dir, config),
    }
    write_text(run_dir / SHARDS_FILE, json.dumps(about_shards, indent=1) + "\n")
    digest.write_digest(run_dir, RUN_FILES)


def check_files(run_dir: Path, part: str = "") -> None:
    """Raises EtpError that names the first file that differs from the folder's digest, if it has one.

    Args:
      run_dir: folder of a run or of an exported encoder; runs and exported encoders of earlier versions have no digest.
      part: beginning of the names of the files to compare.
    """
    if digest.has_digest(run_dir) and (damage := digest.damage(run_dir, part)):
        raise EtpError(
            f"{run_dir}: {damage} since the folder was written; restore the file, or delete {digest.FILE} if you "
            "changed it on purpose"
        )


def load_config(run_dir: Path) -> TrainConfig:
    """Reads the options of a run, after comparing the files of its folder with their digest.

    Raises:
      EtpError: this is no run folder, or one of its files was changed.
    """
    check_files(run_dir)
    return config_module.load(run_dir / CONFIG_FILE)


def write_text_tower(run_dir: Path, config: TrainConfig, text: TextTower) -> None:
    """Writes the tokenizer and the description of the text tower."""
    text.tokenizer.save(run_dir / TOKENIZER_FILE)
    about_text = {
        "source": text.source,
        "sha256": text.sha256,
        "tokenizer_sha256": text.tokenizer.sha256,
        "frozen": config.model.text.frozen,
        "dim": text.bert_config.hidden_size,
        "bert": dataclasses.asdict(text.bert_config),
    }
    write_text(run_dir / TEXT_FILE, json.dumps(about_text, indent=1) + "\n")


def _earlier(run_dir: Path, config: TrainConfig) -> list[dict[str, str]]:
    """Lists name and fingerprint of the shards of all runs that this one started from, the earliest first."""
    if not config.start_from:
        return []
    base, own = Path(config.start_from) / SHARDS_FILE, run_dir / SHARDS_FILE
    if own.exists() and not base.exists():  # this run is resumed, and the run it started from has been deleted
        check_files(run_dir, SHARDS_FILE)
        return read_about(own).get("earlier", [])
    check_files(base.parent, SHARDS_FILE)
    before = read_about(base)
    return [*before.get("earlier", []), {key: before[key] for key in ("name", "fingerprint")}]


def read_about(path: Path) -> dict[str, Any]:
    """Reads a JSON file of `write_run_folder`; raises EtpError if it cannot be read."""
    return read_json(path, "name a run folder made by `etp train`")


def same_tokenizer(about: dict[str, Any], text: TextTower) -> bool:
    """Whether a run's `text.json` names the tokenizer of `text`; True for runs of earlier versions, which name none."""
    return about.get("tokenizer_sha256", text.tokenizer.sha256) == text.tokenizer.sha256
