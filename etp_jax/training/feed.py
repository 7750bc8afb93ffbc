"""Transfer of batches to the devices, and the number of steps per dispatch.

On the host path every batch is read and sent to the devices. If the training split is on the devices (`resident.py`),
only the row numbers of a batch are sent. The step gets the same input in all cases, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etp_jax.config import RunConfig, TrainConfig
from etp_jax.training.batches import Batch, Batches, prefetch
from etp_jax.training.parallel import REPLICATED, SPLIT, Parallel
from etp_jax.training.report_table import DeviceReports
from etp_jax.training.resident import (
    RESIDENT_SHARE,
    Residency,
    Step,
    device_bytes,
    exchanging,
    free_bytes,
    gathering,
    put_split,
    residency,
)

PREFETCH = 2
"""Number of batches (one per dispatch) that are prefetched to the devices."""
MOST_STEPS = 10
"""Maximum steps per dispatch when the number is automatic; the host overhead, about a millisecond, is then
negligible."""


class DeviceFeed:
    """Feeds the batches of a run to the devices.

    Attributes:
        residency: where the records are kept.
        resident_bytes: bytes of resident records on each device; 0 on the host path.
        per_dispatch: maximum number of steps in one dispatch.
        tables: last argument of the dispatch: the report table, and a resident split.
    """

    def __init__(self, config: TrainConfig, batches: Batches, parallel: Parallel, reports: DeviceReports) -> None:
        """Puts a resident split on the devices; all other data should be there before, as it takes memory."""
        self._batches, self._parallel, self._reports = batches, parallel, reports
        shards = batches.split.shards
        both = batches.reports.plain is not None
        sizes = device_bytes(len(batches.paired), shards.samples, len(shards.leads), parallel.devices, both)
        free = free_bytes(parallel)
        self.residency: Residency = residency(config.data.resident, sizes, free)
        self.resident_bytes = sizes[self.residency]
        self.per_dispatch = steps_per_dispatch(config.run, self.residency, parallel.platform)
        self.tables: Any = reports.table
        if self.residency != "never":
            self.tables = reports.table, put_split(batches, parallel, self.residency)
        self._reason = _reason(sizes, free) if config.data.resident == "auto" and free else ""

    def wrap(self, step: Step) -> Any:
        """Returns `Parallel`'s `dispatch(state, batch, tables)`, which makes all steps of a batch from `batches`."""
        samples = self._batches.split.shards.samples
        return dispatching(step, self.residency, self.per_dispatch, samples, self._parallel)

    def batches(self, spans: Iterable[range]) -> Generator[tuple[range, Any], None, None]:
        """Yields the steps of each dispatch and their batch on the devices, prepared in the background."""
        by_residency = {"always": self._batches.rows, "sharded": self._batches.columns, "never": self._batches.at}

        def read(step: int) -> Batch:
            return self._reports.with_rows(by_residency[self.residency](step), self._batches.columns(step))

        def put(steps: range) -> Any:
            batches = [read(step) for step in steps]
            batch = batches[0] if self.per_dispatch == 1 else joined(batches, self.per_dispatch)
            return self._parallel.put_batch(batch)

        return prefetch(spans, put, PREFETCH)

    def __str__(self) -> str:
        """Returns a line that describes the feed to the user."""
        records, size = len(self._batches.paired), f"{self.resident_bytes / 2**20:.1f} MiB"
        where = {
            "always": f"resident, {records} records ({size}) a device",
            "sharded": f"resident, {records} records sharded over {self._parallel.devices} devices ({size} a device)",
            "never": f"read as needed, {PREFETCH} batches ahead",
        }
        return f"  data: {where[self.residency]}; {self.per_dispatch} step(s) a dispatch{self._reason}"


def _reason(sizes: dict[Residency, int], free: int) -> str:
    """Gives the figures by which `auto` chose."""
    every, sharded, most = (size / 2**20 for size in (sizes["always"], sizes["sharded"], RESIDENT_SHARE * free))
    return (
        f"\n  --data.resident auto: all records take {every:.1f} MiB a device, sharded {sharded:.1f}; "
        f"at most {most:.1f} ({RESIDENT_SHARE:.0%} of the free memory) are used"
    )


def steps_per_dispatch(config: RunConfig, kept: Residency, platform: str) -> int:
    """Returns the maximum number of steps in one dispatch: the option, or else an automatic number."""
    many = kept != "never" and platform != "cpu"
    return config.steps_per_dispatch or (min(MOST_STEPS, config.log_every) if many else 1)


def dispatching(step: Step, kept: Residency, per_dispatch: int, samples: int, parallel: Parallel) -> Any:
    """Returns the function that a run dispatches: a step with its gather of resident records, or a loop of them."""
    step = step if kept == "never" else gathering(step, samples)
    step = step if per_dispatch == 1 else several(step)
    if kept == "sharded":
        return parallel.wrap_train_step(exchanging(step, samples), (REPLICATED, SPLIT))
    return parallel.wrap_train_step(step)


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
    return jax.tree.map(lambda *rows: np.stack(rows, axis=1), *every)


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
            state, metrics = step(state, jax.tree.map(lambda x: x[:, i], batch), tables)
            return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

        one = jax.eval_shape(step, state, jax.tree.map(lambda x: x[:, 0], batch), tables)[1]
        rows = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), one)
        return jax.lax.fori_loop(0, jnp.sum(batch["position"][0] >= 0), turn, (state, rows))

    return steps
