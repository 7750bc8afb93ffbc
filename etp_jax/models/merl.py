"""MERL's ECG tower (arXiv 2403.06659): a ResNet whose time steps are pooled by the attention of a class token.

Layers and sizes are those of its public code: a 1x1 convolution, learned positions, and one layer of multi-head
attention of which only the class token's output is used. The linear layer after it is the projection.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax.config import MerlConfig
from etp_jax.models import resnet1d
from etp_jax.models.resnet1d import EXPANSION, ResNet1D, stage_blocks
from etp_jax.models.work import Work, linear


class ClassTokenPool(nn.Module):
    """Pooling over time by the attention of a learned class token; the number of time steps is fixed by `init`.

    Attributes:
        width: width of the token and of the time steps, after a linear layer.
        heads: number of attention heads.
    """

    width: int
    heads: int

    @nn.compact
    def __call__(self, x_BTC: jax.Array) -> jax.Array:
        """Maps [B, T, C] to [B, width]."""
        dtype, normal = x_BTC.dtype, nn.initializers.normal
        x_BTF = nn.Dense(self.width, dtype=dtype, param_dtype=dtype, name="down")(x_BTC)
        token_F: Any = self.param("class_token", normal(1.0), (self.width,), dtype)
        shape = x_BTF.shape[1] + 1, self.width
        position_SF: Any = self.param("position", normal(1 / self.width), shape, dtype)
        # MERL's code adds the first position twice: to the token alone, and to the token among all steps.
        first_B1F = jnp.broadcast_to(token_F + position_SF[0], (len(x_BTF), 1, self.width))
        x_BSF = jnp.concatenate([first_B1F, x_BTF], axis=1) + position_SF
        attention = nn.MultiHeadDotProductAttention(self.heads, dtype=dtype, param_dtype=dtype, name="attention")
        return attention(x_BSF[:, :1], x_BSF)[:, 0]


def tower(config: MerlConfig, dtype: DTypeLike, axis_name: str | None) -> ResNet1D:
    """Makes the tower."""
    pooling = ClassTokenPool(config.attention_width, config.attention_heads, parent=None)
    return ResNet1D(config.resnet, dtype, axis_name, pooling)


def work(config: MerlConfig, samples: int, leads: int) -> Work:
    """Counts the work of the forward pass of one ECG."""
    stages = len(stage_blocks(config.resnet))
    width, steps = config.attention_width, -(-samples // 2**stages)
    channels = config.width * 2 ** (stages - 1) * EXPANSION[config.depth]
    total = resnet1d.work(config.resnet, samples, leads) + linear(steps, channels, width)
    total += linear(2 * (steps + 1), width, width) + linear(2, width, width)  # keys and values; query and output
    return total + Work(2 * 2 * (steps + 1) * width, width)
