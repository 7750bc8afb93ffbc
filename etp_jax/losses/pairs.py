"""What counts as a pair: for every local row, how much of its target falls on each row of the global batch.

The rows of the global batch are the columns of the target. Everything here works on any block of them; what a target
needs to know of all columns comes from `share` of each block and `add` of these.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from etp_jax.config import LossConfig


class Rows(NamedTuple):
    """Some rows of the global batch, as far as pairs depend on them."""

    number_b: jax.Array
    """int, position in the global batch."""
    report_b: jax.Array
    """int, number of the report; equal numbers are equal reports."""
    semantic_bD: jax.Array | None
    """What the reports mean; only if `needs_semantic`."""


class Share(NamedTuple):
    """What a row's softmax target is divided by, so that it sums to 1 over all columns."""

    equal_b: jax.Array
    """Number of columns with an equal report."""
    alike_b: jax.Array | None
    """Logarithm of the sum of exp(cosine / temperature) over the columns; only for `semantic` pairs."""


class Pairs(NamedTuple):
    """Targets of rows against columns. Each direction's rows have the same, for they are of the same records."""

    target_bC: jax.Array
    """Share of the target. Softmax: each row sums to 1. Sigmoid: probability that the two belong together."""
    counts_bC: jax.Array
    """bool; false where a pair is neither positive nor negative and leaves the loss."""


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Product in full precision: on accelerators the default would round a float32 score to bfloat16."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def cosine(x_bD: jax.Array, y_CD: jax.Array) -> jax.Array:
    """Cosines [b, C] of rows; a zero row has cosine 0 with all."""

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-12))

    return matmul(unit(x_bD), unit(y_CD).T)


def alike(rows: Rows, columns: Rows) -> jax.Array:
    """Cosines [b, C] of what the reports mean."""
    assert rows.semantic_bD is not None and columns.semantic_bD is not None, "this loss needs the reports' vectors"
    return cosine(rows.semantic_bD, columns.semantic_bD)


def needs_semantic(config: LossConfig) -> bool:
    """Whether the loss depends on what the reports mean."""
    return config.pairs == "semantic" or config.fnm_weight > 0


def needs_tower(config: LossConfig) -> bool:
    """Whether it takes that from the text tower's outputs before training."""
    return needs_semantic(config) and config.semantic_from == "tower"


def needs_share(config: LossConfig) -> bool:
    """Whether a target depends on columns other than its own."""
    return config.score == "softmax" and config.pairs in ("equal-positive", "semantic")


def share(rows: Rows, columns: Rows, config: LossConfig) -> Share:
    """What these columns contribute to the rows' `Share`."""
    equal_b = (rows.report_b[:, None] == columns.report_b).sum(axis=1)
    if config.pairs != "semantic":
        return Share(equal_b, None)
    return Share(equal_b, jax.nn.logsumexp(alike(rows, columns) / config.semantic_temperature, axis=1))


def add(parts: Share) -> Share:
    """The `Share` of all columns, from those of blocks, stacked along the first axis."""
    return Share(parts.equal_b.sum(axis=0), None if parts.alike_b is None else jax.nn.logsumexp(parts.alike_b, axis=0))


def make_pairs(rows: Rows, columns: Rows, all_columns: Share | None, config: LossConfig, dtype: jnp.dtype) -> Pairs:
    """Lays out the targets.

    `semantic` with sigmoid is FOCAL's (official code of arXiv 2505.11939 v3, utils_loss.py): (1 + cosine) / 2. With
    softmax, `semantic_weight` of the target is a softmax over the cosines, the rest is shared by equal reports. The
    cosines are plain: whoever wants centred vectors centres them first.

    Args:
        rows: b rows of the global batch.
        columns: C rows of it to compare them with.
        all_columns: the rows' share over all columns, if `needs_share`.
        config: pairs and score.
        dtype: type of the targets.

    Returns:
        Targets [b, C] without gradient.
    """
    own_bC = rows.number_b[:, None] == columns.number_b
    equal_bC = rows.report_b[:, None] == columns.report_b
    everything_bC = jnp.ones_like(own_bC)
    if config.pairs == "own":
        return Pairs(own_bC.astype(dtype), everything_bC)
    if config.pairs == "equal-masked":
        return Pairs(own_bC.astype(dtype), own_bC | ~equal_bC)

    target_bC = equal_bC.astype(dtype)
    if all_columns is not None:
        target_bC = target_bC / all_columns.equal_b[:, None]
    if config.pairs == "semantic":
        cosine_bC = alike(rows, columns)
        if all_columns is not None and all_columns.alike_b is not None:
            alike_bC = jnp.exp(cosine_bC / config.semantic_temperature - all_columns.alike_b[:, None])
            target_bC = (1 - config.semantic_weight) * target_bC + config.semantic_weight * alike_bC
        else:
            target_bC = (1 + cosine_bC) / 2
    return Pairs(jax.lax.stop_gradient(target_bC), everything_bC)
