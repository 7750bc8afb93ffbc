"""How scores become a loss: softmax (InfoNCE) or sigmoid (SigLIP) over the batch of all devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from etp_jax.config import LossConfig
from etp_jax.losses.pairs import Pairs, make_pairs


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
    """Loss of this device's rows against the whole batch, averaged over the devices.

    Gradients are exact if they are averaged over the axis once more (`pmean` of the loss, then of the gradients).

    Args:
        ecg_bE: unit embeddings [b, E] of this device's ECGs.
        text_bE: unit embeddings [b, E] of their reports.
        report_b: int [b], number of each report; equal numbers are equal reports.
        semantic_bD: float [b, D], vectors whose cosines say how alike the reports are; only for `semantic` pairs.
        logit_scale: scalar that multiplies the cosines (not its logarithm).
        logit_bias: scalar added to the scores; sigmoid only, None is 0.
        config: pairs, score and their constants.
        axis_name: device axis, or None on a single device.

    Returns:
        Scalar loss and scalar metrics `ecg_to_text_recall_1` and `text_to_ecg_recall_1` (equal reports are hits), in
        float32 or, from float64 embeddings, float64; the same on all devices.
    """
    dtype = jnp.promote_types(ecg_bE.dtype, jnp.float32)
    ecg_bE, text_bE, scale = ecg_bE.astype(dtype), text_bE.astype(dtype), logit_scale.astype(dtype)
    rows, row_b = (ecg_bE, text_bE, report_b, semantic_bD), jnp.arange(len(report_b))
    if axis_name is not None:
        row_b = row_b + jax.lax.axis_index(axis_name) * len(report_b)
        rows = jax.lax.all_gather(rows, axis_name, tiled=True)
    ecg_BE, text_BE, report_B, semantic_BD = rows
    pairs = make_pairs(row_b, report_b, report_B, semantic_bD, semantic_BD, config, dtype)

    text_logits_bB = scale * matmul(ecg_bE, text_BE.T)
    ecg_logits_bB = scale * matmul(text_bE, ecg_BE.T)
    if config.score == "softmax":
        loss = (softmax_loss(text_logits_bB, pairs) + softmax_loss(ecg_logits_bB, pairs)) / 2
    else:
        bias = 0.0 if logit_bias is None else logit_bias.astype(dtype)
        loss = sigmoid_loss(text_logits_bB + bias, pairs)
    metrics = {
        "ecg_to_text_recall_1": recall_1(text_logits_bB, report_b, report_B),
        "text_to_ecg_recall_1": recall_1(ecg_logits_bB, report_b, report_B),
    }
    return (loss, metrics) if axis_name is None else jax.lax.pmean((loss, metrics), axis_name)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Product in full precision: on accelerators the default would round a float32 score to bfloat16."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def softmax_loss(logits_bB: jax.Array, pairs: Pairs) -> jax.Array:
    """Cross-entropy of the targets, mean over the rows: InfoNCE (arXiv 1807.03748), as METS, section 3.3, writes it."""
    log_p_bB = jax.nn.log_softmax(jnp.where(pairs.counts_bB, logits_bB, -jnp.inf), axis=1)
    log_p_bB = jnp.where(pairs.counts_bB, log_p_bB, 0)  # 0 * -inf is NaN
    return -jnp.sum(pairs.target_bB * log_p_bB, axis=1).mean()


def sigmoid_loss(logits_bB: jax.Array, pairs: Pairs) -> jax.Array:
    """Cross-entropy of every pair, summed over columns, mean over rows: SigLIP (arXiv 2303.15343, section 3.2)."""
    positive_bB, negative_bB = jax.nn.softplus(-logits_bB), jax.nn.softplus(logits_bB)
    loss_bB = pairs.target_bB * positive_bB + (1 - pairs.target_bB) * negative_bB
    return jnp.sum(jnp.where(pairs.counts_bB, loss_bB, 0), axis=1).mean()


def recall_1(logits_bB: jax.Array, report_b: jax.Array, report_B: jax.Array) -> jax.Array:
    """Share of rows whose best column has an equal report."""
    hit_b = report_B[jnp.argmax(logits_bB, axis=1)] == report_b
    return hit_b.mean(dtype=logits_bB.dtype)
