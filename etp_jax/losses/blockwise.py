"""Comparison of local rows with all rows of the global batch: at once, in blocks, or in blocks that circulate.

At once, a device holds matrices of local rows x global batch. In blocks, it holds them for one block of columns only,
besides all columns themselves. In the ring, it holds the columns of one device at a time; on a pod each round then
waits for the network. Each block is recomputed for its gradient (`jax.checkpoint`); a loop that keeps its results would
save no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def over_columns(f: Callable[[Tree], Tree], columns: Tree, block: int, ring_axis: str | None = None) -> Tree:
    """Applies `f` to the columns.

    Args:
        f: function of a block of columns; its argument is a tree like `columns`, of any length.
        columns: arrays [C, ...], the rows of all devices; with a ring, this device's rows, as many on every device.
        block: columns at a time; 0: all at once, without a ring. It need not divide C.
        ring_axis: device axis round which the columns are passed; None: they are all here.

    Returns:
        Results of `f`, stacked along a new first axis in the order of the global batch. Gradients flow back to the
        devices that hold the columns.
    """
    if block == 0:
        return jax.tree.map(lambda x: x[None], f(columns))
    if ring_axis is None:
        return _in_blocks(f, columns, block)
    devices, here = jax.lax.axis_size(ring_axis), jax.lax.axis_index(ring_axis)

    def turn(columns: Tree, _: None) -> tuple[Tree, Tree]:
        parts = _in_blocks(f, columns, block)
        ring = [((device + 1) % devices, device) for device in range(devices)]
        return jax.lax.ppermute(columns, ring_axis, ring), parts

    _, parts = jax.lax.scan(turn, columns, length=devices)
    in_order = jax.tree.map(lambda x: jnp.roll(x, here, axis=0), parts)  # each device began with its own columns
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), in_order)


def _in_blocks(f: Callable[[Tree], Tree], columns: Tree, block: int) -> Tree:
    """Applies `f` to every block and stacks the results; the last block may be shorter."""
    # In a loop, XLA cannot merge the recomputation with the first computation, so barriers would only slow it down.
    f = jax.checkpoint(f, prevent_cse=False, policy=_is_reduction)
    size = jax.tree.leaves(columns)[0].shape[0]
    whole, rest = divmod(size, block)
    parts = []
    if whole:
        blocks = jax.tree.map(lambda x: x[: whole * block].reshape(whole, block, *x.shape[1:]), columns)
        parts.append(jax.lax.map(f, blocks))
    if rest:
        parts.append(jax.tree.map(lambda x: x[None], f(jax.tree.map(lambda x: x[whole * block :], columns))))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def _is_reduction(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a result is kept for the gradient: sums and maxima over columns are small and take a pass each."""
    return primitive.name in ("reduce_sum", "reduce_max")
