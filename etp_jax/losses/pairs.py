"""Rules for what counts as a pair: the target of every local row over the rows of the global batch.

A rule is one function and one line of `PAIR_RULES`. The rows of the global batch are the columns of the target.
Every function works on any block of columns. Where a target depends on all columns, `share` computes the contribution
of each block and `add` sums these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from etp_jax.config import LossConfig
from etp_jax.errors import EtpError
from etp_jax.losses.scores import SCORES, Pairs


class Rows(NamedTuple):
    """Rows of the global batch, with the fields that decide what counts as a pair."""

    number_b: jax.Array
    """int, position in the global batch."""
    report_b: jax.Array
    """int, number of the report; equal numbers mean equal reports."""
    semantic_bD: jax.Array | None
    """Vectors of the reports, whose cosines are their similarities; only if `needs_semantic`. They are centred already,
    if at all."""


class Share(NamedTuple):
    """Normaliser of a row's softmax target, which makes it sum to 1 over all columns."""

    equal_b: jax.Array
    """Number of columns with an equal report."""
    alike_b: jax.Array | None
    """Logarithm of the sum of exp(cosine / temperature) over the columns; only for `semantic` pairs."""


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiplies in full precision; the default on accelerators would round a float32 score to bfloat16."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def cosine(x_bD: jax.Array, y_CD: jax.Array) -> jax.Array:
    """Computes the cosines [b, C] of rows; a zero row has cosine 0 with every other."""

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-12))

    return matmul(unit(x_bD), unit(y_CD).T)


def alike(rows: Rows, columns: Rows) -> jax.Array:
    """Computes the similarities [b, C] of the reports, as cosines of their vectors."""
    assert rows.semantic_bD is not None and columns.semantic_bD is not None, "this loss needs the reports' vectors"
    return cosine(rows.semantic_bD, columns.semantic_bD)


@dataclass(frozen=True)
class PairRule:
    """One way to decide what counts as a pair."""

    targets: Callable[[Rows, Rows, Share | None, LossConfig], tuple[jax.Array, jax.Array | None]]
    """Function that computes the targets of a block. It takes b rows, C columns, the rows' share over all columns
    (None where the score takes no shares) and the constants. It returns targets [b, C], of any type, and bool [b, C],
    which pairs count; None: all count."""
    spreads: bool = False
    """Whether a row's share depends on columns other than its own."""
    semantic: bool = False
    """Whether targets depend on the similarity of the reports."""


def own(rows: Rows, columns: Rows, _: Share | None, __: LossConfig) -> tuple[jax.Array, jax.Array | None]:
    """Computes targets in which only an ECG's own report is positive, and all others are negative."""
    return rows.number_b[:, None] == columns.number_b, None


def equal_masked(rows: Rows, columns: Rows, _: Share | None, __: LossConfig) -> tuple[jax.Array, jax.Array | None]:
    """Computes targets as `own`, but equal reports of other records are neither positive nor negative."""
    own_bC = rows.number_b[:, None] == columns.number_b
    return own_bC, own_bC | (rows.report_b[:, None] != columns.report_b)


def equal_positive(
    rows: Rows, columns: Rows, all_columns: Share | None, _: LossConfig
) -> tuple[jax.Array, jax.Array | None]:
    """Computes targets in which all equal reports are positive and, as shares, have equal weight."""
    equal_bC = rows.report_b[:, None] == columns.report_b
    return equal_bC if all_columns is None else equal_bC / all_columns.equal_b[:, None].astype(float), None


def semantic(
    rows: Rows, columns: Rows, all_columns: Share | None, config: LossConfig
) -> tuple[jax.Array, jax.Array | None]:
    """Computes targets from the cosines of the reports' vectors.

    As probabilities the targets are FOCAL's (official code of arXiv 2505.11939 v3, utils_loss.py): (1 + cosine) / 2.
    With a margin m they are max(cosine - m, 0) / (1 - m), and 1 for equal reports, also for those without a vector.
    As shares, `semantic_weight` of the target is a softmax over the cosines, and equal reports share the rest.
    """
    cosine_bC = alike(rows, columns)
    if all_columns is None:
        margin = config.semantic_margin
        if margin is None:
            return (1 + cosine_bC) / 2, None
        clipped_bC = jnp.maximum(cosine_bC - margin, 0) / (1 - margin)
        return jnp.where(rows.report_b[:, None] == columns.report_b, 1, clipped_bC), None
    assert all_columns.alike_b is not None, "`share` sets alike_b for semantic pairs"
    equal_bC, _ = equal_positive(rows, columns, all_columns, config)
    alike_bC = jnp.exp(cosine_bC / config.semantic_temperature - all_columns.alike_b[:, None])
    return (1 - config.semantic_weight) * equal_bC + config.semantic_weight * alike_bC, None


PAIR_RULES = {
    "own": PairRule(own),
    "equal-masked": PairRule(equal_masked),
    "equal-positive": PairRule(equal_positive, spreads=True),
    "semantic": PairRule(semantic, spreads=True, semantic=True),
}
"""All rules by their name, `loss.pairs`."""


def check_loss(config: LossConfig) -> None:
    """Raises EtpError if `loss.pairs` or `loss.score` is unknown."""
    for name, known in (("pairs", PAIR_RULES), ("score", SCORES)):
        if getattr(config, name) not in known:
            raise EtpError(f"loss.{name} is {getattr(config, name)!r}; there are {', '.join(known)}")


def needs_semantic(config: LossConfig) -> bool:
    """Whether the loss depends on the similarity of the reports."""
    return PAIR_RULES[config.pairs].semantic or config.fnm_weight > 0


def needs_tower(config: LossConfig) -> bool:
    """Whether the loss needs the text tower's outputs before training."""
    return needs_semantic(config) and config.semantic_from == "tower"


def needs_mean(config: LossConfig) -> bool:
    """Whether the loss needs the mean of the text tower's outputs before training."""
    return needs_tower(config) and config.semantic_centre


def needs_share(config: LossConfig) -> bool:
    """Whether a target depends on columns other than its own."""
    return SCORES[config.score].shares and PAIR_RULES[config.pairs].spreads


def share(rows: Rows, columns: Rows, config: LossConfig) -> Share:
    """Computes the contribution of a block of columns to the `Share` of the rows."""
    equal_b = (rows.report_b[:, None] == columns.report_b).sum(axis=1)
    if not PAIR_RULES[config.pairs].semantic:
        return Share(equal_b, None)
    return Share(equal_b, jax.nn.logsumexp(alike(rows, columns) / config.semantic_temperature, axis=1))


def add(parts: Share) -> Share:
    """Combines the `Share` of every block, stacked along the first axis, to that of all columns."""
    return Share(parts.equal_b.sum(axis=0), None if parts.alike_b is None else jax.nn.logsumexp(parts.alike_b, axis=0))


def make_pairs(rows: Rows, columns: Rows, all_columns: Share | None, config: LossConfig, dtype: jnp.dtype) -> Pairs:
    """Computes the targets of rows against columns.

    Args:
        rows: b rows of the global batch.
        columns: C rows of the global batch to compare them with.
        all_columns: share of the rows over all columns, if `needs_share`.
        config: pairs and score.
        dtype: type of the targets.

    Returns:
        Targets [b, C] without gradient.
    """
    target_bC, counts_bC = PAIR_RULES[config.pairs].targets(rows, columns, all_columns, config)
    if counts_bC is None:
        counts_bC = jnp.ones(target_bC.shape, bool)
    return Pairs(jax.lax.stop_gradient(target_bC.astype(dtype)), counts_bC)
