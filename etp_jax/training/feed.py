"""Transfer of batches to the devices, and the number of steps per dispatch.

On the host path every batch is read and sent to the devices. In resident mode every device holds the training split,
and only the row numbers of a batch are sent. The step gets the same input in both modes, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from etp_jax.config import DataConfig, RunConfig, TrainConfig
from etp_jax.training.batches import Batch, Batches, prefetch
from etp_jax.training.parallel import REPLICATED, Parallel

Step = Callable[[Any, dict[str, jax.Array], Any], tuple[Any, dict[str, jax.Array]]]

PIECE = 64 * 2**20
"""Bytes of signals read and sent at a time, so that the host never holds a whole split."""
PREFETCH = 2
"""Number of batches (one per dispatch) that are prefetched to the devices."""
WIDEST = 94 * 128
"""Maximum values in a row of the resident table. A TPU gathers rows of whole tiles of 128 values in place if they are
not much wider; from any other table it copies all of it at every dispatch."""
RESIDENT_SHARE = 0.5
"""Maximum share of a device's free memory for resident records; parameters and reports are already on the device."""
MOST_STEPS = 10
"""Maximum steps per dispatch when the number is automatic; the host overhead, about a millisecond, is then
negligible."""


class DeviceFeed:
    """Feeds the batches of a run to the devices.

    Attributes:
        per_dispatch: maximum number of steps in one dispatch.
        resident_bytes: bytes of resident records on each device; 0 on the host path.
    """

    def __init__(self, config: TrainConfig, batches: Batches, parallel: Parallel) -> None:
        """Puts the split on the devices in resident mode; all other data should be there before, as it takes memory."""
        self._batches, self._parallel = batches, parallel
        resident = _is_resident(config.data, batches, parallel)
        self._split = _put_split(batches, parallel) if resident else None
        self.resident_bytes = _split_bytes(batches) if resident else 0
        self.per_dispatch = steps_per_dispatch(config.run, resident, parallel.platform)

    def wrap(self, step: Step) -> Step:
        """Returns `dispatch(state, batch, tables)`, which makes all steps of a batch from `batches`."""
        samples = self._batches.split.shards.samples
        return dispatching(step, self._split is not None, self.per_dispatch, samples)

    def tables(self, texts: Any) -> Any:
        """Returns the last argument of the dispatch, from the report table on the devices."""
        return texts if self._split is None else (texts, self._split)

    def batches(self, spans: Iterable[range]) -> Generator[tuple[range, Any], None, None]:
        """Yields the steps of each dispatch and their batch on the devices, prepared in the background."""
        read = self._batches.at if self._split is None else self._batches.rows

        def put(steps: range) -> Any:
            batches = [read(step) for step in steps]
            batch = batches[0] if self.per_dispatch == 1 else joined(batches, self.per_dispatch)
            return self._parallel.put_batch(batch)

        return prefetch(spans, put, PREFETCH)

    def __str__(self) -> str:
        """Returns a line that describes the feed to the user."""
        where = f"read as needed, {PREFETCH} batches ahead"
        if self._split is not None:
            where = f"resident, {len(self._batches.paired)} records ({self.resident_bytes / 2**20:.1f} MiB) a device"
        return f"  data: {where}; {self.per_dispatch} step(s) a dispatch"


def steps_per_dispatch(config: RunConfig, resident: bool, platform: str) -> int:
    """Returns the maximum number of steps in one dispatch: the option, or else an automatic number."""
    many = resident and platform != "cpu"
    return config.steps_per_dispatch or (min(MOST_STEPS, config.log_every) if many else 1)


def dispatching(step: Step, resident: bool, per_dispatch: int, samples: int) -> Step:
    """Returns the function that a run dispatches: a step with its gather of resident records, or a loop of them."""
    step = gathering(step, samples) if resident else step
    return step if per_dispatch == 1 else several(step)


def dispatches(start: int, stop: int, most: int, *intervals: int) -> Iterator[range]:
    """Splits steps `start` ... `stop` - 1 into dispatches of at most `most` that cross no multiple of an interval."""
    while start < stop:
        end = min(start + most, stop, *(start - start % interval + interval for interval in intervals))
        yield range(start, end)
        start = end


def joined(batches: Sequence[Batch], size: int) -> Batch:
    """Stacks the batches of several steps, [n, size, ...]; padding up to `size` steps has `position` -1."""
    missing = {**batches[-1], "position": np.full_like(batches[-1]["position"], -1)}
    every = [*batches, *[missing] * (size - len(batches))]
    return {name: np.stack([batch[name] for batch in every], axis=1) for name in missing}


def several(step: Step) -> Step:
    """Turns a step into a loop over all steps of a `joined` batch.

    The number of iterations is not fixed in the program, so the same program runs any number of steps. It is compiled
    once, and a step has the same bits wherever its dispatch began.

    Returns:
        A step whose metrics are [size] each, in order; entries beyond the last step made are undefined.
    """

    def steps(state: Any, batch: dict[str, jax.Array], tables: Any) -> tuple[Any, dict[str, jax.Array]]:
        size = batch["position"].shape[1]

        def turn(i: Any, carried: tuple[Any, Any]) -> tuple[Any, Any]:
            state, rows = carried
            state, metrics = step(state, {name: x[:, i] for name, x in batch.items()}, tables)
            return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

        one = jax.eval_shape(step, state, {name: x[:, 0] for name, x in batch.items()}, tables)[1]
        rows = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), one)
        return jax.lax.fori_loop(0, jnp.sum(batch["position"][0] >= 0), turn, (state, rows))

    return steps


def row_shape(values: int) -> tuple[int, int]:
    """Returns the rows that a record of `values` values takes in the resident table, and their width."""
    rows = -(-values // WIDEST)
    return rows, -(-values // (128 * rows)) * 128


def table_shapes(records: int, samples: int, leads: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the resident table.

    Returns:
        `ecg` int16 [records * rows, width] (`row_shape`), flat because TPUs pad a last axis of 12 to 128; `lead_mask`
        bool [records, leads]; `report` int32 [records].
    """
    rows, width = row_shape(samples * leads)
    return {
        "ecg": jax.ShapeDtypeStruct((records * rows, width), jnp.int16),
        "lead_mask": jax.ShapeDtypeStruct((records, leads), jnp.bool_),
        "report": jax.ShapeDtypeStruct((records,), jnp.int32),
    }


def gathering(step: Step, samples: int) -> Step:
    """Turns a step into one that takes `Batches.rows` and gathers the records from its last argument."""

    def gathered(state: Any, batch: dict[str, jax.Array], tables: Any) -> tuple[Any, dict[str, jax.Array]]:
        texts, split = tables
        records = {name: split[name][batch["row"]] for name in ("lead_mask", "report")}
        count, leads = records["lead_mask"].shape
        rows, width = row_shape(samples * leads)
        taken = (batch["row"][:, None] * rows + jnp.arange(rows, dtype=jnp.int32)).reshape(-1)
        ecg = split["ecg"][taken].reshape(count, rows * width)[:, : samples * leads]
        records["ecg"] = ecg.reshape(count, samples, leads)
        # The barrier keeps XLA from fusing the gather with the step, so the step has the bits of the host path.
        return step(state, jax.lax.optimization_barrier({**records, "position": batch["position"]}), texts)

    return gathered


def _split_bytes(batches: Batches) -> int:
    """Returns the bytes of the resident table."""
    shards = batches.split.shards
    table = table_shapes(len(batches.paired), shards.samples, len(shards.leads)).values()
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in table)


def has_room(devices: Iterable[Any], size: int, share: float) -> bool:
    """Whether `size` bytes fit in this share of every device's free memory; False on a CPU, which reports none."""
    stats = [device.memory_stats() or {} for device in devices]
    return all(size <= share * (memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)) for memory in stats)


def _is_resident(config: DataConfig, batches: Batches, parallel: Parallel) -> bool:
    """Decides whether the records are resident; the answer is the same on all hosts."""
    if config.resident != "auto":
        return config.resident == "always"
    fits = has_room(parallel.mesh.local_mesh.devices.flat, _split_bytes(batches), RESIDENT_SHARE)
    return bool(multihost_utils.process_allgather(np.array(fits)).all())


def _put_split(batches: Batches, parallel: Parallel) -> dict[str, jax.Array]:
    """Copies the records of `batches.paired` to every device, as `table_shapes` describes."""
    split, paired = batches.split, batches.paired
    values = split.shards.samples * len(split.shards.leads)
    rows, width = row_shape(values)
    size = min(len(paired), max(1, PIECE // split.shards.signal_bytes))
    everywhere = NamedSharding(parallel.mesh.local_mesh, REPLICATED)

    def load(start: int) -> jax.Array:
        piece = np.zeros((size, rows * width), np.int16)
        ecg = split.ecg(paired[start : start + size], check_every=min(batches.check_every, 1))  # read once: all
        piece[:, :values] = ecg.reshape(size, values)
        return jax.device_put(piece.reshape(size * rows, width), everywhere)

    write = jax.jit(lambda ecg, piece, row: jax.lax.dynamic_update_slice(ecg, piece, (row, 0)), donate_argnums=0)
    ecg = jnp.zeros((len(paired) * rows, width), jnp.int16, device=everywhere)
    starts = (min(start, len(paired) - size) for start in range(0, len(paired), size))  # the last piece is full too
    for start, piece in prefetch(starts, load):
        ecg = jax.block_until_ready(write(ecg, piece, start * rows))
    table = {"lead_mask": split.columns.lead_mask[paired], "report": batches.reports.number[paired]}
    return parallel.replicate({"ecg": ecg, **table})
