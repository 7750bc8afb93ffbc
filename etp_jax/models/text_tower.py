"""The text side of the reports: token tables, and the frozen tower's output for every distinct report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from etp_jax.config import TextTowerConfig
from etp_jax.errors import EtpError
from etp_jax.metrics.vectors import unit
from etp_jax.models.bert import Bert, BertConfig, pool_tokens
from etp_jax.models.huggingface import load_params, read_config, resolve
from etp_jax.models.sentence_folder import bert_folder, differences
from etp_jax.models.tokenizer import Tokenizer
from etp_jax.models.tokens import describe, round_up, tokenize, tokens_of, tokens_source
from etp_jax.progress import Bar
from etp_jax.shards import sealed

STATEMENT_END = ". "
"""Separator of the statements in a prepared report."""

EXCHANGED = 16 * 2**20
"""Bytes of each process that are exchanged at a time; a device holds them of all processes."""


@dataclass(frozen=True)
class TextTower:
    """A text tower before training.

    Attributes:
        bert_config: sizes.
        params: pretrained weights (float32 numpy tree), or None for random initial weights.
        tokenizer: tokenizer of the tower.
        source: source of the weights; "" from scratch.
        sha256: SHA-256 of the weights; "" from scratch.
        doubts: what looks wrong with the folder or is not applied, one line each.
    """

    bert_config: BertConfig
    params: dict[str, Any] | None
    tokenizer: Tokenizer
    source: str
    sha256: str
    doubts: tuple[str, ...] = ()


def build_text(config: TextTowerConfig, reports: Sequence[str]) -> TextTower:
    """Loads the text tower that a recipe names, or sets up one from scratch with a vocabulary trained on the reports.

    Raises:
        EtpError: the tower cannot be loaded, its files do not match each other, or a tower from scratch is frozen.
    """
    if config.unit == "statements" and not config.frozen:
        raise EtpError("model.text.unit = statements is for a frozen tower; a trained one reads whole reports")
    for name, least in {"max_tokens": 3, "vocabulary": 1, "layers": 1, "hidden": 1, "heads": 1}.items():
        if getattr(config, name) < least:
            raise EtpError(f"model.text.{name} is {getattr(config, name)}; it must be at least {least}")
    if config.pretrained is None:
        if config.lowercase != "auto":
            raise EtpError("model.text.lowercase is for a pretrained tower; a vocabulary from scratch is lower-case")
        if config.frozen:
            raise EtpError("model.text: a tower from scratch (pretrained = None) cannot be frozen; name its weights")
        if config.hidden % config.heads:
            raise EtpError(f"model.text: hidden {config.hidden} is not divisible by {config.heads} heads")
        tokenizer = Tokenizer.train_wordpiece(apply_template(config.template, reports), config.vocabulary)
        bert_config = BertConfig(
            vocab_size=tokenizer.size,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.hidden,
            max_position_embeddings=config.max_tokens,
            dropout=config.dropout,
        )
        return TextTower(bert_config, None, tokenizer, "", "")
    root = resolve(config.pretrained)
    folder = bert_folder(root)
    bert_config = read_config(folder)  # first: another kind of model is not a fault of its tokenizer
    tokenizer = Tokenizer.from_folder(folder, config.lowercase)
    params, digest = load_params(folder, bert_config)
    if tokenizer.size > bert_config.vocab_size:
        raise EtpError(f"{folder}: the tokenizer has {tokenizer.size} pieces, the weights {bert_config.vocab_size}")
    if config.max_tokens > bert_config.max_position_embeddings:
        raise EtpError(
            f"model.text.max_tokens is {config.max_tokens}; {config.pretrained} reads at most "
            f"{bert_config.max_position_embeddings}"
        )
    doubts = (*tokenizer.doubts(), *filter(None, [differences(root, config.pool)]))
    bert_config = replace(bert_config, dropout=config.dropout)
    return TextTower(bert_config, params, tokenizer, config.pretrained, digest, doubts)


def describe_texts(tower: TextTower, config: TextTowerConfig, reports: Sequence[str], cache: Path | None = None) -> str:
    """Describes how the tower's tokenizer treats the distinct reports, or their statements (`config.unit`).

    Args:
        tower: text tower.
        config: template, unit and maximum length.
        reports: reports; an empty one does not count.
        cache: as in `frozen_table`.
    """
    texts = reports if config.unit == "report" else distinct_statements(reports)
    tokens = tokens_of(tower.tokenizer, apply_template(config.template, texts), config.max_tokens, cache)
    return describe(tower.tokenizer, tokens.where(np.array([bool(text) for text in texts], bool)), config.max_tokens)


def distinct_statements(reports: Sequence[str]) -> list[str]:
    """Lists the statements of all reports, sorted, each once."""
    return sorted({statement for report in reports for statement in report.split(STATEMENT_END)})


def apply_template(template: str, reports: Sequence[str]) -> list[str]:
    """Puts each report in place of the template's `{report}`; raises EtpError unless that is its only placeholder."""
    try:
        complete = template.format(report="a") != template.format(report="b")
    except (LookupError, ValueError):
        complete = False
    if not complete:
        raise EtpError(f"model.text.template is {template!r}; it needs {{report}}, and no other braces")
    return [template.format(report=report) for report in reports]


@partial(jax.jit, static_argnames=("config", "pool"))
def encode_tokens(
    params: Any, input_ids_BS: jax.Array, attention_mask_BS: jax.Array, config: BertConfig, pool: str
) -> jax.Array:
    """Computes the pooled outputs [B, H] of a text tower in evaluation mode."""
    hidden_BSH: Any = Bert(config).apply({"params": params}, input_ids_BS, attention_mask_BS)
    return pool_tokens(hidden_BSH, attention_mask_BS, pool)


def encode_table(
    bert_config: BertConfig, params: dict[str, Any], tokens: dict[str, np.ndarray], pool: str, batch: int = 64
) -> np.ndarray:
    """Runs a frozen tower over a token table; the processes of a run share the work and exchange the results.

    A row has the same bits for any number of processes, because the batches are the same.

    Args:
        bert_config: sizes.
        params: weights.
        tokens: token table from `tokenize`, [R, S].
        pool: `cls` or `mean`.
        batch: rows per call; rows of similar length are batched together and padded to one of a few lengths.

    Returns:
        float32 [R, H].
    """
    lengths = tokens["attention_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    params, processes = jax.device_put(params), jax.process_count()
    share = -(-len(order) // (batch * processes))
    own_kBH = np.zeros((share, batch, bert_config.hidden_size), np.float32)
    starts = range(batch * jax.process_index(), len(order), batch * processes)
    silent = len(order) <= batch or jax.process_index() > 0
    for k, start in enumerate(Bar(starts, desc="encoding reports", unit="batch", disable=silent)):
        rows = order[start : start + batch]
        width = min(round_up(lengths[rows].max()), tokens["input_ids"].shape[1])
        padded = np.resize(rows, batch)  # the last batch repeats its rows, so that all batches have one size
        ids, mask = tokens["input_ids"][padded, :width], tokens["attention_mask"][padded, :width]
        with jax.default_matmul_precision("highest"):  # otherwise the table would depend on the device
            pooled = encode_tokens(params, ids, mask, bert_config, pool)
        own_kBH[k] = np.asarray(pooled)
    table = np.zeros((len(order), bert_config.hidden_size), np.float32)
    table[order] = _in_turn(own_kBH, processes).reshape(-1, bert_config.hidden_size)[: len(order)]
    return table


def _in_turn(own_kBH: np.ndarray, processes: int) -> np.ndarray:
    """Puts the batches of all processes in order: one of each process in turn. All processes get the result."""
    if processes == 1:
        return own_kBH
    size = max(1, EXCHANGED // own_kBH[:1].nbytes)
    pieces = [own_kBH[start : start + size] for start in range(0, len(own_kBH), size)]
    gathered = [np.asarray(multihost_utils.process_allgather(piece)) for piece in pieces]
    return np.concatenate([x.swapaxes(0, 1).reshape(-1, *own_kBH.shape[1:]) for x in gathered])


def frozen_outputs(
    tower: TextTower, config: TextTowerConfig, reports: Sequence[str], cache: Path | None = None
) -> np.ndarray:
    """Computes the outputs of a frozen tower for reports, as a whole or statement by statement (`config.unit`).

    Args:
        tower: text tower with weights.
        config: template, unit, pooling and maximum length.
        reports: R reports, their statements joined by ". ".
        cache: as in `frozen_table`.

    Returns:
        float32 [R, H].
    """
    if config.unit == "report":
        return frozen_table(tower, config, apply_template(config.template, reports), cache)
    statements, distinct = [report.split(STATEMENT_END) for report in reports], distinct_statements(reports)
    number = {statement: i for i, statement in enumerate(distinct)}
    table_SH = unit(frozen_table(tower, config, apply_template(config.template, distinct), cache))
    return np.stack([table_SH[[number[statement] for statement in parts]].mean(axis=0) for parts in statements])


def frozen_table(
    tower: TextTower, config: TextTowerConfig, texts: Sequence[str], cache: Path | None = None
) -> np.ndarray:
    """Computes the outputs of a frozen tower for texts, or reads them from a cache on disk.

    Args:
        tower: text tower with weights.
        config: pooling and maximum length.
        texts: input texts, with the template already applied.
        cache: folder for the results, each named by the hash of everything it depends on; None: no cache.

    Returns:
        float32 [R, H].
    """
    import pyarrow as pa

    assert tower.params is not None, "a tower from scratch is never frozen"
    tokens_from = tokens_source(tower.tokenizer, texts, config.max_tokens)
    source = hashlib.sha256(json.dumps([tower.sha256, config.pool, tokens_from]).encode()).hexdigest()
    file = cache / f"text-{source[:16]}.arrow" if cache else None
    # Other processes share the folder. A file that is damaged is computed again; a failed write is ignored.
    row = pa.list_(pa.float32(), tower.bert_config.hidden_size)
    kept = sealed.load(file, source, pa.schema({"embedding": row})) if file else None
    # All processes compute it together if one of them lacks it.
    if np.all(multihost_utils.process_allgather(np.array(kept is not None and len(kept) == len(texts)))):
        assert kept is not None
        return kept.column(0).combine_chunks().flatten().to_numpy().reshape(len(texts), -1)
    tokens = tokenize(tower.tokenizer, texts, config.max_tokens, cache)
    table = encode_table(tower.bert_config, tower.params, tokens, config.pool)
    stored = pa.table([pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), type=row)], ["embedding"])
    if file and jax.process_index() == 0:
        sealed.save(stored, file, source)
    multihost_utils.sync_global_devices("frozen table")
    if file and not file.exists():  # this process has a disk of its own
        sealed.save(stored, file, source)
    return table
