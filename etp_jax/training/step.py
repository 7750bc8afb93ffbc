"""One training step of one device. It is a pure function that depends on the device layout only by the axis name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.losses.contrastive import Embeddings, contrastive_loss
from etp_jax.losses.pairs import check_loss, needs_tower
from etp_jax.models.dual_encoder import DualEncoder
from etp_jax.models.layers import AXIS
from etp_jax.training import optim
from etp_jax.training.augment import augment
from etp_jax.training.grad_cache import value_and_grad

Tree = Any
Metrics = dict[str, jax.Array]
MEAN = "semantic_mean"
"""Name of the mean of the semantic table, which is no row of it."""
COIN = 7
"""Number by which the coin's key is derived from the key of augmentation, which uses 0 to 6 itself."""


@struct.dataclass
class TrainState:
    """Everything that changes in training; random keys and order follow from the seed and `step`."""

    step: jax.Array
    """int32, number of steps done."""
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    """State of the optimiser, for the learned parameters only."""
    ema: Tree
    """Moving average of `params`, or None."""


def compute_dtype(precision: str, platform: str) -> jnp.dtype:
    """Returns the type of `run.precision`; `auto` is bfloat16 on TPU and GPU and float32 on CPU."""
    if precision == "auto":
        precision = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(precision)


def init_state(variables: Tree, optimizer: optax.GradientTransformation, config: TrainConfig) -> TrainState:
    """Builds the state before the first step from the model's {"params", "batch_stats"}."""
    params = variables["params"]
    # Compiled as a whole: alone, every shape of an array is a program of its own.
    opt_state = jax.jit(optimizer.init)(optim.take(params, optim.trainable(params, config)))
    copied = jax.jit(partial(jax.tree.map, jnp.copy))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=opt_state,
        ema=copied(params) if config.optim.ema > 0 else None,
    )


@struct.dataclass
class TokenTable:
    """Tokens of all reports on the devices, in rows of whole tiles: a TPU copies any other table at every dispatch."""

    words_RW: Any
    """int32, twice the id of each token, plus 1 where the token is attended; zeros fill the row."""
    tokens: int = struct.field(pytree_node=False)
    """Tokens of a row; the others are filling."""

    @classmethod
    def of(cls, input_ids_RS: Any, attention_mask_RS: Any) -> TokenTable:
        """Packs the tokens of `build.text_inputs`."""
        tokens = input_ids_RS.shape[1]
        return cls(np.pad(2 * input_ids_RS + attention_mask_RS, ((0, 0), (0, -tokens % 128))), tokens)

    def unpacked(self) -> dict[str, jax.Array]:
        """Returns {"input_ids", "attention_mask"}, [R, S]."""
        words_RS = self.words_RW[:, : self.tokens]
        return {"input_ids": words_RS >> 1, "attention_mask": words_RS & 1}


def device_texts(texts: Mapping[str, Any], precision: str = "float32") -> dict[str, Any]:
    """Gives the tables of `build.text_inputs` the form that they have on the devices.

    Args:
        texts: tokens are packed, a tower's outputs are rounded to `precision`, their mean is not.
        precision: `model.text.precision`.
    """
    rest = {name: x for name, x in texts.items() if name not in ("input_ids", "attention_mask")}
    if precision == "bfloat16":
        rest = {name: x if name == MEAN else np.asarray(x, jnp.bfloat16) for name, x in rest.items()}
    if "input_ids" not in texts:
        return rest
    return {**rest, "tokens": TokenTable.of(texts["input_ids"], texts["attention_mask"])}


def rows_only(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables that have a row for each report."""
    return {name: x for name, x in texts.items() if name != MEAN}


def kept_anyway(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what stays on the devices if the rows of the report table are sent with the batches."""
    return {name: x for name, x in texts.items() if name == MEAN}


def text_rows(texts: Mapping[str, Any], batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the rows of the report table for a batch: those sent with it, or else those of its reports by number."""
    if "texts" in batch:
        return {**batch["texts"], **kept_anyway(texts)}
    return {**jax.tree.map(lambda x: x[batch["report"]], rows_only(texts)), **kept_anyway(texts)}


def text_input(rows: Mapping[str, Any]) -> Any:
    """Returns the input of the model's `encode_text` from `text_rows`: cached outputs, or tokens."""
    if "embeddings" in rows:
        return rows["embeddings"]
    if "tokens" in rows:
        return rows["tokens"].unpacked()
    return {name: rows[name] for name in ("input_ids", "attention_mask")}


def example_keys(seed: int, step: jax.Array, position_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Derives keys [b] for augmentation and for dropout from the seed, the step and the row of the global batch."""
    # The generator is named, because with others (JAX_DEFAULT_PRNG_IMPL) vmapped draws depend on the other rows.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    keys_b2 = jax.vmap(lambda position: jax.random.split(jax.random.fold_in(key, position)))(position_b)
    return keys_b2[:, 0], keys_b2[:, 1]


def read_rows(texts: Mapping[str, Any], batch: Mapping[str, Any], keys_b: jax.Array, share: float) -> Mapping[str, Any]:
    """Returns the rows of the reports that the examples read; with two to choose from, by a coin.

    Args:
        texts: the report table.
        batch: this device's part of a batch of `batches.Batches`.
        keys_b: keys of augmentation; the coin's are derived from them.
        share: probability of the restored report, `data.restored_share`.
    """
    if "plain" not in batch:
        return text_rows(texts, batch)
    restored_b = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, COIN), share))(keys_b)
    if "texts" not in batch:
        return text_rows(texts, {"report": jnp.where(restored_b, batch["report"], batch["plain"])})

    def choose(restored: jax.Array, plain: jax.Array) -> jax.Array:
        return jnp.where(restored_b.reshape(-1, *[1] * (restored.ndim - 1)), restored, plain)

    return jax.tree.map(choose, batch["texts"], batch["plain_texts"])


def make_train_step(
    model: DualEncoder,
    optimizer: optax.GradientTransformation,
    schedule: optim.Schedule,
    config: TrainConfig,
    fs: int,
    platform: str,
) -> Callable[[TrainState, dict[str, jax.Array], dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    """Builds the training step.

    Args:
        model: both towers.
        optimizer: optimiser from `optim.make_optimizer`.
        schedule: learning-rate schedule from the same call.
        config: config of the run.
        fs: sampling rate of the ECGs, Hz.
        platform: platform of the devices that run the step, `Parallel.platform`.

    Returns:
        `train_step(state, batch, texts)`, which must run under the axis `AXIS`. `batch` is a device's part of a batch
        of `batches.Batches`. `texts` is the whole report table: {"embeddings" [R, D]} of a frozen tower, or
        {"input_ids", "attention_mask"} [R, S] or as `device_texts` packs them, with "semantic" [R, D] for `semantic`
        pairs, and "semantic_mean" [D] for centred ones; it is not read for rows that `batch` has as "texts". The step
        returns the next state and scalars: loss,
        ecg_to_text_recall_1, text_to_ecg_recall_1, logit_scale, grad_norm (before clipping), learning_rate.

    Raises:
        EtpError: pairs or score are unknown, or there is less than one micro-batch. The step itself raises it when
            micro-batches do not divide its batch.
    """
    loss_config = config.loss
    check_loss(loss_config)
    if config.optim.micro_batches < 1:
        raise EtpError(f"optim.micro_batches is {config.optim.micro_batches}; it must be at least 1")

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], texts: dict[str, jax.Array]
    ) -> tuple[TrainState, Metrics]:
        semantic_bD = semantic_rows(text_rows(texts, batch)) if needs_tower(loss_config) else None
        mask = optim.trainable(state.params, config)
        fixed = optim.take(state.params, mask, learned=False)

        def encode(learned: Tree, rows: dict[str, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], Tree]:
            augment_keys, dropout_keys = example_keys(config.seed, state.step, rows["position"])
            ecg_bTL, lead_mask_bL = augment(rows["ecg"], rows["lead_mask"], augment_keys, config.augment, fs)
            variables = {"params": optim.merge(learned, fixed), "batch_stats": state.batch_stats}
            (_, ecg_bE), updated = model.apply(
                variables, ecg_bTL, lead_mask_bL, True, dropout_keys, method="encode_ecg", mutable=["batch_stats"]
            )
            text = text_input(read_rows(texts, rows, augment_keys, config.data.restored_share))
            text_bE: Any = model.apply(variables, text, dropout_keys, method="encode_text")
            return (ecg_bE, text_bE), updated.get("batch_stats", {})

        def loss_of(learned: Tree, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Metrics]:
            params, embeddings = optim.merge(learned, fixed), Embeddings(*rows, batch["report"])
            scale, bias = jnp.exp(params["logit_scale"]), params.get("logit_bias")
            return contrastive_loss(embeddings, loss_config, scale, bias, semantic_bD, AXIS)

        learned = optim.take(state.params, mask)
        (loss, (metrics, batch_stats)), grads = value_and_grad(
            encode, loss_of, learned, batch, config.optim.micro_batches, platform
        )
        loss, metrics, grads = jax.lax.pmean((loss, metrics, grads), AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, learned)
        params = optim.merge(optax.apply_updates(learned, updates), fixed)
        # Clamped here, not inside the loss: there the clamp would also stop the gradient back below the limit.
        limit = jnp.log(loss_config.max_logit_scale).astype(params["logit_scale"].dtype)
        params["logit_scale"] = jnp.minimum(params["logit_scale"], limit)
        metrics |= {
            "loss": loss,
            "logit_scale": jnp.exp(state.params["logit_scale"]),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        ema = None if state.ema is None else average(state.ema, params, config.optim.ema, state.step)
        after = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        if config.run.skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            unchanged = dataclasses.replace(state, step=after.step)
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, unchanged)
        return after, metrics

    return train_step


def semantic_table(texts: Mapping[str, Any]) -> Any:
    """Returns the text tower's outputs before training [R, D]; for a frozen tower they are the model's input."""
    return texts["semantic"] if "semantic" in texts else texts["embeddings"]


def semantic_rows(rows: Mapping[str, Any]) -> Any:
    """Returns the vectors [b, D] from which the similarities of reports are computed; centred if there is a mean.

    Args:
        rows: result of `text_rows`.
    """
    rows_bD = semantic_table(rows)
    return rows_bD - rows[MEAN] if MEAN in rows else rows_bD


def semantic_mean(texts: Mapping[str, Any], report_N: Any) -> dict[str, Any]:
    """Returns {"semantic_mean"} [D], the mean of `semantic_table` over the distinct reports among N numbers."""
    table_RD = semantic_table(texts)
    return {MEAN: table_RD[np.unique(report_N)].mean(axis=0, dtype=np.float64).astype(table_RD.dtype)}


def average(ema: Tree, params: Tree, decay: float, step: jax.Array) -> Tree:
    """Updates the exponential moving average. The decay starts lower, so that the initial weights fade quickly."""
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + ((1 - decay_now) * (p - e)).astype(e.dtype), ema, params)


def make_eval_step(model: DualEncoder) -> Callable[..., dict[str, jax.Array]]:
    """Builds `eval_step(params, batch_stats, batch, texts)`, which computes unit embeddings `ecg` and `text` [b, E]."""

    def eval_step(
        params: Tree, batch_stats: Tree, batch: dict[str, jax.Array], texts: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        variables = {"params": params, "batch_stats": batch_stats}
        encoded: Any = model.apply(variables, batch["ecg"], batch["lead_mask"], method="encode_ecg")
        text: Any = model.apply(variables, text_input(text_rows(texts, batch)), method="encode_text")
        return {"ecg": encoded[1], "text": text}

    return eval_step
