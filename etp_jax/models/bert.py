"""BERT (Devlin et al. 2019, arXiv 1810.04805) in Flax, with the parameter names of Hugging Face's Flax model.

The names are of the form `encoder/layer/0/attention/self/query/kernel`, so `huggingface.py` loads published weights
with a few renaming rules. The model is limited to what a report encoder needs: absolute positions, one segment, no
pooler, no heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax.models.layers import Dropout, at_least_float32

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT. Names follow Hugging Face's `config.json`, except that there is one dropout rate, not two."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    dropout: float = 0.0


def dense(features: int, config: BertConfig, dtype: DTypeLike, name: str) -> nn.Dense:
    """Linear layer with BERT's initial weights."""
    return nn.Dense(
        features,
        kernel_init=nn.initializers.normal(config.initializer_range),
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        name=name,
    )


def layer_norm(config: BertConfig, dtype: DTypeLike) -> nn.LayerNorm:
    """Layer normalisation in float32; the variance is computed about the mean (two passes)."""
    return nn.LayerNorm(
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        name="LayerNorm",
    )


class Embeddings(nn.Module):
    """Word + position + segment embeddings, normalised."""

    config: BertConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, input_ids_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Embeds token ids [B, S] as [B, S, H]."""
        config = self.config

        def table(size: int, name: str) -> nn.Embed:
            return nn.Embed(
                size,
                config.hidden_size,
                embedding_init=nn.initializers.normal(config.initializer_range),
                dtype=self.dtype,
                param_dtype=at_least_float32(self.dtype),
                name=name,
            )

        positions_S = jnp.arange(input_ids_BS.shape[1])
        x_BSH = (
            table(config.vocab_size, "word_embeddings")(input_ids_BS)
            + table(config.max_position_embeddings, "position_embeddings")(positions_S)[None]
            + table(config.type_vocab_size, "token_type_embeddings")(jnp.zeros_like(input_ids_BS))
        )
        return Dropout(config.dropout, name="dropout")(layer_norm(config, self.dtype)(x_BSH), keys)


class SelfAttention(nn.Module):
    """Multi-head attention before its output projection."""

    config: BertConfig
    dtype: DTypeLike
    kernel: Literal["xla", "cudnn"] | None

    @nn.compact
    def __call__(self, x_BSH: jax.Array, attention_mask_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Attends to the positions where the mask is set; maps [B, S, H] to [B, S, H]."""
        heads = self.config.num_attention_heads
        width = self.config.hidden_size // heads

        def split(name: str) -> jax.Array:
            y = dense(self.config.hidden_size, self.config, self.dtype, name)(x_BSH)
            return y.reshape(*y.shape[:2], heads, width)

        query, key, value = split("query"), split("key"), split("value")
        if self.kernel is not None and (keys is None or self.config.dropout == 0):
            # cuDNN accepts no column mask. Padding is at the end, so sequence lengths are enough.
            lengths_B = attention_mask_BS.sum(axis=1, dtype=jnp.int32)
            y = jax.nn.dot_product_attention(
                query, key, value, key_value_seq_lengths=lengths_B, implementation=self.kernel
            )
            return y.reshape(x_BSH.shape)
        scores_BNSS = jnp.einsum("bqnd,bknd->bnqk", query, key) / width**0.5
        # The softmax is in float32: bfloat16 would lose the padding mask and small weights.
        scores_BNSS = scores_BNSS.astype(at_least_float32(self.dtype))
        blocked = jnp.finfo(scores_BNSS.dtype).min
        weights_BNSS = jax.nn.softmax(jnp.where(attention_mask_BS[:, None, None, :] != 0, scores_BNSS, blocked))
        weights_BNSS = Dropout(self.config.dropout, name="dropout")(weights_BNSS.astype(self.dtype), keys)
        return jnp.einsum("bnqk,bknd->bqnd", weights_BNSS, value).reshape(x_BSH.shape)


class Output(nn.Module):
    """Projection back to the residual stream, then normalisation of the sum (post-norm)."""

    config: BertConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, y: jax.Array, residual_BSH: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Adds the projected `y` to the residual stream [B, S, H]."""
        y_BSH = dense(self.config.hidden_size, self.config, self.dtype, "dense")(y)
        y_BSH = Dropout(self.config.dropout, name="dropout")(y_BSH, keys)
        return layer_norm(self.config, self.dtype)(y_BSH + residual_BSH)


class Attention(nn.Module):
    """Self-attention with its output projection."""

    config: BertConfig
    dtype: DTypeLike
    kernel: Literal["xla", "cudnn"] | None

    @nn.compact
    def __call__(self, x_BSH: jax.Array, attention_mask_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps [B, S, H] to [B, S, H]."""
        y_BSH = SelfAttention(self.config, self.dtype, self.kernel, name="self")(x_BSH, attention_mask_BS, keys)
        return Output(self.config, self.dtype, name="output")(y_BSH, x_BSH, keys)


class Layer(nn.Module):
    """One transformer layer."""

    config: BertConfig
    dtype: DTypeLike
    kernel: Literal["xla", "cudnn"] | None

    @nn.compact
    def __call__(self, x_BSH: jax.Array, attention_mask_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps [B, S, H] to [B, S, H]."""
        config = self.config
        x_BSH = Attention(config, self.dtype, self.kernel, name="attention")(x_BSH, attention_mask_BS, keys)
        y = Intermediate(config, self.dtype, name="intermediate")(x_BSH)
        return Output(config, self.dtype, name="output")(y, x_BSH, keys)


class Intermediate(nn.Module):
    """First half of the feed-forward layer."""

    config: BertConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BSH: jax.Array) -> jax.Array:
        """Maps [B, S, H] to [B, S, intermediate size]."""
        y = dense(self.config.intermediate_size, self.config, self.dtype, "dense")(x_BSH)
        return ACTIVATIONS[self.config.hidden_act](y)


class Layers(nn.Module):
    """Stack of transformer layers, each named by its number."""

    config: BertConfig
    dtype: DTypeLike
    remat: bool
    scan: bool
    kernel: Literal["xla", "cudnn"] | None

    @nn.compact
    def __call__(self, x_BSH: jax.Array, attention_mask_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps [B, S, H] to [B, S, H]."""
        numbers = range(self.config.num_hidden_layers)
        if not self.scan or self.is_initializing():
            layer = nn.remat(Layer) if self.remat else Layer
            for i in numbers:
                x_BSH = layer(self.config, self.dtype, self.kernel, name=str(i))(x_BSH, attention_mask_BS, keys)
            return x_BSH

        def stack(*each: jax.Array) -> jax.Array:
            """Stacks kernels in the type in which they are used: fewer bytes in bfloat16, the same rounding."""
            return jnp.stack([array.astype(self.dtype) for array in each] if each[0].ndim > 1 else each)

        # Parameters are stacked in every step, so they keep their names.
        layers = jax.tree.map(stack, *(self.variables["params"][str(i)] for i in numbers))
        layer = Layer(self.config, self.dtype, self.kernel, parent=None)

        def turn(x_BSH: jax.Array, numbered: tuple[jax.Array, Any]) -> tuple[jax.Array, None]:
            number, params = numbered
            own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            y_BSH: Any = layer.apply({"params": params}, x_BSH, attention_mask_BS, own)
            return y_BSH, None

        return jax.lax.scan(jax.checkpoint(turn) if self.remat else turn, x_BSH, (jnp.asarray(numbers), layers))[0]


class Encoder(nn.Module):
    """Wrapper that gives the parameters Hugging Face's path `encoder/layer/...`."""

    config: BertConfig
    dtype: DTypeLike
    remat: bool
    scan: bool
    kernel: Literal["xla", "cudnn"] | None

    @nn.compact
    def __call__(self, x_BSH: jax.Array, attention_mask_BS: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps [B, S, H] to [B, S, H]."""
        layers = Layers(self.config, self.dtype, self.remat, self.scan, self.kernel, name="layer")
        return layers(x_BSH, attention_mask_BS, keys)


class Bert(nn.Module):
    """Encoder of BERT.

    Attributes:
        config: sizes.
        dtype: compute type; parameters and softmax stay at least float32.
        remat: keep only the input of each layer for the gradient, and recompute the inside of the layer.
        scan: compile one layer and loop over all; the dropout masks differ from those without `scan`.
        fused_attention: compute attention with `jax.nn.dot_product_attention` where it has no dropout. In bfloat16 on
            NVIDIA GPUs this is a cuDNN kernel. Its softmax is float32 even in float64.
        platform: platform of the devices; `gpu` permits the cuDNN kernel.
    """

    config: BertConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False
    fused_attention: bool = False
    platform: str = "cpu"

    @nn.compact
    def __call__(
        self, input_ids_BS: jax.Array, attention_mask_BS: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Encodes tokens.

        Args:
            input_ids_BS: token ids, int [B, S], S at most `max_position_embeddings`.
            attention_mask_BS: int or bool [B, S], zero at padding.
            keys: typed PRNG keys [B] for dropout; None in evaluation.

        Returns:
            Last hidden states [B, S, H] in the compute type.
        """
        x_BSH = Embeddings(self.config, self.dtype, name="embeddings")(input_ids_BS, keys)
        cudnn = self.platform == "gpu" and jnp.dtype(self.dtype) == jnp.bfloat16
        kernel = None if not self.fused_attention else "cudnn" if cudnn else "xla"
        encoder = Encoder(self.config, self.dtype, self.remat, self.scan, kernel, name="encoder")
        return encoder(x_BSH, attention_mask_BS, keys)


def pool_tokens(hidden_BSH: jax.Array, attention_mask_BS: jax.Array, pool: str) -> jax.Array:
    """Pools hidden states to [B, H]: `cls` takes the first token, `mean` averages over the unmasked tokens."""
    hidden_BSH = hidden_BSH.astype(at_least_float32(hidden_BSH.dtype))
    if pool == "cls":
        return hidden_BSH[:, 0]
    mask_BS1 = (attention_mask_BS != 0).astype(hidden_BSH.dtype)[..., None]
    return (hidden_BSH * mask_BS1).sum(axis=1) / jnp.maximum(mask_BS1.sum(axis=1), 1)
