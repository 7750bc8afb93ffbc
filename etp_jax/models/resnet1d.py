"""ResNet for one-dimensional signals: He et al. 2016 (arXiv 1512.03385) with convolutions along time.

The layout is that of MERL's code, the nearest published relative of ETP's and METS's encoder. It has a stem of kernel
7 and stride 2 without max-pooling, then four stages with strides 1, 2, 2, 2. Padding is explicit, (k // 2, k // 2) as
in PyTorch, because XLA's "SAME" pads stride-2 layers on the other side.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax.config import ResNetConfig
from etp_jax.models.layers import AXIS, BatchNorm, Dropout, at_least_float32
from etp_jax.models.work import Work, linear

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Residual blocks of each stage, by depth."""
EXPANSION = {18: 1, 34: 1, 50: 4}
"""Ratio of a block's output channels to its inner channels, by depth; 4 is a bottleneck."""


STAGES = "intermediates"
"""Flax collection in which `ResNet1D` leaves the `summary` of each stage, `stage1` and so on, if it is mutable."""
TOKENS = "tokens"
"""Flax collection in which `ResNet1D` leaves the output of its last stage, [B, T, C], if it is mutable."""


def summary(x_BTC: jax.Array) -> jax.Array:
    """Returns mean, maximum and standard deviation over time, [B, 3 C]."""
    return jnp.concatenate([x_BTC.mean(axis=1), x_BTC.max(axis=1), x_BTC.std(axis=1)], axis=-1)


def stage_blocks(config: ResNetConfig) -> tuple[int, ...]:
    """Returns the number of residual blocks of each stage."""
    return config.blocks or BLOCKS[config.depth]


def conv(features: int, kernel: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
    """Convolution along time with PyTorch's padding and the initial weights of torchvision's ResNets."""
    return nn.Conv(
        features,
        (kernel,),
        strides=(stride,),
        padding=((kernel // 2, kernel // 2),),
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        name=name,
    )


def norm(kind: str, channels: int, train: bool, axis_name: str | None, dtype: DTypeLike, name: str) -> nn.Module:
    """Batch normalisation (in training over the device axis) or group normalisation, with statistics in float32."""
    if kind == "group":
        groups = math.gcd(32, channels)
        return nn.GroupNorm(groups, epsilon=1e-5, dtype=dtype, param_dtype=at_least_float32(dtype), name=name)
    return BatchNorm(train, axis_name, dtype, name=name)


class Block(nn.Module):
    """Residual block of two convolutions (depth 18, 34), or bottleneck of three (depth 50, stride in the middle)."""

    channels: int
    stride: int
    drop_path: float
    config: ResNetConfig
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x_BTC: jax.Array, train: bool, keys: jax.Array | None) -> jax.Array:
        """Maps [B, T, C] to [B, ceil(T / stride), channels * expansion]."""
        kernel, expansion = self.config.kernel, EXPANSION[self.config.depth]
        inner, outer = self.channels, self.channels * expansion
        layers = (
            [(inner, kernel, self.stride), (outer, kernel, 1)]
            if expansion == 1
            else [(inner, 1, 1), (inner, kernel, self.stride), (outer, 1, 1)]
        )
        y = x_BTC
        for i, (features, width, stride) in enumerate(layers, 1):
            y = conv(features, width, stride, self.dtype, f"conv{i}")(y)
            y = norm(self.config.norm, features, train, self.axis_name, self.dtype, f"norm{i}")(y)
            if i < len(layers):
                y = nn.relu(y)
        shortcut = x_BTC
        if self.stride != 1 or x_BTC.shape[-1] != outer:
            shortcut = conv(outer, 1, self.stride, self.dtype, "shortcut_conv")(shortcut)
            shortcut = norm(self.config.norm, outer, train, self.axis_name, self.dtype, "shortcut_norm")(shortcut)
        return nn.relu(shortcut + Dropout(self.drop_path, whole=True, name="drop_path")(y, keys))


class Pool(nn.Module):
    """Pooling over time; `attention` weights the time steps by a learned score, with equal weights at the start."""

    kind: str

    @nn.compact
    def __call__(self, x_BTC: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, C], or [B, 2 C] for `mean-max`."""
        if self.kind == "mean":
            return x_BTC.mean(axis=1)
        if self.kind == "max":
            return x_BTC.max(axis=1)
        if self.kind == "mean-max":
            return jnp.concatenate([x_BTC.mean(axis=1), x_BTC.max(axis=1)], axis=-1)
        dtype, zeros = x_BTC.dtype, nn.initializers.zeros
        score_BT1 = nn.Dense(1, use_bias=False, kernel_init=zeros, dtype=dtype, param_dtype=dtype, name="score")(x_BTC)
        return (x_BTC * jax.nn.softmax(score_BT1, axis=1)).sum(axis=1)


class ResNet1D(nn.Module):
    """ResNet encoder of ECGs.

    Attributes:
        config: depth, width, stem, kernel, normalisation, pooling, drop-path.
        dtype: compute type; parameters, statistics and features stay at least float32.
        axis_name: device axis over which batch statistics are averaged in training; None: each device uses its own.
        pooling: pooling over time in place of `config.pool`, for towers that add their own.
    """

    config: ResNetConfig
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = AXIS
    pooling: nn.Module | None = None

    @nn.compact
    def __call__(
        self, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Encodes scaled ECGs of any length.

        Args:
            ecg_BTL: float [B, T, leads], already scaled; leads that were not recorded are zero.
            lead_mask_BL: bool [B, leads]; not used, because the zeros of unrecorded leads are enough for convolutions.
            train: use batch statistics, averaged over the device axis, and update the running ones.
            keys: typed PRNG keys [B] for drop-path; None in evaluation.

        Returns:
            Pooled features [B, F], float32 (float64 if computed in float64).
        """
        config = self.config
        x = conv(config.width, 7, 2, self.dtype, "stem_conv")(ecg_BTL)
        x = nn.relu(norm(config.norm, config.width, train, self.axis_name, self.dtype, "stem_norm")(x))
        if config.stem == "conv-pool":
            x = nn.max_pool(x, (3,), (2,), padding=((1, 1),))  # pyright: ignore[reportArgumentType]
        blocks = stage_blocks(config)
        done, outputs = 0, []
        for stage, count in enumerate(blocks):
            for i in range(count):
                x = Block(
                    channels=config.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    drop_path=config.drop_path * done / max(sum(blocks) - 1, 1),
                    config=config,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"stage{stage + 1}_block{i + 1}",
                )(x, train, keys)
                done += 1
            outputs.append(x.astype(at_least_float32(self.dtype)))
            if self.is_mutable_collection(STAGES):
                self.sow(STAGES, f"stage{stage + 1}", summary(outputs[-1]))
        if self.is_mutable_collection(TOKENS) and not self.is_initializing():
            self.sow(TOKENS, TOKENS, outputs[-1])
        if config.pool == "stages" and self.pooling is None:
            return jnp.concatenate([Pool("mean-max")(output) for output in outputs], axis=-1)
        pooling: Any = self.pooling or Pool(config.pool, name="pool")
        return pooling(outputs[-1])


def work(config: ResNetConfig, samples: int, leads: int) -> Work:
    """Counts the work of the forward pass of `ResNet1D` for one ECG, filter taps on padding included."""
    kernel, expansion = config.kernel, EXPANSION[config.depth]
    steps = _strided(samples, 2)
    total, channels = linear(steps, 7 * leads, config.width), config.width
    if config.stem == "conv-pool":
        steps = _strided(steps, 2)
    for stage, count in enumerate(stage_blocks(config)):
        inner = config.width * 2**stage
        outer = inner * expansion
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            before, steps = steps, _strided(steps, stride)
            if expansion == 1:
                total += linear(steps, kernel * channels, inner) + linear(steps, kernel * inner, inner)
            else:
                total += linear(before, channels, inner) + linear(steps, kernel * inner, inner)
                total += linear(steps, inner, outer)
            if stride != 1 or channels != outer:
                total += linear(steps, channels, outer)
            channels = outer
    return replace(total, normalised=total.outputs)  # a normalisation follows every convolution


def _strided(steps: int, stride: int) -> int:
    """Returns the length of the signal after a strided layer."""
    return -(-steps // stride)
