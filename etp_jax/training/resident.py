"""Training records on the devices: all of them on each, or each device's own part of them.

Both layouts give a step the rows of its batch bit for bit as the host path does. Of a sharded split, device d of n
holds the records d, d + n, d + 2n, ...; a record goes to the device of its row by an all-to-all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from numpy.typing import NDArray

from etp_jax.models.layers import AXIS
from etp_jax.training.batches import Batches, prefetch
from etp_jax.training.parallel import REPLICATED, Parallel

Residency = Literal["always", "sharded", "never"]
Step = Callable[[Any, dict[str, jax.Array], Any], tuple[Any, dict[str, jax.Array]]]

PIECE = 64 * 2**20
"""Bytes of signals read and sent at a time, so that the host never holds a whole split."""
WIDEST = 94 * 128
"""Maximum values in a row of the resident table. A TPU gathers rows of whole tiles of 128 values in place if they are
not much wider; from any other table it copies all of it at every dispatch."""
RESIDENT_SHARE = 0.5
"""Maximum share of a device's free memory for resident records; parameters and reports are already on the device."""
NUMBERS = "report", "plain"
"""Names of the numbers of a record's reports; `plain` only if it has two."""
ROUNDS = 4
"""Rounds of the exchange if every two devices had equally many rows for each other. More rounds waste less: each one is
padded to the pair of devices with the most rows left."""


def residency(option: Literal["auto", Residency], bytes_of: dict[Residency, int], free: int) -> Residency:
    """Decides where the records are kept.

    Args:
        option: `data.resident`.
        bytes_of: bytes of a device that each layout takes (`device_bytes`).
        free: free memory of a device; 0 where it is not known.

    Returns:
        The option; of `auto`, the first of `always` and `sharded` that fits in `RESIDENT_SHARE`, or else `never`.
    """
    if option != "auto":
        return option
    fits: list[Residency] = [kind for kind in ("always", "sharded") if bytes_of[kind] <= RESIDENT_SHARE * free]
    return fits[0] if fits else "never"


def free_bytes(parallel: Parallel) -> int:
    """Returns the free memory of the fullest device of all hosts, in whole MiB; 0 on a CPU, which reports none."""
    stats = [device.memory_stats() or {} for device in parallel.mesh.local_mesh.devices.flat]
    free = min(memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0) for memory in stats)
    return int(multihost_utils.process_allgather(np.array(free // 2**20, np.int32)).min()) * 2**20


def device_bytes(records: int, samples: int, leads: int, devices: int, both: bool = False) -> dict[Residency, int]:
    """Returns the bytes that the records take on each device, for each layout."""
    tables = {
        "always": table_shapes(records, samples, leads, both),
        "sharded": sharded_shape(records, samples, leads, devices),
    }
    sizes = {kind: [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tables[kind])] for kind in tables}
    return {"always": sum(sizes["always"]), "sharded": sum(sizes["sharded"]), "never": 0}


def row_shape(values: int) -> tuple[int, int]:
    """Returns the rows that a record of `values` values takes in the resident table, and their width."""
    rows = -(-values // WIDEST)
    return rows, -(-values // (128 * rows)) * 128


def table_shapes(records: int, samples: int, leads: int, both: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the table of all records, which may have two reports each.

    Returns:
        `ecg` int16 [records * rows, width] (`row_shape`), flat because TPUs pad a last axis of 12 to 128; `lead_mask`
        bool [records, leads]; `report`, and with two reports `plain`, int32 [records].
    """
    rows, width = row_shape(samples * leads)
    return {
        "ecg": jax.ShapeDtypeStruct((records * rows, width), jnp.int16),
        "lead_mask": jax.ShapeDtypeStruct((records, leads), jnp.bool_),
        **dict.fromkeys(("report", "plain") if both else ("report",), jax.ShapeDtypeStruct((records,), jnp.int32)),
    }


def sharded_shape(records: int, samples: int, leads: int, devices: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of a device's part of the signals; masks and report numbers are sent with the batches."""
    return table_shapes(-(-records // devices), samples, leads)["ecg"]


def gathering(step: Step, samples: int) -> Step:
    """Turns a step into one that takes `Batches.rows` and gathers the records from its last argument."""

    def gathered(state: Any, batch: dict[str, jax.Array], tables: Any) -> tuple[Any, dict[str, jax.Array]]:
        texts, split = tables
        records = {name: x[batch["row"]] for name, x in split.items() if name != "ecg"}
        count, leads = records["lead_mask"].shape
        rows, width = row_shape(samples * leads)
        ecg = split["ecg"][_table_rows(batch["row"], rows)].reshape(count, rows * width)[:, : samples * leads]
        records["ecg"] = ecg.reshape(count, samples, leads)
        # The barrier keeps XLA from fusing the gather with the step, so the step has the bits of the host path.
        return step(state, jax.lax.optimization_barrier({**_without(batch, "row"), **records}), texts)

    return gathered


def exchanging(dispatch: Step, samples: int) -> Step:
    """Turns a dispatch of `gathering` steps into one whose last argument holds a part of the records on each device.

    All records of the dispatch are exchanged at once: the more rows, the more equally are they distributed.
    """

    def exchanged(state: Any, batch: dict[str, jax.Array], tables: Any) -> tuple[Any, dict[str, jax.Array]]:
        texts, table = tables
        row, masks = batch["row"], batch["lead_mask"]
        rows, _ = row_shape(samples * masks.shape[-1])
        numbers = {name: batch[name].reshape(-1) for name in NUMBERS if name in batch}
        ecg = exchange(row.reshape(-1), table, rows)
        split = {"ecg": ecg, "lead_mask": masks.reshape(-1, masks.shape[-1]), **numbers}
        own = jnp.arange(row.size, dtype=row.dtype).reshape(row.shape)
        return dispatch(state, {**_without(batch, "lead_mask", *NUMBERS), "row": own}, (texts, split))

    return exchanged


def exchange(record_b: jax.Array, table: jax.Array, rows: int) -> jax.Array:
    """Collects this device's records from the devices that hold them, under the axis `AXIS`.

    The devices send each other equally many rows in each round. There are as many rounds as the two devices with the
    most rows for each other need, so every order is possible.

    Args:
        record_b: int32, records of this device's part of the batch.
        table: this device's part of the records, [records * rows, width].
        rows: rows of the table that a record takes.

    Returns:
        [b * rows, width], in the order of `record_b`.
    """
    devices, count = jax.lax.axis_size(AXIS), len(record_b)
    record_Db = jax.lax.all_gather(record_b, AXIS)
    # How many of the first records of receiver D this device sends, and how many of ours sender D does.
    sent_Db = jnp.cumsum(record_Db % devices == jax.lax.axis_index(AXIS), axis=1)
    got_Db = jnp.cumsum(record_b % devices == jnp.arange(devices)[:, None], axis=1)
    sender_b = record_b % devices
    ordinal_b = jnp.take_along_axis(got_Db, sender_b[None], axis=0)[0] - 1
    size = -(-count // (ROUNDS * devices))
    most = jax.lax.pmax(sent_Db[:, -1].max(), AXIS)

    def turn(number: Any, out: jax.Array) -> jax.Array:
        wanted = number * size + jnp.arange(size)
        place_Dn = jnp.sum(sent_Db[:, None] <= wanted[:, None], axis=2)  # place of the record with this ordinal
        record_Dn = jnp.take_along_axis(record_Db, jnp.minimum(place_Dn, count - 1), axis=1)
        sent = table[_table_rows(record_Dn.reshape(-1) // devices, rows)]
        got = jax.lax.all_to_all(sent, AXIS, 0, 0, tiled=True)
        now_b = ordinal_b // size == number
        taken = got[_table_rows(jnp.where(now_b, sender_b * size + ordinal_b % size, 0), rows)]
        return jnp.where(jnp.repeat(now_b, rows)[:, None], taken, out)

    return jax.lax.fori_loop(0, -(-most // size), turn, jnp.zeros((count * rows, table.shape[1]), table.dtype))


def _without(batch: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: x for name, x in batch.items() if name not in names}


def _table_rows(record_b: jax.Array, rows: int) -> jax.Array:
    """Returns the rows of the table that these records take."""
    return (record_b[:, None] * rows + jnp.arange(rows, dtype=record_b.dtype)).reshape(-1)


def put_split(batches: Batches, parallel: Parallel, kind: Residency) -> Any:
    """Copies the records of `batches.paired` to the devices.

    Returns:
        The arrays of `table_shapes` on each device or, if sharded, the array of `sharded_shape`.
    """
    paired = batches.paired
    if kind == "sharded":
        size, devices = -(-len(paired) // parallel.devices), list(parallel.mesh.devices.flat)
        lead = (1,) if parallel.mode == "pmap" else ()
        parts: list[jax.Array] = []
        for device in parallel.mesh.local_mesh.devices.flat:
            own = paired[devices.index(device) :: len(devices)]
            parts.append(_put_signals(batches, own, size, SingleDeviceSharding(device), lead))
        return parallel.join(parts)
    ecg = _put_signals(batches, paired, len(paired), NamedSharding(parallel.mesh.local_mesh, REPLICATED))
    return parallel.replicate({"ecg": ecg, **batches.fields(paired)})


def _put_signals(
    batches: Batches, records: NDArray[np.int64], count: int, sharding: Sharding, lead: tuple[int, ...] = ()
) -> jax.Array:
    """Copies the signals of these records to a table of `count` records; the rows beyond them are zeros.

    The shape of the table begins with `lead`, the axis of the devices for pmap.
    """
    split = batches.split
    values = split.shards.samples * len(split.shards.leads)
    rows, width = row_shape(values)
    size = min(len(records), max(1, PIECE // split.shards.signal_bytes))

    def load(start: int) -> jax.Array:
        piece = np.zeros((size, rows * width), np.int16)
        ecg = split.ecg(records[start : start + size], check_every=min(batches.check_every, 1))  # read once: all
        piece[:, :values] = ecg.reshape(size, values)
        return jax.device_put(piece.reshape(*lead, size * rows, width), sharding)

    @partial(jax.jit, donate_argnums=0)
    def write(ecg: jax.Array, piece: jax.Array, row: int) -> jax.Array:
        return jax.lax.dynamic_update_slice(ecg, piece, (*[0] * len(lead), row, 0))

    ecg = jnp.zeros((*lead, count * rows, width), jnp.int16, device=sharding)
    starts = (min(start, len(records) - size) for start in range(0, len(records), size))  # the last piece is full too
    for start, piece in prefetch(starts, load):
        ecg = jax.block_until_ready(write(ecg, piece, start * rows))
    return ecg
