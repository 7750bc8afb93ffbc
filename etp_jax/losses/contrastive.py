"""The contrastive loss over the batch of all devices: pairs (`pairs.py`), score (`scores.py`) and recall.

Every formula is written for a block of columns of the global batch, and its results are combined over the blocks. The
dense form has one block, the blockwise forms have many (`blockwise.py`); they differ in memory and time only.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from etp_jax.config import LossConfig
from etp_jax.losses.blockwise import over_columns
from etp_jax.losses.pairs import Rows, add, alike, make_pairs, matmul, needs_semantic, needs_share, share
from etp_jax.losses.scores import SCORES, Part, combine


class Embeddings(NamedTuple):
    """Outputs of the towers for a device's rows."""

    ecg_bE: jax.Array
    """Unit embeddings of the ECGs."""
    text_bE: jax.Array
    """Unit embeddings of the reports."""
    report_b: jax.Array
    """int, number of each report; equal numbers mean equal reports."""


def contrastive_loss(
    rows: Embeddings,
    config: LossConfig,
    logit_scale: jax.Array,
    logit_bias: jax.Array | None = None,
    semantic_bD: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the loss of this device's rows against the whole batch.

    The loss of the batch is the mean over the devices (`pmean`), and its gradient is the mean of their gradients. By
    the collectives inside, each device's gradient holds what its rows contribute to the losses of all devices.

    Args:
        rows: embeddings of this device's rows.
        config: pairs, score and their constants, and the number of columns compared at a time.
        logit_scale: scalar factor of the cosines (not its logarithm).
        logit_bias: scalar added to the logits, for a score that has one; None is 0.
        semantic_bD: float [b, D], vectors whose cosines are the similarities of the reports; if `pairs.needs_tower`.
            With `semantic_centre` the caller has taken off the mean.
        axis_name: device axis, or None on a single device.

    Returns:
        Scalar loss and scalar metrics `ecg_to_text_recall_1` and `text_to_ecg_recall_1` (equal reports are hits), all
        of this device's rows. They are float32, or float64 for float64 embeddings.
    """
    score, report_b = SCORES[config.score], rows.report_b
    dtype = jnp.promote_types(rows.ecg_bE.dtype, jnp.float32)
    ecg_bE, text_bE, scale = rows.ecg_bE.astype(dtype), rows.text_bE.astype(dtype), logit_scale.astype(dtype)
    bias = jnp.zeros((), dtype) if logit_bias is None else logit_bias.astype(dtype)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(report_b)
    if needs_semantic(config) and config.semantic_from == "batch":
        semantic_bD = jax.lax.stop_gradient(text_bE)
        if config.semantic_centre:
            mean_E = semantic_bD.mean(axis=0)
            semantic_bD -= mean_E if axis_name is None else jax.lax.pmean(mean_E, axis_name)
    semantic_bD = None if semantic_bD is None else semantic_bD.astype(dtype)
    if config.block:
        # Collectives that need no embeddings must not overtake those inside the encoders. On virtual CPU devices
        # collectives block their threads, so some would wait here and others in the encoders: a deadlock. The sums make
        # them depend on the embeddings without changing them, because no component exceeds 2.
        never = ecg_bE.max() > 2
        report_b = report_b + never
        semantic_bD = None if semantic_bD is None else semantic_bD + never
    local = Rows(first + jnp.arange(len(report_b)), report_b, semantic_bD)
    columns, ring_axis = (local, ecg_bE, text_bE), axis_name if config.ring else None
    if axis_name is not None and not config.ring:
        gathered = jax.lax.all_gather((report_b, semantic_bD, ecg_bE, text_bE), axis_name, tiled=True)
        columns = (Rows(jnp.arange(len(gathered[0])), *gathered[:2]), *gathered[2:])

    all_columns = None
    if needs_share(config):
        parts = over_columns(lambda rows: share(local, rows, config), columns[0], config.block, ring_axis)
        all_columns = add(parts)

    def compare(columns: tuple[Rows, jax.Array, jax.Array]) -> tuple[tuple[Part, ...], jax.Array | None, Best, Best]:
        column_rows, ecg_CE, text_CE = columns
        pairs = make_pairs(local, column_rows, all_columns, config, dtype)
        cosine_bC = matmul(ecg_bE, text_CE.T)
        text_logits_bC = scale * cosine_bC
        ecg_logits_bC = scale * matmul(text_bE, ecg_CE.T)
        biased = (text_logits_bC + bias, ecg_logits_bC + bias) if score.bias else (text_logits_bC, ecg_logits_bC)
        fnm_b = jnp.abs(cosine_bC - alike(local, column_rows)).sum(axis=1) if config.fnm_weight > 0 else None
        reports = column_rows.report_b
        return score.part(*biased, pairs), fnm_b, best(text_logits_bC, reports), best(ecg_logits_bC, reports)

    parts, fnm_kb, texts, ecgs = over_columns(compare, columns, config.block, ring_axis)
    loss = combine(parts)
    if fnm_kb is not None:
        loss += config.fnm_weight * fnm(fnm_kb, config, axis_name)
    metrics = {"ecg_to_text_recall_1": recall_1(texts, report_b), "text_to_ecg_recall_1": recall_1(ecgs, report_b)}
    return loss, metrics


def fnm(distance_kb: jax.Array, config: LossConfig, axis_name: str | None) -> jax.Array:
    """Computes L_fnm of FG-CLEP (arXiv 2505.11939 v1), from the sums over the columns of k blocks, [k, b].

    L_fnm is (1/B) sum_ij |cos(ecg_i, text_j) - S_ij|, or, with `loss.fnm_mean` "pairs", the mean over all pairs.
    """
    summed = distance_kb.sum(axis=0).mean()
    if config.fnm_mean == "batch":
        return summed
    return summed / (distance_kb.shape[1] * (1 if axis_name is None else jax.lax.axis_size(axis_name)))


class Best(NamedTuple):
    """Best column of each row."""

    score_b: jax.Array
    report_b: jax.Array
    """Number of the report of the best column."""


def best(logits_bC: jax.Array, report_C: jax.Array) -> Best:
    """Finds the first of the columns with the greatest logit."""
    logits_bC = jax.lax.stop_gradient(logits_bC)
    return Best(logits_bC.max(axis=1), report_C[jnp.argmax(logits_bC, axis=1)])


def recall_1(parts: Best, report_b: jax.Array) -> jax.Array:
    """Computes the share of rows whose best column has an equal report, from the best columns of k blocks, [k, b]."""
    chosen_1b = jnp.argmax(parts.score_b, axis=0, keepdims=True)
    hit_1b = jnp.take_along_axis(parts.report_b, chosen_1b, axis=0) == report_b
    return hit_1b.mean(dtype=parts.score_b.dtype)
