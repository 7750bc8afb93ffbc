"""How scores become a loss: softmax (InfoNCE) or sigmoid (SigLIP). A score is one function and one line of `SCORES`.

A function sees some columns of the global batch; `combine` joins what it gives over all blocks of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pairs(NamedTuple):
    """Targets of rows against columns. Both directions have the same ones, for their rows are the same records."""

    target_bC: jax.Array
    """Share of the target. Softmax: each row sums to 1. Sigmoid: probability that the two belong together."""
    counts_bC: jax.Array
    """bool; false where a pair is neither positive nor negative and leaves the loss."""


class Part(NamedTuple):
    """The loss of each row, as far as some columns determine it: logarithm of a sum over columns, plus a sum."""

    log_sum_b: jax.Array | None
    """Logarithm of the columns' sum of exponentials; None: the loss has no such term."""
    sum_b: jax.Array
    """Sum over the columns of everything else."""


@dataclass(frozen=True)
class Score:
    """One way to make a loss of scores."""

    part: Callable[[jax.Array, jax.Array, Pairs], tuple[Part, ...]]
    """Takes the logits [b, C] of ECG rows against text columns, those of text rows against ECG columns, and the pairs.
    It returns the parts whose mean is the loss: one of each direction, or one of both."""
    shares: bool
    """Whether a row's targets are shares that sum to 1, instead of one probability a pair."""
    bias: bool = False
    """Whether `loss.bias` is added to the logits and learned."""


def softmax(text_logits_bC: jax.Array, ecg_logits_bC: jax.Array, pairs: Pairs) -> tuple[Part, ...]:
    """Cross-entropy of the targets: InfoNCE (arXiv 1807.03748), as METS, section 3.3, writes it."""

    def direction(logits_bC: jax.Array) -> Part:
        # Not -inf: a block in which no column counts would have the gradient 0 / 0.
        counted_bC = jnp.where(pairs.counts_bC, logits_bC, jnp.finfo(logits_bC.dtype).min)
        return Part(jax.nn.logsumexp(counted_bC, axis=1), -jnp.sum(pairs.target_bC * logits_bC, axis=1))

    return direction(text_logits_bC), direction(ecg_logits_bC)


def sigmoid(text_logits_bC: jax.Array, _: jax.Array, pairs: Pairs) -> tuple[Part, ...]:
    """Cross-entropy of every pair: SigLIP (arXiv 2303.15343, section 3.2). Both directions have the same pairs."""
    positive_bC, negative_bC = jax.nn.softplus(-text_logits_bC), jax.nn.softplus(text_logits_bC)
    loss_bC = pairs.target_bC * positive_bC + (1 - pairs.target_bC) * negative_bC
    return (Part(None, jnp.sum(jnp.where(pairs.counts_bC, loss_bC, 0), axis=1)),)


SCORES = {
    "softmax": Score(softmax, shares=True),
    "sigmoid": Score(sigmoid, shares=False, bias=True),
}
"""Every score by its name, `loss.score`."""


def combine(parts: Sequence[Part]) -> jax.Array:
    """The loss, mean over rows and parts; each part holds those of k blocks of columns, [k, b]."""

    def mean(part: Part) -> jax.Array:
        loss_b = part.sum_b.sum(axis=0)
        if part.log_sum_b is not None:
            loss_b = jax.nn.logsumexp(part.log_sum_b, axis=0) + loss_b
        return loss_b.mean()

    first, *others = map(mean, parts)
    return sum(others, first) / len(parts)
