"""Dropout with one mask per example, batch normalisation, and the types of parameters and statistics."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Type of parameters, statistics and outputs for a compute type: float64 for float64, otherwise float32."""
    return jnp.promote_types(dtype, jnp.float32)


class Dropout(nn.Module):
    """Dropout with one random key per example.

    A mask depends only on the example's own key and the module's path. It is therefore the same on one device and on
    eight, and in any order of the examples.

    Attributes:
        rate: probability that a unit is dropped; the others are scaled by 1 / (1 - rate).
        whole: drop the whole branch of an example instead of single units (stochastic depth, arXiv 1603.09382).
    """

    rate: float
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Drops units of `x` [B, ...] using typed PRNG keys [B]; `keys=None` (evaluation) returns `x`."""
        if keys is None or self.rate == 0.0:
            return x
        site = zlib.crc32("/".join(self.path).encode())
        shape = (1,) * (x.ndim - 1) if self.whole else x.shape[1:]

        def keep(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - self.rate, shape)

        return jnp.where(jax.vmap(keep)(keys), x / (1.0 - self.rate), 0).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) over all axes but the last, and over devices.

    Parameters and statistics have the names of Flax's layer. Unlike there, the gradient is written out: automatic
    differentiation takes four times as long on a CPU.

    Attributes:
        train: use the batch statistics, over all devices, and update the running ones; else use the running ones.
        axis_name: device axis over which the statistics are averaged; None uses this device's examples only.
        dtype: type of the result; parameters and statistics stay at least float32.
        momentum: weight of the old running statistics in an update.
        epsilon: constant added to the variance.
    """

    train: bool
    axis_name: str | None
    dtype: DTypeLike
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises each channel of `x` [..., C]."""
        channels, exact = x.shape[-1:], at_least_float32(self.dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, exact)
        var = self.variable("batch_stats", "var", jnp.ones, channels, exact)
        scale = self.param("scale", nn.initializers.ones, channels, exact)
        bias = self.param("bias", nn.initializers.zeros, channels, exact)
        if not self.train:
            gain = scale * jax.lax.rsqrt(var.value + self.epsilon)
            return ((x - mean.value) * gain + bias).astype(self.dtype)
        normalised: Any = normalize_batch(x, scale, bias, self.epsilon, self.axis_name)
        y, batch_mean, batch_var = normalised
        mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
        var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return y.astype(self.dtype)


def _mean_over(values: tuple[jax.Array, jax.Array], axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    return values if axis_name is None else jax.lax.pmean(values, axis_name)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `x` [..., C] normalised, and the mean and (biased) variance [C] over all devices, without gradient."""
    return _normalize_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalize_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None) -> Any:
    axes, exact = tuple(range(x.ndim - 1)), x.astype(scale.dtype)
    mean, square = _mean_over((exact.mean(axes), (exact * exact).mean(axes)), axis_name)
    var = jnp.maximum(square - mean * mean, 0)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (exact - mean) * (scale * inverse) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _normalize_backward(epsilon: float, axis_name: str | None, saved: Any, cotangents: Any) -> Any:
    """Computes the gradients of this device's losses; that of `x` also flows through the statistics of all devices."""
    x, scale, mean, inverse = saved
    dy, axes, count = cotangents[0], tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    centred = x.astype(scale.dtype) - mean
    dbias, dscale = dy.sum(axes), (dy * centred).sum(axes) * inverse
    shift, slope = _mean_over((dbias / count, dscale / count), axis_name)
    dx = (scale * inverse) * (dy - shift - centred * (inverse * slope))
    return dx.astype(x.dtype), dscale, dbias


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


AXIS = "batch"
"""Name of the device axis over which batch statistics are averaged in training."""
