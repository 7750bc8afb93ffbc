"""What counts as a pair: for every local row, how much of its target falls on each row of the global batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from etp_jax.config import LossConfig


class Pairs(NamedTuple):
    """Targets of local rows against global columns. They are symmetric, so they serve both directions."""

    target_bB: jax.Array
    """Share of the target. Softmax: each row sums to 1. Sigmoid: probability that the two belong together."""
    counts_bB: jax.Array
    """bool; false where a pair is neither positive nor negative and leaves the loss."""


def cosine(x_bD: jax.Array, y_BD: jax.Array) -> jax.Array:
    """Cosines [b, B] of rows; a zero row has cosine 0 with all."""

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-12))

    return jnp.matmul(unit(x_bD), unit(y_BD).T, precision=jax.lax.Precision.HIGHEST)


def make_pairs(
    row_b: jax.Array,
    report_b: jax.Array,
    report_B: jax.Array,
    semantic_bD: jax.Array | None,
    semantic_BD: jax.Array | None,
    config: LossConfig,
    dtype: jnp.dtype,
) -> Pairs:
    """Lays out the targets.

    `semantic` with sigmoid is FOCAL's (official code of arXiv 2505.11939 v3, utils_loss.py): (1 + cosine) / 2. With
    softmax, `semantic_weight` of the target is a softmax over the cosines, the rest is shared by equal reports. The
    cosines are plain: whoever wants centred vectors centres them first.

    Args:
        row_b: int [b], the column of the global batch that is the local row itself.
        report_b: int [b], number of the report, local rows.
        report_B: int [B], the same, global batch.
        semantic_bD: float [b, D], what the reports mean; only for `semantic` pairs.
        semantic_BD: float [B, D], the same, global batch.
        config: pairs and score.
        dtype: type of the targets.

    Returns:
        Targets without gradient.
    """
    own_bB = row_b[:, None] == jnp.arange(len(report_B))
    equal_bB = report_b[:, None] == report_B
    everything_bB = jnp.ones_like(own_bB)
    if config.pairs == "own":
        return Pairs(own_bB.astype(dtype), everything_bB)
    if config.pairs == "equal-masked":
        return Pairs(own_bB.astype(dtype), own_bB | ~equal_bB)

    target_bB = equal_bB.astype(dtype)
    if config.score == "softmax":
        target_bB = target_bB / target_bB.sum(axis=1, keepdims=True)
    if config.pairs == "semantic":
        assert semantic_bD is not None and semantic_BD is not None, "`semantic` pairs need the reports' vectors"
        cosine_bB = cosine(semantic_bD.astype(dtype), semantic_BD.astype(dtype))
        if config.score == "softmax":
            alike_bB = jax.nn.softmax(cosine_bB / config.semantic_temperature, axis=1)
            target_bB = (1 - config.semantic_weight) * target_bB + config.semantic_weight * alike_bB
        else:
            target_bB = (1 + cosine_bB) / 2
    return Pairs(jax.lax.stop_gradient(target_bB), everything_bB)
