"""The function that a run of a recipe dispatches, by the shapes of its arguments: nothing is computed or allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from etp_jax.config import TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.losses.pairs import needs_mean, needs_tower
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import init_variables
from etp_jax.models.huggingface import is_local, read_config, resolve
from etp_jax.models.sentence_folder import bert_folder
from etp_jax.training import build, feed, optim, resident
from etp_jax.training.parallel import REPLICATED, SPLIT, Parallel
from etp_jax.training.report_table import table_is_resident
from etp_jax.training.resident import Residency
from etp_jax.training.step import MEAN, TokenTable, init_state, kept_anyway, make_train_step, rows_only

Shapes = Any

BERT_BASE = BertConfig(28_996, 768, 12, 12, 3072)
"""Sizes in place of those of a text tower that is named by a hub id (28,996 words: the cased vocabulary)."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data of a run."""

    samples: int
    """Length of an ECG; 5000 is 10 s at 500 Hz."""
    records: int
    """Number of training records."""
    reports: int
    """Number of distinct reports."""
    tokens: int
    """Length of a report, in tokens, where the text tower is trained."""
    fs: int = 0
    """Sampling rate in Hz; 0: that of ECGs of 10 s."""

    @property
    def record_bytes(self) -> int:
        """Bytes of a record in a batch: int16 signal, lead mask and report number."""
        return self.samples * len(LEADS) * 2 + len(LEADS) + 4


@dataclass(frozen=True)
class Program:
    """What a run dispatches.

    Attributes:
        dispatch: `Parallel`'s function, ready to be lowered for `args`.
        args: shapes of state, batch and tables, in the layout of `Parallel`.
        params: shapes of the model's parameters.
        bert: sizes of the text tower.
        dtype: compute type of the towers.
        resident: where the records are kept.
        texts_resident: whether every device holds the report table; otherwise its rows are sent with the batches.
        per_dispatch: number of steps in a dispatch.
    """

    dispatch: Any
    args: tuple[Shapes, Shapes, Shapes]
    params: Shapes
    bert: BertConfig
    dtype: Any
    resident: Residency
    texts_resident: bool
    per_dispatch: int


def text_tower(config: TrainConfig) -> BertConfig:
    """Returns the sizes of a recipe's text tower, without loading it; see `BERT_BASE`.

    Raises:
      EtpError: the package of the tower is not installed, or its config.json cannot be read.
    """
    text = config.model.text
    if text.pretrained is None:
        bert = BertConfig(text.vocabulary, text.hidden, text.layers, text.heads, 4 * text.hidden, text.max_tokens)
    elif is_local(text.pretrained):
        bert = read_config(bert_folder(resolve(text.pretrained)))
    else:
        bert = BERT_BASE
    return replace(bert, dropout=text.dropout)


def program(
    config: TrainConfig, sizes: Sizes, parallel: Parallel, device_bytes: int = 0, bert: BertConfig | None = None
) -> Program:
    """Builds what `etp train` would dispatch on these devices.

    Args:
      config: the recipe.
      sizes: sizes of the data.
      parallel: the devices, attached or not.
      device_bytes: memory of a device, by which `data.resident = auto` decides.
      bert: sizes of the text tower; None: those of `text_tower`.

    Raises:
      EtpError: the batch does not suit devices or records, or an option is impossible.
    """
    batch_size = config.data.batch_size
    if batch_size < 1 or batch_size % parallel.devices:
        near = max(1, batch_size // parallel.devices) * parallel.devices
        raise EtpError(f"data.batch_size {batch_size} is not a multiple of the {parallel.devices} devices; {near} is")
    if batch_size > sizes.records:
        raise EtpError(f"data.batch_size {batch_size} is more than --records {sizes.records}")
    dtype, bert = build.set_precision(config.run.precision, parallel.platform), bert or text_tower(config)
    model = build.build_model(config, bert, dtype, parallel.platform)
    optimizer, schedule = optim.make_optimizer(config.optim, sizes.records // batch_size)
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), sizes.samples, len(LEADS)))
    state = jax.eval_shape(lambda v: init_state(v, optimizer, config), variables)
    texts = _texts(config, bert.hidden_size, sizes)

    free = 0 if parallel.platform == "cpu" else max(0, device_bytes - tree_bytes(state))
    texts_resident = table_is_resident(tree_bytes(texts), free)
    free = max(0, free - tree_bytes(texts) * texts_resident)
    shape = sizes.records, sizes.samples, len(LEADS)
    both = config.data.tosses
    bytes_of = resident.device_bytes(*shape, parallel.devices, both)
    kept = resident.residency(config.data.resident, bytes_of, free)
    per_dispatch = feed.steps_per_dispatch(config.run, kept, parallel.platform)
    step = make_train_step(model, optimizer, schedule, config, sizes.fs or sizes.samples // 10, parallel.platform)
    batch = _batch(batch_size, sizes.samples, kept, None if texts_resident else texts, per_dispatch, both)
    tables = _over(parallel, texts if texts_resident else kept_anyway(texts), REPLICATED)
    if kept == "always":
        tables = tables, _over(parallel, resident.table_shapes(*shape, both), REPLICATED)
    if kept == "sharded":
        part = resident.sharded_shape(*shape, parallel.devices)
        whole = jax.ShapeDtypeStruct((parallel.devices * part.shape[0], part.shape[1]), part.dtype)
        tables = tables, _over(parallel, whole, SPLIT)
    return Program(
        dispatch=feed.dispatching(step, kept, per_dispatch, sizes.samples, parallel),
        args=(_over(parallel, state, REPLICATED), _over(parallel, batch, SPLIT), tables),
        params=variables["params"],
        bert=bert,
        dtype=dtype,
        resident=kept,
        texts_resident=texts_resident,
        per_dispatch=per_dispatch,
    )


def tree_bytes(tree: Shapes) -> int:
    """Sums the bytes of all arrays of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _texts(config: TrainConfig, hidden: int, sizes: Sizes) -> Shapes:
    """Returns the shapes of the report table on the devices, see `step.device_texts`."""
    outputs = jax.ShapeDtypeStruct((sizes.reports, hidden), jnp.dtype(config.model.text.precision))
    mean = {MEAN: jax.ShapeDtypeStruct((hidden,), jnp.float32)} if needs_mean(config.loss) else {}
    if config.model.text.frozen:
        return {"embeddings": outputs, **mean}
    words = jax.ShapeDtypeStruct((sizes.reports, sizes.tokens + -sizes.tokens % 128), jnp.int32)
    semantic = {"semantic": outputs} if needs_tower(config.loss) else {}
    return {"tokens": TokenTable(words, sizes.tokens), **semantic, **mean}


def _batch(
    size: int, samples: int, kept: Residency, texts: Shapes | None, per_dispatch: int, both: bool
) -> dict[str, Shapes]:
    """Returns the shapes of a dispatch's batch over all hosts, `feed.joined` if it has several steps.

    Args:
      size: rows of a step.
      samples: length of an ECG.
      kept: where the records are kept.
      texts: the report table if its rows are sent with the batches.
      per_dispatch: number of steps.
      both: whether each record has two reports.
    """
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {"position": ((), jnp.int32)}
    if kept == "never":
        shapes["ecg"] = (samples, len(LEADS)), jnp.int16
    else:
        shapes["row"] = (), jnp.int32
    if kept != "always":
        shapes |= {"lead_mask": ((len(LEADS),), jnp.bool_)}
        shapes |= dict.fromkeys(("report", "plain") if both else ("report",), ((), jnp.int32))
    lead = (size,) if per_dispatch == 1 else (size, per_dispatch)
    batch: dict[str, Shapes] = {name: jax.ShapeDtypeStruct((*lead, *row), kind) for name, (row, kind) in shapes.items()}
    if texts is not None:
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype), rows_only(texts))
        batch |= dict.fromkeys(("texts", "plain_texts") if both else ("texts",), rows)
    return batch


def _over(parallel: Parallel, tree: Shapes, spec: Any) -> Shapes:
    """Gives shapes the layout of `Parallel.replicate` or `Parallel.put_batch`, over the devices of all hosts."""
    if parallel.mode == "shard_map":
        sharding = jax.sharding.NamedSharding(parallel.mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
    if spec == REPLICATED:
        return tree
    count = parallel.devices
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, x.shape[0] // count, *x.shape[1:]), x.dtype), tree)
