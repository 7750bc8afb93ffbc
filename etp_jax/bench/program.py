"""The function that a run of a recipe dispatches, by the shapes of its arguments: nothing is computed or allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etp_jax.bench.steps import text_tower
from etp_jax.config import TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.losses.pairs import needs_tower
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import init_variables
from etp_jax.training import build, feed, optim
from etp_jax.training.parallel import REPLICATED, SPLIT, Parallel
from etp_jax.training.step import TokenTable, init_state, make_train_step

Shapes = Any


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
        dtype: compute type of the towers.
        resident: whether every device holds all records.
        per_dispatch: number of steps in a dispatch.
    """

    dispatch: Any
    args: tuple[Shapes, Shapes, Shapes]
    params: Shapes
    dtype: Any
    resident: bool
    per_dispatch: int


def program(
    config: TrainConfig, sizes: Sizes, parallel: Parallel, device_bytes: int = 0, bert: BertConfig | None = None
) -> Program:
    """Builds what `etp train` would dispatch on these devices.

    Args:
      config: the recipe.
      sizes: sizes of the data.
      parallel: the devices, attached or not.
      device_bytes: memory of a device, by which `data.resident = auto` decides.
      bert: sizes of the text tower; None: those of the recipe, of a pretrained one those of BERT-base.

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

    split = feed.table_shapes(sizes.records, sizes.samples, len(LEADS))
    room = feed.RESIDENT_SHARE * (device_bytes - tree_bytes((state, texts)))
    fits = parallel.platform != "cpu" and tree_bytes(split) <= room
    resident = fits if config.data.resident == "auto" else config.data.resident == "always"
    per_dispatch = feed.steps_per_dispatch(config.run, resident, parallel.platform)
    step = make_train_step(model, optimizer, schedule, config, sizes.samples // 10, parallel.platform)
    batch = _batch(batch_size, sizes.samples, resident, per_dispatch)
    return Program(
        dispatch=parallel.wrap_train_step(feed.dispatching(step, resident, per_dispatch, sizes.samples)),
        args=_laid_out(parallel, state, batch, (texts, split) if resident else texts),
        params=variables["params"],
        dtype=dtype,
        resident=resident,
        per_dispatch=per_dispatch,
    )


def tree_bytes(tree: Shapes) -> int:
    """Sums the bytes of all arrays of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _texts(config: TrainConfig, hidden: int, sizes: Sizes) -> Shapes:
    """Returns the shapes of the report table on the devices, see `step.device_texts`."""
    outputs = jax.ShapeDtypeStruct((sizes.reports, hidden), jnp.float32)
    if config.model.text.frozen:
        return {"embeddings": outputs}
    words = jax.ShapeDtypeStruct((sizes.reports, sizes.tokens + -sizes.tokens % 128), jnp.int32)
    semantic = {"semantic": outputs} if needs_tower(config.loss) else {}
    return {"tokens": TokenTable(words, sizes.tokens), **semantic}


def _batch(size: int, samples: int, resident: bool, per_dispatch: int) -> dict[str, Shapes]:
    """Returns the shapes of a dispatch's batch over all hosts, `feed.joined` if it has several steps."""
    shapes = {"position": ((), jnp.int32)}
    if resident:
        shapes["row"] = (), jnp.int32
    else:
        shapes |= {
            "ecg": ((samples, len(LEADS)), jnp.int16),
            "lead_mask": ((len(LEADS),), jnp.bool_),
            "report": ((), jnp.int32),
        }
    lead = (size,) if per_dispatch == 1 else (size, per_dispatch)
    return {name: jax.ShapeDtypeStruct((*lead, *shape), dtype) for name, (shape, dtype) in shapes.items()}


def _laid_out(parallel: Parallel, state: Shapes, batch: Shapes, tables: Shapes) -> tuple[Shapes, Shapes, Shapes]:
    """Gives shapes the layout of `Parallel.replicate` and `Parallel.put_batch`, over the devices of all hosts."""
    if parallel.mode == "pmap":
        count = parallel.devices
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, x.shape[0] // count, *x.shape[1:]), x.dtype), batch)
        return state, rows, tables

    def over(tree: Shapes, spec: Any) -> Shapes:
        sharding = jax.sharding.NamedSharding(parallel.mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    return over(state, REPLICATED), over(batch, SPLIT), over(tables, REPLICATED)
