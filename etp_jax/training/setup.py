"""What training and evaluation build alike: the text tower, the model, and what the model reads of reports."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.xla_bridge import backends_are_initialized  # has no public door
from numpy.typing import NDArray

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.files import write_text
from etp_jax.losses.pairs import needs_tower
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import DualEncoder
from etp_jax.records import INDEX_FOLDER, Shards
from etp_jax.text import TextTower, Tokenizer, apply_template, build_text, frozen_outputs, tokenize
from etp_jax.training import checkpoint, resume
from etp_jax.training.step import compute_dtype

CONFIG_FILE = "config.json"
TEXT_FILE = "text.json"
TOKENIZER_FILE = "tokenizer.json"
SHARDS_FILE = "shards.json"
FREE_IN_STAGES = ("projection_dropout", "ecg.drop_path")
"""Of `model`, besides the options of the text tower: what a run that starts from another may choose anew."""
SIZES = ("width", "kernel", "patch", "vit_width", "vit_layers", "vit_heads")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""Also rules out choosing kernels by timing, which `--xla_gpu_exclude_nondeterministic_ops` does not."""


def make_deterministic() -> None:
    """Has XLA choose only operations on GPUs that always give the same bits, and not by timing them.

    Raises:
      EtpError: the devices have been started, so that it is too late.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC in flags:
        return
    if backends_are_initialized():
        raise EtpError(f"run.deterministic: jax has started its devices already; set XLA_FLAGS={DETERMINISTIC} before")
    os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


def set_precision(precision: str) -> jnp.dtype:
    """The towers' compute type; float64 also switches jax to 64 bits, so this comes before any array is made."""
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    return compute_dtype(precision)


def build_model(config: TrainConfig, bert: BertConfig, dtype: jnp.dtype) -> DualEncoder:
    """The model of a recipe with a text tower of these sizes; a frozen one stays outside.

    Raises:
      EtpError: a size below 1, or a rate that is no probability below 1.
    """
    options = resume.flatten(dataclasses.asdict(config.model))
    for name in ("embedding_dim", *(f"ecg.{name}" for name in SIZES)):
        if options[name] < 1:
            raise EtpError(f"model.{name} is {options[name]}; it must be at least 1")
    for name in ("projection_dropout", "ecg.drop_path", "text.dropout"):
        if not 0 <= options[name] < 1:
            raise EtpError(f"model.{name} is {options[name]}; it must be at least 0 and below 1")
    return DualEncoder(config.model, None if config.model.text.frozen else bert, bert.hidden_size, dtype, config.loss)


def start_from(variables: dict[str, Any], config: TrainConfig, text: TextTower, shards: Shards) -> dict[str, Any]:
    """Parameters and batch statistics of the best checkpoint of `config.start_from`, in place of the initial ones.

    Raises:
      EtpError: no such run, another text tower, model, sampling rate or leads than this run's, or a text tower from
        scratch, whose vocabulary comes from the reports it was trained with.
    """
    run_dir = Path(config.start_from)
    theirs = config_module.load(run_dir / CONFIG_FILE)
    about = read_about(run_dir / TEXT_FILE)
    if text.params is None or about["sha256"] != text.sha256 or not _same_tokenizer(about, text):
        raise EtpError(f"start_from: {run_dir} has another text tower, or one from scratch; name a run of the same one")
    # Parameters of equal shapes mean something else in these.
    there, here = (resume.flatten(dataclasses.asdict(each.model)) for each in (theirs, config))
    named = {name for name in here if not name.startswith("text.")} - set(FREE_IN_STAGES) | {"text.pool", "text.unit"}
    there, here = ({f"model.{name}": each[name] for name in sorted(named)} for each in (there, here))
    there |= {name: read_about(run_dir / SHARDS_FILE)[name] for name in ("fs", "leads")}
    here |= {"fs": shards.fs, "leads": list(shards.leads)}
    for name, value in here.items():
        if there[name] != value:
            raise EtpError(
                f"start_from: {name} is {value}, {run_dir} was trained with {there[name]}; start_from needs the same "
                "model and signals"
            )
    params, batch_stats, step = checkpoint.restore_params(run_dir, "best", theirs.run.best)
    found = {"params": params, "batch_stats": batch_stats}
    expected = checkpoint.shapes(variables)
    checkpoint.check_shapes(
        run_dir, checkpoint.shapes(found), expected, f"start_from needs the same model (step {step})"
    )
    return jax.tree.map(lambda initial, x: jnp.asarray(x, initial.dtype), variables, found)


def text_inputs(config: TrainConfig, text: TextTower, reports: Sequence[str], cache: Path | None) -> dict[str, NDArray]:
    """What the model reads of reports, a row each.

    Args:
      config: the recipe.
      text: its text tower.
      reports: R reports; the template is put around them here.
      cache: folder that keeps a frozen tower's outputs.

    Returns:
      {"embeddings"}, float32 [R, H], of a frozen tower; of a trained one {"input_ids", "attention_mask"}, int32 [R, S].
      The latter with "semantic", float32 [R, H], the tower's outputs before training, if the loss needs it
      (`pairs.needs_tower`).

    Raises:
      EtpError: the loss needs the outputs of a tower from scratch, which mean nothing.
    """
    frozen, semantic = config.model.text.frozen, needs_tower(config.loss)
    if semantic and text.params is None:
        raise EtpError("loss.semantic_from = tower needs one with weights; name it as model.text.pretrained")
    if frozen:
        return {"embeddings": frozen_outputs(text, config.model.text, reports, cache)}
    texts = apply_template(config.model.text.template, reports)
    inputs = tokenize(text.tokenizer, texts, config.model.text.max_tokens)
    return inputs | ({"semantic": frozen_outputs(text, config.model.text, reports, cache)} if semantic else {})


def text_cache(shards: Shards, run_dir: Path) -> Path:
    """Where a frozen tower's outputs are kept: beside the shards, for all runs, or else in the run folder."""
    writable = os.access(shards.folder, os.W_OK)
    return shards.folder / INDEX_FOLDER if writable else run_dir / ".cache"


def write_run_folder(run_dir: Path, config: TrainConfig, shards: Shards, text: TextTower) -> None:
    """Writes what a checkpoint needs beside it: recipe, tokenizer, text tower, shape of the data."""
    config_module.save(config, run_dir / CONFIG_FILE)
    text.tokenizer.save(run_dir / TOKENIZER_FILE)
    about_text = {
        "source": text.source,
        "sha256": text.sha256,
        "tokenizer_sha256": text.tokenizer.sha256,
        "frozen": config.model.text.frozen,
        "dim": text.bert_config.hidden_size,
        "bert": dataclasses.asdict(text.bert_config),
    }
    about_shards = {
        "fingerprint": shards.fingerprint,
        "fs": shards.fs,
        "leads": shards.leads,
        "samples": shards.samples,
        "filters": shards.build.get("preparation", {}).get("filters", {}),
        "name": shards.name,
        "earlier": _earlier(run_dir, config),
    }
    write_text(run_dir / TEXT_FILE, json.dumps(about_text, indent=1) + "\n")
    write_text(run_dir / SHARDS_FILE, json.dumps(about_shards, indent=1) + "\n")


def _earlier(run_dir: Path, config: TrainConfig) -> list[dict[str, str]]:
    """Name and fingerprint of the shards of the runs that this one started from, the first one first."""
    if not config.start_from:
        return []
    base, own = Path(config.start_from) / SHARDS_FILE, run_dir / SHARDS_FILE
    if own.exists() and not base.exists():  # goes on, and the run before is gone
        return read_about(own).get("earlier", [])
    before = read_about(base)
    return [*before.get("earlier", []), {key: before[key] for key in ("name", "fingerprint")}]


def load_text(run_dir: Path, config: TrainConfig) -> TextTower:
    """The text tower of a finished run: a frozen one from its source, a trained one without weights.

    Raises:
      EtpError: not a run folder, or the frozen tower's weights or tokenizer are not those that the run had.
    """
    about = read_about(run_dir / TEXT_FILE)
    if not about["frozen"]:
        tokenizer = Tokenizer.load(run_dir / TOKENIZER_FILE)
        return TextTower(BertConfig(**about["bert"]), None, tokenizer, about["source"], about["sha256"])
    text = build_text(config.model.text, ())
    if text.sha256 != about["sha256"]:
        raise EtpError(
            f"{about['source']}: the weights of the text tower are not those of this run (SHA-256 {text.sha256[:12]}, "
            f"{run_dir / TEXT_FILE} says {about['sha256'][:12]}); get the same ones"
        )
    if not _same_tokenizer(about, text):
        raise EtpError(f"{about['source']}: the tokenizer is not that of this run ({run_dir}); get the same one")
    return text


def _same_tokenizer(about: dict[str, Any], text: TextTower) -> bool:
    """Whether a run's `text.json` names this one; true of earlier runs, which name none."""
    return about.get("tokenizer_sha256", text.tokenizer.sha256) == text.tokenizer.sha256


def read_about(path: Path) -> dict[str, Any]:
    """What `write_run_folder` wrote beside the checkpoints; raises EtpError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise EtpError(f"{path}: cannot be read ({error}); name a run folder made by `etp train`") from None
