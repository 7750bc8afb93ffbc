"""FLOPs and memory traffic of a step, counted from the shapes, for utilisation and roofline.

FLOPs are those of convolutions and matrix products; a multiply-add is two. A trained part counts three times (forward,
gradient of its input, gradient of its weights). A part that only propagates gradients counts twice, and a frozen part
once. Recomputation that saves memory does not count.

Bytes are those that layers, computed one after another, move between memory and chip. Every output of a convolution or
matrix product is written and read once. In training it is read again for the gradient, and its own gradient is written
and read. All operations between two of them count as fused with them, including attention scores. A convolution whose
output is normalised over the batch moves more in training (`NORMALISED`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from etp_jax.config import ModelConfig, TrainConfig
from etp_jax.losses.pairs import needs_semantic
from etp_jax.models.bert import BertConfig
from etp_jax.models.towers import TOWERS
from etp_jax.models.work import Work, linear, transformer_layer
from etp_jax.training import optim

TRANSFERS = {1: 2, 2: 4, 3: 5}
"""Number of times that a part's outputs are moved, by the number of times that its FLOPs count."""
NORMALISED = 13
"""Number of times that a normalised output is moved in training, fitted to XLA's programs of ResNet18.

It is within a fifth of the bytes on v5e and v5p (`results/accelerator_mends.md`). Statistics of the whole batch cut the
step into passes over each output and its gradient: for their sums, for the gradients of input and kernel, which
recompute the normalised output, and for the shortcuts."""
PARAMETER_BYTES = 4


@dataclass(frozen=True)
class Step:
    """Work of a step on the whole global batch, summed over all devices."""

    flops: int
    bytes: int


def bert(config: BertConfig, tokens: int) -> Work:
    """Counts the forward pass of `Bert` for one report; embedding lookups are no matrix products and do not count."""
    return _bert_layer(config, tokens) * config.num_hidden_layers


def ecg_tower(config: ModelConfig, samples: int, leads: int) -> Work:
    """Counts the forward pass of the ECG tower for one ECG."""
    return TOWERS[config.ecg.kind].work(config.ecg, samples, leads)


def encoder(config: TrainConfig, samples: int, leads: int, params: Any, dtype: np.dtype, devices: int) -> Step:
    """Counts the work of embedding the batch's ECGs in evaluation mode.

    Args:
        config: the recipe.
        samples: length of an ECG.
        leads: number of leads of an ECG.
        params: the model's parameters, or their shapes.
        dtype: compute type.
        devices: number of devices, each of which reads all parameters.
    """
    batch = config.data.batch_size
    part = ecg_tower(config.model, samples, leads) + _projection(params["ecg_projection"])
    read = _size(params["ecg_tower"]) + _size(params["ecg_projection"])
    per_ecg = TRANSFERS[1] * dtype.itemsize * part.outputs + 2 * samples * leads
    return Step(batch * part.flops, batch * per_ecg + devices * PARAMETER_BYTES * read)


def train_step(
    config: TrainConfig,
    samples: int,
    leads: int,
    params: Any,
    text_tower: tuple[BertConfig, int] | None,
    text_dim: int,
    dtype: np.dtype,
    devices: int,
) -> Step:
    """Counts the work of one update.

    Args:
        config: the recipe.
        samples: length of an ECG.
        leads: number of leads of an ECG.
        params: the model's parameters, or their shapes.
        text_tower: sizes of a trained text tower and tokens per report; None: its cached outputs are read.
        text_dim: width of the text tower's output.
        dtype: compute type.
        devices: number of devices, each of which reads and writes parameters and optimiser state.
    """
    batch, embedding = config.data.batch_size, config.model.embedding_dim
    mask = optim.trainable(params, config)
    parts = [
        (ecg_tower(config.model, samples, leads), 3),
        (_projection(params["ecg_projection"]), 3),
        (_projection(params["text_projection"]), 3),
    ]
    if text_tower is not None:
        layer = _bert_layer(*text_tower)
        parts += [(layer, times) for times in _passes(mask["text_tower"], text_tower[0].num_hidden_layers)]
    flops = batch * sum(part.flops * times for part, times in parts)
    flops += 3 * linear(batch, embedding, batch).flops
    if needs_semantic(config.loss):
        meaning = embedding if config.loss.semantic_from == "batch" else text_dim
        flops += linear(batch, meaning, batch).flops

    learned, all_params = _size(optim.take(params, mask)), _size(params)
    # Parameters, gradients and both moments are read and written; fixed parameters are read.
    state = 8 * learned + (all_params - learned) + (2 * all_params if config.optim.ema > 0 else 0)
    moved = sum(dtype.itemsize * TRANSFERS[times] * part.outputs for part, times in parts)
    normalised = sum(part.normalised for part, times in parts if times == 3)
    moved += dtype.itemsize * (NORMALISED - TRANSFERS[3]) * normalised
    moved += 2 * samples * leads + (4 * text_dim if text_tower is None else 0)
    return Step(flops, batch * moved + devices * PARAMETER_BYTES * state)


def _bert_layer(config: BertConfig, tokens: int) -> Work:
    return transformer_layer(tokens, config.hidden_size, config.intermediate_size)


def _projection(params: Any) -> Work:
    return sum((linear(1, *layer["kernel"].shape) for layer in params.values()), Work(0, 0))


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _passes(mask: Any, layers: int) -> list[int]:
    """Lists how many times the FLOPs of each layer count, the first layer first."""
    below, passes = any(jax.tree.leaves(mask["embeddings"])), []
    for i in range(layers):
        learned = any(jax.tree.leaves(mask["encoder"]["layer"][str(i)]))
        passes.append(3 if learned else 2 if below else 1)
        below |= learned
    return passes
