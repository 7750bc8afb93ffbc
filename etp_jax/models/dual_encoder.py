"""The dual encoder: two towers, their projections into the joint space, and the parameters of the score."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax.config import LossConfig, ModelConfig
from etp_jax.losses.scores import SCORES
from etp_jax.models.bert import Bert, BertConfig, pool_tokens
from etp_jax.models.layers import AXIS, Dropout, at_least_float32
from etp_jax.models.towers import TOWERS

LEAST_DEVIATION_MV = 1e-3
"""Added in quadrature to the standard deviation before division, so that a flat lead gives 0. It is one step of the
int16 signal, in mV."""
LEAST_RANGE_MV = 1e-8
"""Added to the range of a record before division by it, as in MERL's code, so that a flat record gives 0."""


def scale_ecg(ecg_BTL: jax.Array, lead_mask_BL: jax.Array, scale: str, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Scales an ECG in µV for the encoder. Unrecorded leads become zero and are left out of all statistics.

    Args:
        ecg_BTL: int16 or float [B, T, leads], µV.
        lead_mask_BL: bool [B, leads], false where the lead was not recorded.
        scale: `EcgConfig.scale`.
        dtype: type of the result, float32 or float64.

    Returns:
        [B, T, leads].
    """
    x_BTL = ecg_BTL.astype(dtype) / 1000
    live_B1L = lead_mask_BL[:, None, :]
    if scale == "min-max":
        live_BTL = jnp.broadcast_to(live_B1L, x_BTL.shape)
        low = jnp.min(x_BTL, axis=(1, 2), keepdims=True, where=live_BTL, initial=jnp.inf)
        high = jnp.max(x_BTL, axis=(1, 2), keepdims=True, where=live_BTL, initial=-jnp.inf)
        x_BTL = (x_BTL - low) / (high - low + LEAST_RANGE_MV)
    elif scale != "millivolt":
        axes = (1, 2) if scale == "record" else (1,)
        live_BTL = jnp.broadcast_to(live_B1L, x_BTL.shape)
        mean = jnp.mean(x_BTL, axis=axes, keepdims=True, where=live_BTL)
        x_BTL = x_BTL - mean
        variance = jnp.mean(x_BTL**2, axis=axes, keepdims=True, where=live_BTL)
        x_BTL = x_BTL * jax.lax.rsqrt(variance + LEAST_DEVIATION_MV**2)
    return jnp.where(live_B1L, x_BTL, 0)


def normalize(x_BE: jax.Array) -> jax.Array:
    """Scales rows to unit length; a zero row stays zero."""
    return x_BE * jax.lax.rsqrt(jnp.maximum(jnp.sum(x_BE**2, axis=-1, keepdims=True), 1e-12))


class Projection(nn.Module):
    """Projection of a tower's features to the joint space.

    Attributes:
        config: width of the joint space, and dropout.
        dtype: compute type and type of the parameters.
        kind: `linear`: one linear layer; `mlp`: two with a GELU in between; `pooler-mlp`: BERT's pooler, then `mlp`.
            Empty: `config.projection`.
    """

    config: ModelConfig
    dtype: DTypeLike
    kind: str = ""

    @nn.compact
    def __call__(self, x_BF: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps [B, F] to unit vectors [B, E]."""

        def linear(name: str, width: int = self.config.embedding_dim) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, param_dtype=self.dtype, name=name)

        kind = self.kind or self.config.projection

        x_BF = Dropout(self.config.projection_dropout, name="dropout")(x_BF.astype(self.dtype), keys)
        if kind == "pooler-mlp":
            x_BF = nn.tanh(linear("pooler", x_BF.shape[-1])(x_BF))
        if kind != "linear":
            x_BF = nn.gelu(linear("hidden")(x_BF), approximate=False)
        return normalize(linear("linear")(x_BF))


class EcgEncoder(nn.Module):
    """ECG tower with its projection: the ECG half of `DualEncoder`, which can also be used in other training code.

    Parameters: `ecg_tower`, `ecg_projection`, as in `DualEncoder`.

    Attributes:
        config: both towers and the joint space.
        dtype: compute type of the tower; projection and embeddings stay at least float32.
        axis_name: device axis over which batch statistics are averaged in training, for `pmap` and `shard_map`. None,
            for plain `jit`, uses the statistics of the given batch; they are global if the batch is a sharded array.
    """

    config: ModelConfig
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        """Creates the submodules."""
        tower = TOWERS[self.config.ecg.kind]
        self.ecg_tower: Any = tower.module(self.config.ecg, self.dtype, self.axis_name)
        self.ecg_projection = Projection(self.config, at_least_float32(self.dtype))

    def __call__(
        self, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes ECGs.

        Args:
            ecg_BTL: int16 (or float, when augmented) [B, T, leads], µV.
            lead_mask_BL: bool [B, leads], false where the lead was not recorded.
            train: use the batch statistics, and update the running statistics (`mutable=["batch_stats"]`).
            keys: typed PRNG keys [B] for drop-path and dropout; None in evaluation.

        Returns:
            Features [B, F] before the projection and unit embeddings [B, E], float32.
        """
        x_BTL = scale_ecg(ecg_BTL, lead_mask_BL, self.config.ecg.scale, at_least_float32(self.dtype))
        features_BF = self.ecg_tower(x_BTL, lead_mask_BL, train, keys)
        return features_BF, self.ecg_projection(features_BF, keys)


class DualEncoder(nn.Module):
    """ECG tower and text tower with their projections into the joint space.

    Parameters: `ecg_tower`, `ecg_projection`, `text_tower` (absent if frozen), `text_projection`, `logit_scale`
    (logarithm of the scale) and, if the loss has one, `logit_bias`.

    Attributes:
        config: both towers and the joint space.
        bert: sizes of the text tower, or None when it is frozen and its outputs come from the report table.
        text_dim: width of the text tower's output.
        dtype: compute type of the towers; projections, embeddings and the score's parameters stay at least float32.
        loss: loss options; they set the initial temperature and whether there is a bias.
        platform: platform of the devices; `gpu` permits the text tower's attention kernel for NVIDIA GPUs.
    """

    config: ModelConfig
    bert: BertConfig | None
    text_dim: int
    dtype: DTypeLike = jnp.float32
    loss: LossConfig = LossConfig()
    platform: str = "cpu"

    def setup(self) -> None:
        """Creates the submodules and the parameters of the score."""
        exact = at_least_float32(self.dtype)
        self.ecg = EcgEncoder(self.config, self.dtype, AXIS)
        nn.share_scope(self, self.ecg)  # puts its parameters at the top level, not under `ecg`
        if self.bert is not None:
            text = self.config.text
            self.text_tower = Bert(self.bert, self.dtype, text.remat, text.scan, text.fused_attention, self.platform)
        self.text_projection = Projection(self.config, exact, self.config.text_projection.removeprefix("same"))
        scale = math.log(1 / self.loss.temperature)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(scale), (), exact)
        if SCORES[self.loss.score].bias and self.loss.bias is not None:
            # SigLIP (arXiv 2303.15343), section 3.2: training starts near the prior, as almost all pairs are negative.
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.loss.bias), (), exact)

    def encode_ecg(
        self, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes ECGs like `EcgEncoder`; in training it must run under the device axis `AXIS`."""
        return self.ecg(ecg_BTL, lead_mask_BL, train, keys)

    def encode_text(self, text: jax.Array | dict[str, jax.Array], keys: jax.Array | None = None) -> jax.Array:
        """Encodes reports.

        Args:
            text: outputs of the frozen tower, float [B, text_dim]; or input of the trained one, {"input_ids",
                "attention_mask"}, both int [B, S].
            keys: typed PRNG keys [B] for dropout; None in evaluation.

        Returns:
            Unit embeddings [B, E], float32.
        """
        if isinstance(text, dict):
            hidden_BSH = self.text_tower(text["input_ids"], text["attention_mask"], keys)
            text = pool_tokens(hidden_BSH, text["attention_mask"], self.config.text.pool)
        return self.text_projection(text, keys)

    def __call__(
        self, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, text: jax.Array | dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Returns both embeddings in evaluation mode. It uses every parameter, as `init` needs."""
        return self.encode_ecg(ecg_BTL, lead_mask_BL)[1], self.encode_text(text)


@partial(jax.jit, static_argnums=0)
def _init(model: DualEncoder, key: jax.Array, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, text: Any) -> Any:
    """Runs `model.init`, compiled once for all keys."""
    return model.init(key, ecg_BTL, lead_mask_BL, text)


def init_variables(
    model: DualEncoder, key: jax.Array, samples: int, leads: int, text_params: Any = None
) -> dict[str, Any]:
    """Returns the initial {"params", "batch_stats"}; `text_params` are the text tower's pretrained weights, if any."""
    drawn = model.clone(bert=None) if text_params is not None else model
    ecg_BTL = jnp.zeros((1, samples, leads), jnp.int16)
    lead_mask_BL = jnp.ones((1, leads), bool)
    tokens_BS = jnp.zeros((1, 8), jnp.int32)
    vector_BD = jnp.zeros((1, model.text_dim))
    text = vector_BD if drawn.bert is None else {"input_ids": tokens_BS, "attention_mask": tokens_BS}
    variables = _init(drawn, key, ecg_BTL, lead_mask_BL, text)
    params = dict(variables["params"])
    exact = at_least_float32(model.dtype)
    if text_params is not None:
        params["text_tower"] = jax.tree.map(lambda x: jnp.asarray(x, exact), text_params)
    # Flax initialises running statistics in float32 whatever the type of the parameters. The first step would change
    # that type, and a checkpoint restored into the initial type would be rounded.
    batch_stats = jax.tree.map(lambda x: x.astype(exact), variables.get("batch_stats", {}))
    return {"params": params, "batch_stats": batch_stats}
