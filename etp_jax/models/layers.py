"""What both towers share: dropout whose masks belong to the example, and the types of parameters and statistics."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """The type of parameters, statistics and outputs beside a compute type: float32, or float64 in float64."""
    return jnp.promote_types(dtype, jnp.float32)


class Dropout(nn.Module):
    """Dropout by one key an example.

    A mask is a function of the example's own key and of the module's path, so it is the same on one device and on
    eight, in whatever order the examples stand.

    Attributes:
        rate: probability that a unit is dropped; the others are scaled by 1 / (1 - rate).
        whole: drop a whole example's branch at once instead of single units (stochastic depth, arXiv 1603.09382).
    """

    rate: float
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Drops units of `x` [B, ...] by the typed keys [B]; `keys=None` (evaluation) returns `x`."""
        if keys is None or self.rate == 0.0:
            return x
        site = zlib.crc32("/".join(self.path).encode())
        shape = (1,) * (x.ndim - 1) if self.whole else x.shape[1:]

        def keep(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - self.rate, shape)

        return jnp.where(jax.vmap(keep)(keys), x / (1.0 - self.rate), 0).astype(x.dtype)
