"""Construction of the model, the text tower and its inputs, shared by training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.losses.pairs import needs_tower
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import DualEncoder
from etp_jax.models.huggingface import load_params, resolve
from etp_jax.models.sentence_folder import bert_folder
from etp_jax.models.text_tower import TextTower, apply_template, frozen_outputs
from etp_jax.models.tokenizer import Tokenizer
from etp_jax.models.tokens import tokenize
from etp_jax.models.weights import find_weights, weights_sha256
from etp_jax.training.jax_private import backends_are_initialized
from etp_jax.training.run_folder import TEXT_FILE, TOKENIZER_FILE, read_about, same_tokenizer
from etp_jax.training.step import compute_dtype

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""XLA flag for deterministic operations. Unlike `--xla_gpu_exclude_nondeterministic_ops`, it also turns off the choice
of kernels by timing."""


def make_deterministic() -> None:
    """Makes XLA use only deterministic operations on GPUs, and not choose them by timing.

    Raises:
      EtpError: the devices are already initialised, so the flag would come too late.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC in flags:
        return
    if backends_are_initialized():
        raise EtpError(f"run.deterministic: jax has started its devices already; set XLA_FLAGS={DETERMINISTIC} before")
    os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


def set_precision(precision: str, platform: str) -> jnp.dtype:
    """Returns the towers' compute type; float64 also switches jax to 64 bits, so call this before making any array."""
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    return compute_dtype(precision, platform)


def build_model(config: TrainConfig, bert: BertConfig, dtype: jnp.dtype, platform: str = "cpu") -> DualEncoder:
    """Builds the model of a recipe, with a text tower of these sizes; a frozen text tower is not part of the model."""
    tower = None if config.model.text.frozen else bert
    return DualEncoder(config.model, tower, bert.hidden_size, dtype, config.loss, platform)


def text_inputs(config: TrainConfig, text: TextTower, reports: Sequence[str], cache: Path | None) -> dict[str, NDArray]:
    """Builds the model's input table for reports, one row per report.

    Args:
      config: the recipe.
      text: text tower of the recipe.
      reports: R reports; the template is applied here.
      cache: folder that keeps the tokens and a frozen tower's outputs.

    Returns:
      For a frozen tower {"embeddings"}, float32 [R, H]. For a trained one {"input_ids", "attention_mask"}, int32
      [R, S], and, if the loss needs it (`pairs.needs_tower`), "semantic", float32 [R, H], the outputs before training.

    Raises:
      EtpError: the loss needs the outputs of a tower from scratch, which are random.
    """
    frozen, semantic = config.model.text.frozen, needs_tower(config.loss)
    if semantic and text.params is None:
        raise EtpError("loss.semantic_from = tower needs one with weights; name it as model.text.pretrained")
    if frozen:
        return {"embeddings": frozen_outputs(text, config.model.text, reports, cache)}
    texts = apply_template(config.model.text.template, reports)
    inputs = tokenize(text.tokenizer, texts, config.model.text.max_tokens, cache)
    return inputs | ({"semantic": frozen_outputs(text, config.model.text, reports, cache)} if semantic else {})


def load_text(run_dir: Path, config: TrainConfig) -> TextTower:
    """Loads the text tower of a finished run: a frozen one from its source, a trained one without weights.

    Sizes and tokenizer are those in the run folder. An exported encoder has no tokenizer, so a frozen tower's comes
    from its source.

    Raises:
      EtpError: not a run folder, or the frozen tower's weights or tokenizer differ from those of the run.
    """
    about, file = read_about(run_dir / TEXT_FILE), run_dir / TOKENIZER_FILE
    bert, source = BertConfig(**about["bert"]), config.model.text.pretrained
    if not about["frozen"]:
        return TextTower(bert, None, Tokenizer.from_file(file), about["source"], about["sha256"])
    assert source is not None, "a tower from scratch is never frozen"
    try:
        folder = bert_folder(resolve(source))
        weights = find_weights(folder)
    except EtpError as error:
        raise EtpError(f"{error}; if the folder has moved, name it with --text-tower") from None
    digest = weights_sha256(weights)
    if digest != about["sha256"]:
        raise EtpError(
            f"{source}: the weights of the text tower are not those of this run (SHA-256 {digest[:12]}, "
            f"{run_dir / TEXT_FILE} says {about['sha256'][:12]}); name a folder with the same ones with --text-tower"
        )
    tokenizer = (
        Tokenizer.from_file(file) if file.exists() else Tokenizer.from_folder(folder, config.model.text.lowercase)
    )
    text = TextTower(bert, load_params(folder, bert)[0], tokenizer, source, digest)
    if not same_tokenizer(about, text):
        raise EtpError(f"{source}: the tokenizer is not that of this run ({run_dir}); get the same one")
    return text
