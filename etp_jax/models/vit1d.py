"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) whose patches are segments of single leads.

The default sizes are those of FOCAL's official code (arXiv 2505.11939 v3): width 192, 12 layers, 3 heads, one patch
per second and lead, mean pooling. The position in time is a fixed sinusoidal encoding, so records may have any length.
The lead is encoded by a learned vector.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax.config import ViTConfig
from etp_jax.errors import EtpError
from etp_jax.models.layers import AXIS, Dropout, at_least_float32
from etp_jax.models.work import Work, linear, transformer_layer


def time_code(count: int, width: int, dtype: DTypeLike) -> jax.Array:
    """Sinusoidal position encoding [count, width], at geometric rates (Vaswani et al. 2017, section 3.5)."""
    rate_W = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2))
    angle_NW = jnp.arange(count)[:, None] * rate_W
    return jnp.concatenate([jnp.sin(angle_NW), jnp.cos(angle_NW)], axis=1).astype(dtype)


class Block(nn.Module):
    """Transformer block: attention and a feed-forward layer, each with normalised input (pre-norm) and a residual."""

    heads: int
    drop_path: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BSW: jax.Array, token_mask_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps [B, S, W] to [B, S, W]; no token attends to masked tokens."""
        width = x_BSW.shape[-1]

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(1e-6, dtype=self.dtype, param_dtype=at_least_float32(self.dtype), name=name)

        def linear(size: int, name: str) -> nn.Dense:
            kernel = nn.initializers.truncated_normal(0.02)
            exact = at_least_float32(self.dtype)
            return nn.Dense(size, kernel_init=kernel, dtype=self.dtype, param_dtype=exact, name=name)

        def residual(y_BSW: jax.Array, name: str) -> jax.Array:
            return Dropout(self.drop_path, whole=True, name=name)(y_BSW, keys)

        qkv_BS3 = linear(3 * width, "qkv")(norm("norm1")(x_BSW))
        query, key, value = (
            part.reshape(*part.shape[:2], self.heads, width // self.heads) for part in jnp.split(qkv_BS3, 3, axis=-1)
        )
        mixed = jax.nn.dot_product_attention(query, key, value, mask=token_mask_BS[:, None, None, :])
        x_BSW = x_BSW + residual(linear(width, "attention")(mixed.reshape(x_BSW.shape)), "drop_path1")
        y_BSW = nn.gelu(linear(4 * width, "mlp1")(norm("norm2")(x_BSW)), approximate=False)
        return x_BSW + residual(linear(width, "mlp2")(y_BSW), "drop_path2")


class Vit1D(nn.Module):
    """Transformer encoder of ECGs, over patches of single leads.

    Attributes:
        config: patch, width, layers, heads, drop-path.
        dtype: compute type; parameters, statistics and features stay at least float32.
        axis_name: device axis; not used, because there are no statistics over examples.
    """

    config: ViTConfig
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = AXIS

    @nn.compact
    def __call__(
        self, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Encodes scaled ECGs.

        Args:
            ecg_BTL: float [B, T, leads], already scaled; T is a multiple of the patch.
            lead_mask_BL: bool [B, leads]; the patches of unrecorded leads are masked.
            train: not used, because there are no batch statistics.
            keys: typed PRNG keys [B] for drop-path; None in evaluation.

        Returns:
            Features [B, width], the mean over the patches, float32 (float64 if computed in float64).

        Raises:
            EtpError: the patch does not divide the record.
        """
        config, exact = self.config, at_least_float32(self.dtype)
        batch, samples, leads = ecg_BTL.shape
        if samples % config.patch:
            raise EtpError(f"model.ecg.patch is {config.patch}, which does not divide records of {samples} samples")
        count, width = samples // config.patch, config.width
        patches = ecg_BTL.astype(self.dtype).reshape(batch, count, config.patch, leads).transpose(0, 3, 1, 2)
        x = nn.Dense(width, dtype=self.dtype, param_dtype=exact, name="patch")(patches)
        lead_LW = self.param("lead", nn.initializers.normal(0.02), (leads, width), exact)
        x = x + time_code(count, width, self.dtype) + lead_LW[:, None].astype(self.dtype)
        x_BSW = x.reshape(batch, leads * count, width)
        token_mask_BS = jnp.repeat(lead_mask_BL, count, axis=1)
        for i in range(config.layers):
            drop_path = config.drop_path * i / max(config.layers - 1, 1)
            x_BSW = Block(config.heads, drop_path, self.dtype, name=f"block{i + 1}")(x_BSW, token_mask_BS, keys)
        x_BSW = nn.LayerNorm(1e-6, dtype=self.dtype, param_dtype=exact, name="norm")(x_BSW).astype(exact)
        return x_BSW.mean(axis=1, where=token_mask_BS[..., None])


def work(config: ViTConfig, samples: int, leads: int) -> Work:
    """Counts the work of the forward pass of `Vit1D` for one ECG."""
    tokens, width = leads * (samples // config.patch), config.width
    return linear(tokens, config.patch, width) + transformer_layer(tokens, width, 4 * width) * config.layers
