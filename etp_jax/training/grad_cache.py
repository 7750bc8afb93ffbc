"""Gradient caching (Gao et al. 2021, arXiv 2101.06983): encode in micro-batches, compare in one global batch.

A contrastive loss is no sum of losses over parts of its batch, so plain gradient accumulation would be wrong. Here the
batch is encoded part by part, and only the embeddings are kept. When their gradients are known, each part is encoded
again to propagate its gradient to the parameters. The price is one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etp_jax.errors import EtpError
from etp_jax.models.layers import AXIS

Tree = Any


def value_and_grad(
    encode: Callable[[Tree, Tree], tuple[Tree, Tree]],
    loss_of: Callable[[Tree, Tree], tuple[jax.Array, Tree]],
    params: Tree,
    batch: Tree,
    micro_batches: int,
    platform: str,
) -> tuple[tuple[jax.Array, tuple[Tree, Tree]], Tree]:
    """Computes the loss of a batch and its gradient, with the activations of one micro-batch at a time.

    Args:
        encode: function from parameters and rows to the embeddings of the rows and a tree of statistics. It is called
            twice per row and must be deterministic.
        loss_of: function from parameters and all embeddings to the loss and metrics.
        params: parameters to differentiate with respect to.
        batch: arrays [b, ...], this device's rows.
        micro_batches: number of micro-batches, each of consecutive rows. 1 encodes the batch as a whole, once.
        platform: platform of the devices, which decides the form of the loop over micro-batches.

    Returns:
        (loss, (metrics, statistics averaged over the micro-batches)) and the gradient.

    Raises:
        EtpError: the micro-batches do not have equal sizes.
    """

    def whole(params: Tree) -> tuple[jax.Array, tuple[Tree, Tree]]:
        rows, statistics = encode(params, batch)
        loss, metrics = loss_of(params, rows)
        return loss, (metrics, statistics)

    if micro_batches == 1:
        return jax.value_and_grad(whole, has_aux=True)(params)
    size, rest = divmod(len(jax.tree.leaves(batch)[0]), micro_batches)
    if rest:
        devices = jax.lax.axis_size(AXIS)
        raise EtpError(
            f"data.batch_size {(size * micro_batches + rest) * devices} is not a multiple of optim.micro_batches "
            f"{micro_batches} x {devices} devices; change either"
        )

    def part(rows: Tree, number: Any) -> Tree:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * size, size), rows)

    def forward(_: None, number: Any) -> tuple[None, Any]:
        return None, encode(params, part(batch, number))

    _, (rows, statistics) = _loop(forward, None, micro_batches, platform)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    (loss, metrics), (direct, cached) = jax.value_and_grad(loss_of, (0, 1), has_aux=True)(params, rows)

    def backward(carry: Tree, number: Any) -> tuple[Tree, None]:
        grads, cached = carry
        _, pull_back = jax.vjp(lambda params: encode(params, part(batch, number))[0], params)
        return (jax.tree.map(jnp.add, grads, *pull_back(part(cached, number))), cached), None

    (grads, _), _ = _loop(backward, (direct, cached), micro_batches, platform)
    return (loss, (metrics, jax.tree.map(lambda x: x.mean(axis=0), statistics))), grads


def _loop(f: Callable[[Tree, Any], tuple[Tree, Tree]], carry: Tree, length: int, platform: str) -> tuple[Tree, Tree]:
    """Runs `lax.scan` over range(length); unrolled on a CPU, where convolutions in loops are many times slower.

    XLA's CPU compiler drops `optimization_barrier`. It would merge the second encoding with the first, and keep the
    activations of all parts. To prevent this, the number of each part depends on the preceding carry.
    """
    if platform != "cpu":
        return jax.lax.scan(f, carry, jnp.arange(length))
    results = []
    for number in range(length):
        before: Any = sum(x.ravel()[0] for x in jax.tree.leaves(carry))
        carry, result = f(carry, number + jnp.asarray(0 * before, jnp.int32))
        results.append(result)
    return carry, jax.tree.map(lambda *xs: jnp.stack(xs), *results)
