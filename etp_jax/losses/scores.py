"""Functions that turn scores into a loss: softmax (InfoNCE) and sigmoid (SigLIP).

A score is one function and one line of `SCORES`. The function gets a block of columns of the global batch; `combine`
combines its results over all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pairs(NamedTuple):
    """Targets of rows against columns; they are the same in both directions, whose rows are the same records."""

    target_bC: jax.Array
    """Target of each pair. Softmax: share of the row, which sums to 1. Sigmoid: probability that the pair matches."""
    counts_bC: jax.Array
    """bool; false where a pair is neither positive nor negative and is left out of the loss."""


class Part(NamedTuple):
    """Contribution of a block of columns to the loss of each row: the logarithm of a sum over columns, plus a sum."""

    log_sum_b: jax.Array | None
    """Logarithm of the sum of exponentials over the columns; None: the loss has no such term."""
    sum_b: jax.Array
    """Sum of all other terms over the columns."""


@dataclass(frozen=True)
class Score:
    """One way to turn scores into a loss."""

    part: Callable[[jax.Array, jax.Array, Pairs], tuple[Part, ...]]
    """Function that computes the parts of a block. It takes the logits [b, C] of ECG rows against text columns, those
    of text rows against ECG columns, and the pairs. The loss is the mean of the parts: one for each direction, or one
    for both."""
    shares: bool
    """Whether the targets of a row are shares that sum to 1, instead of one probability per pair."""
    bias: bool = False
    """Whether `loss.bias` is added to the logits and learned."""


def softmax(text_logits_bC: jax.Array, ecg_logits_bC: jax.Array, pairs: Pairs) -> tuple[Part, ...]:
    """Computes the cross-entropy of the targets: InfoNCE (arXiv 1807.03748), in the form of METS, section 3.3."""

    def direction(logits_bC: jax.Array) -> Part:
        # Not -inf: in a block without any counted column the gradient would be 0 / 0.
        counted_bC = jnp.where(pairs.counts_bC, logits_bC, jnp.finfo(logits_bC.dtype).min)
        return Part(jax.nn.logsumexp(counted_bC, axis=1), -jnp.sum(pairs.target_bC * logits_bC, axis=1))

    return direction(text_logits_bC), direction(ecg_logits_bC)


def sigmoid(text_logits_bC: jax.Array, _: jax.Array, pairs: Pairs) -> tuple[Part, ...]:
    """Computes the cross-entropy of every pair: SigLIP (arXiv 2303.15343, section 3.2), the same in both directions."""
    positive_bC, negative_bC = jax.nn.softplus(-text_logits_bC), jax.nn.softplus(text_logits_bC)
    loss_bC = pairs.target_bC * positive_bC + (1 - pairs.target_bC) * negative_bC
    return (Part(None, jnp.sum(jnp.where(pairs.counts_bC, loss_bC, 0), axis=1)),)


SCORES = {
    "softmax": Score(softmax, shares=True),
    "sigmoid": Score(sigmoid, shares=False, bias=True),
}
"""All scores by their name, `loss.score`."""


def combine(parts: Sequence[Part]) -> jax.Array:
    """Computes the loss, the mean over rows and parts; each part is stacked over k blocks of columns, [k, b]."""

    def mean(part: Part) -> jax.Array:
        loss_b = part.sum_b.sum(axis=0)
        if part.log_sum_b is not None:
            loss_b = jax.nn.logsumexp(part.log_sum_b, axis=0) + loss_b
        return loss_b.mean()

    first, *others = map(mean, parts)
    return sum(others, first) / len(parts)
