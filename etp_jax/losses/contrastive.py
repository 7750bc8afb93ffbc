"""How scores become a loss: softmax (InfoNCE) or sigmoid (SigLIP) over the batch of all devices.

Every formula is written for some columns of the global batch and joined over blocks of them, of which the dense form
has one and the blockwise form many (`blockwise.py`); memory is the only difference.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etp_jax.config import LossConfig
from etp_jax.losses.blockwise import over_columns
from etp_jax.losses.pairs import Pairs, Rows, add, alike, make_pairs, matmul, needs_semantic, needs_share, share


def contrastive_loss(
    ecg_bE: jax.Array,
    text_bE: jax.Array,
    report_b: jax.Array,
    semantic_bD: jax.Array | None,
    logit_scale: jax.Array,
    logit_bias: jax.Array | None,
    config: LossConfig,
    axis_name: str | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of this device's rows against the whole batch.

    The batch's loss is the mean over the devices (`pmean`) and its gradient the mean of the devices' gradients, each of
    which holds, through the collectives inside, what its rows contribute to the losses of all.

    Args:
        ecg_bE: unit embeddings [b, E] of this device's ECGs.
        text_bE: unit embeddings [b, E] of their reports.
        report_b: int [b], number of each report; equal numbers are equal reports.
        semantic_bD: float [b, D], vectors whose cosines say how alike the reports are; only if `pairs.needs_tower`.
        logit_scale: scalar that multiplies the cosines (not its logarithm).
        logit_bias: scalar added to the scores; sigmoid only, None is 0.
        config: pairs, score and their constants, and how many columns are compared at a time.
        axis_name: device axis, or None on a single device.

    Returns:
        Scalar loss and scalar metrics `ecg_to_text_recall_1` and `text_to_ecg_recall_1` (equal reports are hits), in
        float32 or, from float64 embeddings, float64; of this device's rows.
    """
    dtype = jnp.promote_types(ecg_bE.dtype, jnp.float32)
    ecg_bE, text_bE, scale = ecg_bE.astype(dtype), text_bE.astype(dtype), logit_scale.astype(dtype)
    bias = jnp.zeros((), dtype) if logit_bias is None else logit_bias.astype(dtype)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(report_b)
    if needs_semantic(config) and config.semantic_from == "batch":
        semantic_bD = jax.lax.stop_gradient(text_bE)
    semantic_bD = None if semantic_bD is None else semantic_bD.astype(dtype)
    if config.block:
        # A ring that needs no embeddings may not overtake the collectives inside the encoders: on virtual CPU devices,
        # where collectives block their threads, some would wait in the one and some in the other. No cosine exceeds 2.
        report_b = report_b + (ecg_bE.max() > 2)
    rows = Rows(first + jnp.arange(len(report_b)), report_b, semantic_bD)

    all_columns = None
    if needs_share(config):
        parts = over_columns(lambda columns: share(rows, columns, config), rows, config.block, axis_name)
        all_columns = add(parts)

    def compare(columns: tuple[Rows, jax.Array, jax.Array]) -> tuple[Any, jax.Array | None, Best, Best]:
        column_rows, ecg_CE, text_CE = columns
        pairs = make_pairs(rows, column_rows, all_columns, config, dtype)
        cosine_bC = matmul(ecg_bE, text_CE.T)
        text_logits_bC = scale * cosine_bC
        ecg_logits_bC = scale * matmul(text_bE, ecg_CE.T)
        if config.score == "softmax":
            part: Any = softmax_part(text_logits_bC, pairs), softmax_part(ecg_logits_bC, pairs)
        else:
            part = sigmoid_part(text_logits_bC + bias, pairs)
        fnm_b = jnp.abs(cosine_bC - alike(rows, column_rows)).sum(axis=1) if config.fnm_weight > 0 else None
        return part, fnm_b, best(text_logits_bC, column_rows.report_b), best(ecg_logits_bC, column_rows.report_b)

    parts, fnm_kb, texts, ecgs = over_columns(compare, (rows, ecg_bE, text_bE), config.block, axis_name)
    if config.score == "softmax":
        loss = (softmax_loss(*parts[0]) + softmax_loss(*parts[1])) / 2
    else:
        loss = parts.sum(axis=0).mean()
    if fnm_kb is not None:
        loss += config.fnm_weight * fnm(fnm_kb, config, axis_name)
    metrics = {"ecg_to_text_recall_1": recall_1(texts, report_b), "text_to_ecg_recall_1": recall_1(ecgs, report_b)}
    return loss, metrics


def softmax_part(logits_bC: jax.Array, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    """Logarithm [b] of the sum of exp(logit) over the columns that count, and sum [b] of target x logit."""
    # Not -inf: a block in which no column counts would have the gradient 0 / 0.
    counted_bC = jnp.where(pairs.counts_bC, logits_bC, jnp.finfo(logits_bC.dtype).min)
    return jax.nn.logsumexp(counted_bC, axis=1), jnp.sum(pairs.target_bC * logits_bC, axis=1)


def softmax_loss(log_sum_kb: jax.Array, scored_kb: jax.Array) -> jax.Array:
    """Cross-entropy of the targets, mean over the rows: InfoNCE (arXiv 1807.03748), as METS, section 3.3, writes it.

    It takes `softmax_part` of k blocks. A row's targets sum to 1.
    """
    return jnp.mean(jax.nn.logsumexp(log_sum_kb, axis=0) - scored_kb.sum(axis=0))


def sigmoid_part(logits_bC: jax.Array, pairs: Pairs) -> jax.Array:
    """Cross-entropy [b] of every pair, summed over columns: SigLIP (arXiv 2303.15343, section 3.2), before the mean."""
    positive_bC, negative_bC = jax.nn.softplus(-logits_bC), jax.nn.softplus(logits_bC)
    loss_bC = pairs.target_bC * positive_bC + (1 - pairs.target_bC) * negative_bC
    return jnp.sum(jnp.where(pairs.counts_bC, loss_bC, 0), axis=1)


def fnm(distance_kb: jax.Array, config: LossConfig, axis_name: str | None) -> jax.Array:
    """L_fnm of FG-CLEP (arXiv 2505.11939 v1): (1/B) sum_ij |cos(ecg_i, text_j) - S_ij|, or the mean over all pairs.

    It takes the sums over columns of k blocks, [k, b].
    """
    summed = distance_kb.sum(axis=0).mean()
    if config.fnm_mean == "batch":
        return summed
    return summed / (distance_kb.shape[1] * (1 if axis_name is None else jax.lax.axis_size(axis_name)))


class Best(NamedTuple):
    """Each row's best column."""

    score_b: jax.Array
    report_b: jax.Array
    """Number of its report."""


def best(logits_bC: jax.Array, report_C: jax.Array) -> Best:
    """The first of the columns with the greatest logit."""
    logits_bC = jax.lax.stop_gradient(logits_bC)
    return Best(logits_bC.max(axis=1), report_C[jnp.argmax(logits_bC, axis=1)])


def recall_1(parts: Best, report_b: jax.Array) -> jax.Array:
    """Share of rows whose best column of all, given those of k blocks ([k, b]), has an equal report."""
    chosen_1b = jnp.argmax(parts.score_b, axis=0, keepdims=True)
    hit_1b = jnp.take_along_axis(parts.report_b, chosen_1b, axis=0) == report_b
    return hit_1b.mean(dtype=parts.score_b.dtype)
