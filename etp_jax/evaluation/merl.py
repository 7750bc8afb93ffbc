"""The linear probe as MERL's code fits and reports it; beside the honest probe it shows the effect of its quirks.

These are the quirks of `finetune/main_single.py` in cheliu-computation/MERL-ICML2024, which later benchmarks copy:
  - Selection on test: the scored split is evaluated after each of 100 epochs, and the highest AUROC is reported; the
    validation split is not used. F1's thresholds maximise F1 on the scored records themselves, epoch by epoch.
  - 1 % and 10 % are one unstratified draw of the records (seed 42): no spread, and classes may be left without a
    positive record.
  - The learning rate is divided by 10 after 40 batches, not epochs: the scheduler steps with every batch.
  - Columns by position: `ptbxl_sub_class_train.csv` has the columns AVB, RAO/RAE, ISC where the files of the other
    splits have ISC, AVB, RAO/RAE, so these three of 23 classes are trained on one another's labels.
  - Features are not standardised; Adam, learning rate 1e-3, L2 1e-4 on weights and bias, batches of 16.

Two quirks are not reproduced here, because the features are frozen and cached. The documented command names no "linear"
run, so it trains the whole network (`etp evaluate finetune --protocol merl-as-published` does that). Batch statistics
change even where the weights are frozen. MERL's CSV files label Chapman-Shaoxing-Ningbo by substring; 5,125 labels
are wrong. `--published FOLDER` reads those files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from etp_jax.encoder.encoder import Encoder
from etp_jax.evaluation.outcome import Outcome, classification_row
from etp_jax.evaluation.records import Labelled
from etp_jax.evaluation.request import MERL_SEED, TaskRequest
from etp_jax.metrics.bootstrap import bootstrap_weights
from etp_jax.metrics.classification import best_thresholds, has_both, macro_auroc, score
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN
from etp_jax.tasks import Task

EPOCHS, BATCH = 100, 16
RATE, DECAY, MILESTONE = 1e-3, 1e-4, 40
SHIFTED = {"ptbxl-sub": {"ISC_": "_AVB", "_AVB": "RAO/RAE", "RAO/RAE": "ISC_"}}
"""For each task with shifted columns: class code → code of the class whose training labels it gets."""
Scores = Iterator[NDArray[np.float32]]
"""Yields, after each epoch, the scores [n, C] of the evaluated records."""


def evaluate(
    request: TaskRequest,
    encoders: Sequence[tuple[str, Encoder]],
    shards: Shards,
    fractions: Sequence[float],
    fit: Callable[[Encoder, Labelled, NDArray[np.bool_], Labelled], Scores],
) -> Outcome:
    """Fits on fractions of the training records and reports the best epoch of the scored split.

    Args:
      request: names the task, and the split that is scored and on which the epoch is chosen. The intervals do not cover
        this choice.
      encoders: each with its name in the result.
      shards: shard folder with that split and `train`.
      fractions: shares of the training records; all are taken from one random draw.
      fit: function of encoder, training records, their labels and the scored records; yields scores after each epoch.
    """
    records, split = request.records(shards), request.split
    task, fitted, target = records.task, records.of(TRAIN), records.of(split)
    y_nC = training_labels(task, fitted.y_nC)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    outcome = Outcome.of_task(
        records,
        split,
        target,
        f"{split}, the scored records",
        fitted_on=f"{len(fitted)} records of train, smaller fractions one unstratified draw (seed {MERL_SEED})",
        chosen_by=f"best macro AUROC on {split}, which is scored, over {EPOCHS} epochs",
    )
    for name, encoder in encoders:
        for fraction in Bar(fractions, desc=f"{name} encoder, as published", unit="fit"):
            count = max(1, round(fraction * len(fitted)))
            subset = np.sort(np.random.default_rng(MERL_SEED).permutation(len(fitted))[:count])
            epochs = fit(encoder, fitted.where(subset), y_nC[subset], target)
            epoch, scores_nC = max(enumerate(epochs, 1), key=lambda each: macro_auroc(each[1], target.y_nC))
            called_nC = scores_nC >= best_thresholds(scores_nC, target.y_nC)
            scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
            about: dict[str, Any] = {"train_records": count, "train_classes": int(has_both(y_nC[subset]).sum())}
            row = classification_row(scored, task, name, fraction, encoder.train_seed, MERL_SEED, epoch=epoch, **about)
            outcome.rows.append(row)
            if fraction == max(fractions):
                outcome.arrays[name] = scores_nC
    return outcome


def training_labels(task: Task, y_NC: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the labels used in training; some classes get those of another class, see `SHIFTED`."""
    codes = [c.code for c in task.classes]
    shifted = SHIFTED.get(task.name, {})
    return y_NC[:, [codes.index(shifted.get(code, code)) for code in codes]]


def rate(step: Any) -> Any:
    """Learning rate at a step; steps count from 0."""
    return jnp.where(step < MILESTONE, RATE, RATE / 10)


def optimizer() -> optax.GradientTransformation:
    """PyTorch's Adam with weight decay: L2 is added to the gradient, including that of biases."""
    return optax.chain(optax.add_decayed_weights(DECAY), optax.scale_by_adam(), optax.scale_by_learning_rate(rate))


def batches(records: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Yields for each epoch the record numbers of its batches [S, 16], and a mask: 0 pads a short last batch."""
    rng, steps = np.random.default_rng(MERL_SEED), -(-records // BATCH)
    for _ in range(EPOCHS):
        rows = np.resize(rng.permutation(records), steps * BATCH).astype(np.int32)
        yield rows.reshape(steps, BATCH), (np.arange(steps * BATCH) < records).reshape(steps, BATCH).astype(np.float32)


def initial_layer(features: int, classes: int) -> dict[str, NDArray[np.float32]]:
    """PyTorch's initial linear layer: uniform within 1 / sqrt(features)."""
    rng, bound = np.random.default_rng(MERL_SEED), features**-0.5
    weights_FC = rng.uniform(-bound, bound, (features, classes)).astype(np.float32)
    return {"kernel": weights_FC, "bias": rng.uniform(-bound, bound, classes).astype(np.float32)}


def fit_linear(encoder: Encoder, fitted: Labelled, y_nC: NDArray[np.bool_], target: Labelled) -> Scores:
    """Trains a linear layer on cached features; yields the scores of the target after each epoch."""
    (x_NF, _), (target_nF, _) = fitted.encode(encoder), target.encode(encoder)
    layer: Any = initial_layer(x_NF.shape[1], y_nC.shape[1])
    state = optimizer().init(layer)
    x_NF, y_NC = jnp.asarray(x_NF), jnp.asarray(y_nC, jnp.float32)
    for rows_SB, counts_SB in batches(len(y_nC)):
        layer, state = _epoch(layer, state, x_NF, y_NC, rows_SB, counts_SB)
        yield target_nF @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


@jax.jit
def _epoch(layer: Any, state: Any, x_NF: jax.Array, y_NC: jax.Array, rows_SB: Any, counts_SB: Any) -> Any:
    """One pass over all batches."""

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        layer, state = carry
        rows_B, counts_B = batch

        def loss_of(layer: Any) -> jax.Array:
            logits_BC = x_NF[rows_B] @ layer["kernel"] + layer["bias"]
            return weighted_loss(logits_BC, y_NC[rows_B], counts_B)

        updates, state = optimizer().update(jax.grad(loss_of)(layer), state, layer)
        return (optax.apply_updates(layer, updates), state), None

    return jax.lax.scan(step, (layer, state), (rows_SB, counts_SB))[0]


def weighted_loss(logits_BC: jax.Array, y_BC: jax.Array, counts_B: jax.Array) -> jax.Array:
    """Mean binary cross-entropy over the records that are not padding."""
    losses_B = optax.sigmoid_binary_cross_entropy(logits_BC, y_BC).mean(axis=1)
    return (losses_B * counts_B).sum() / counts_B.sum()
