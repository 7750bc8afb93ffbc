"""Compares local rows with all rows of the global batch: at once, or a block at a time, devices passing theirs round.

At once, a device holds matrices of local rows x global batch. In blocks it holds them for one block of columns only:
each block is computed again for its gradient (`jax.checkpoint`), for a ring that keeps what it computed saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def over_columns(f: Callable[[Tree], Tree], local: Tree, block: int, axis_name: str | None) -> Tree:
    """Applies `f` to the rows of all devices.

    Args:
        f: what is wanted of some columns; a function of a tree like `local`, of any length.
        local: arrays [b, ...], this device's rows, as many on every device.
        block: columns at a time; 0 is all at once. It need not divide b.
        axis_name: device axis, or None on a single device.

    Returns:
        What `f` gave, stacked along a new first axis in the order of the global batch. Gradients flow back to the
        devices that the columns came from.
    """
    if block == 0:
        columns = local if axis_name is None else jax.lax.all_gather(local, axis_name, tiled=True)
        return jax.tree.map(lambda x: x[None], f(columns))
    if axis_name is None:
        return _in_blocks(f, local, block)
    devices, here = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def turn(columns: Tree, _: None) -> tuple[Tree, Tree]:
        parts = _in_blocks(f, columns, block)
        ring = [((device + 1) % devices, device) for device in range(devices)]
        return jax.lax.ppermute(columns, axis_name, ring), parts

    _, parts = jax.lax.scan(turn, local, length=devices)
    in_order = jax.tree.map(lambda x: jnp.roll(x, here, axis=0), parts)  # each device began with its own
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), in_order)


def _in_blocks(f: Callable[[Tree], Tree], columns: Tree, block: int) -> Tree:
    """`f` of every block, stacked; the last block may be shorter."""
    # Barriers against merging with the first computation are not needed in a loop, and would only slow it.
    f = jax.checkpoint(f, prevent_cse=False)
    size = jax.tree.leaves(columns)[0].shape[0]
    whole, rest = divmod(size, block)
    parts = []
    if whole:
        blocks = jax.tree.map(lambda x: x[: whole * block].reshape(whole, block, *x.shape[1:]), columns)
        parts.append(jax.lax.map(f, blocks))
    if rest:
        parts.append(jax.tree.map(lambda x: x[None], f(jax.tree.map(lambda x: x[whole * block :], columns))))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
