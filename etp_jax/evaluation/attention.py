"""An attention head on the tokens of a frozen encoder: a learned query attends to the last stage over time.

It is the head of the ECG-FM benchmark (V-JEPA's pooling): 16 heads, no biases, AdamW at 1e-3 with weight decay 1e-3,
batches of 64. Its setting is the epoch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.stages import tokens
from etp_jax.evaluation.records import Labelled
from etp_jax.progress import Bar

HEADS, EPOCHS, BATCH = 16, 30, 64
RATE, DECAY, SEED = 1e-3, 1e-3, 0
ENCODED = 64
"""Number of records that are encoded or scored at a time."""

Params = dict[str, Any]
"""`query` [F], `key`, `value` and `mix` [F, F], `out` [F, C]."""


class Heads(NamedTuple):
    """A head after each of its epochs."""

    epochs: list[Params]

    def logits(self, tokens_NTF: NDArray[Any]) -> NDArray[np.float32]:
        """Logits [epochs, N, C] after each epoch."""
        starts = range(0, len(tokens_NTF), ENCODED)
        parts = [[_logits(params, tokens_NTF[i : i + ENCODED]) for i in starts] for params in self.epochs]
        return np.stack([np.concatenate(part) for part in parts])

    def details(self, number: int) -> dict[str, Any]:
        """Epoch of a setting, from 1."""
        return {"epoch": number + 1}


def encode(records: Labelled, encoder: Encoder) -> NDArray[np.float16]:
    """Computes the tokens [n, T, F] of the last stage of records; not cached, as they are large.

    Raises:
      EtpError: the records differ from the encoder's training data, or its tower has no stages.
    """
    encoder.check_signals(records.splits[0].shards)
    parts = []
    for start in Bar(range(0, len(records), ENCODED), desc="tokens", unit="batch"):
        rows = np.arange(start, start + ENCODED) % len(records)  # the last batch wraps: one shape serves all
        parts.append(tokens(encoder, *records.read(rows)).astype(np.float16))
    return np.concatenate(parts)[: len(records)]


def fit(tokens_NTF: NDArray[Any], y_NC: NDArray[np.bool_]) -> Heads:
    """Trains a head for `EPOCHS` epochs on binary cross-entropy, all classes at once."""
    rng = np.random.default_rng(SEED)
    params = initial(rng, tokens_NTF.shape[-1], y_NC.shape[1])
    state = _optimizer().init(params)
    size = min(BATCH, len(y_NC))
    epochs, inputs_NTF, targets_NC = [], jnp.asarray(tokens_NTF), jnp.asarray(y_NC, jnp.float32)
    for _ in Bar(range(EPOCHS), desc="attention head", unit="epoch"):
        rows_SB = rng.permutation(len(y_NC))[: len(y_NC) // size * size].reshape(-1, size)
        params, state = _epoch(params, state, inputs_NTF, targets_NC, rows_SB)
        epochs.append(jax.device_get(params))
    return Heads(epochs)


def initial(rng: np.random.Generator, features: int, classes: int) -> Params:
    """PyTorch's initial weights: linear layers are uniform within 1 / sqrt(features), the query is normal."""
    bound = features**-0.5
    widths = {"key": features, "value": features, "mix": features, "out": classes}
    params = {name: rng.uniform(-bound, bound, (features, width)) for name, width in widths.items()}
    params["query"] = rng.normal(0, bound, features)
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), params)


def logits_of(params: Params, tokens_BTF: jax.Array) -> jax.Array:
    """Logits [B, C] of a head.

    The query is the same for all records, so keys and values need not be computed token by token: the query is
    carried through the key layer, and the value layer is applied to the weighted mean of the tokens.
    """
    features = tokens_BTF.shape[-1]
    heads = math.gcd(HEADS, features)
    key_FHD, value_FHD = (params[name].reshape(features, heads, -1) for name in ("key", "value"))
    query_HD = (params["query"] @ params["mix"]).reshape(heads, -1)
    query_HF = jnp.einsum("hd,fhd->hf", query_HD, key_FHD) * query_HD.shape[1] ** -0.5
    weights_BHT = jax.nn.softmax(jnp.einsum("btf,hf->bht", tokens_BTF, query_HF), axis=-1)
    mean_BHF = jnp.einsum("bht,btf->bhf", weights_BHT, tokens_BTF)
    return jnp.einsum("bhf,fhd->bhd", mean_BHF, value_FHD).reshape(-1, features) @ params["out"]


def _optimizer() -> optax.GradientTransformation:
    return optax.adamw(RATE, weight_decay=DECAY)


@jax.jit
def _logits(params: Params, tokens_BTF: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return logits_of(params, tokens_BTF.astype(jnp.float32))


@partial(jax.jit, donate_argnums=(0, 1))
def _epoch(params: Params, state: Any, tokens_NTF: jax.Array, y_NC: jax.Array, rows_SB: Any) -> tuple[Params, Any]:
    def step(carry: Any, rows_B: Any) -> tuple[Any, None]:
        params, state = carry

        def loss_of(params: Params) -> jax.Array:
            logits_BC = logits_of(params, tokens_NTF[rows_B].astype(jnp.float32))
            return optax.sigmoid_binary_cross_entropy(logits_BC, y_NC[rows_B]).mean()

        updates, state = _optimizer().update(jax.grad(loss_of)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), rows_SB)[0]
