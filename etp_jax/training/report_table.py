"""The text tower's input for every report: a table on each device or, if it is too large, rows in each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from etp_jax.training.parallel import Parallel
from etp_jax.training.resident import free_bytes
from etp_jax.training.step import device_texts, kept_anyway, rows_only

TEXT_SHARE = 0.25
"""Maximum share of a device's free memory for the table of the reports."""


class DeviceReports:
    """The report table of a split, for the devices.

    Attributes:
        resident: whether every device holds the table; otherwise its rows are sent with the batches.
        table: the table on the devices, the last argument of a step; empty if it is not resident.
    """

    def __init__(self, texts: dict[str, NDArray], precision: str, parallel: Parallel, resident: bool = False) -> None:
        """Puts the table on the devices if it fits in `TEXT_SHARE`; the answer is the same on all hosts.

        Args:
            texts: `build.text_inputs` of the reports.
            precision: type of a tower's outputs on the devices, `model.text.precision`.
            parallel: the devices.
            resident: put it there in any case, because a saved step expects it.
        """
        self._texts, self._precision = rows_only(texts), precision
        row = sum(x.nbytes for x in jax.tree.leaves(self.rows(np.zeros(1, np.int32))))
        self._bytes = row * len(next(iter(self._texts.values())))
        self.resident = resident or table_is_resident(self._bytes, free_bytes(parallel))
        self.table: Any = parallel.replicate(device_texts(texts if self.resident else kept_anyway(texts), precision))

    def rows(self, report_b: NDArray[np.int32]) -> dict[str, Any]:
        """Selects the rows of these reports on the host, as `step.text_rows` does on a device."""
        return device_texts({name: x[report_b] for name, x in self._texts.items()}, self._precision)

    def with_rows(self, batch: dict[str, Any], numbers: Mapping[str, NDArray[np.int32]]) -> dict[str, Any]:
        """Adds the rows of a batch's reports to the batch, unless the table is resident.

        Args:
            batch: the batch.
            numbers: its `report` and, of records with two reports, `plain`, both [b].
        """
        if self.resident:
            return batch
        plain = {"plain_texts": self.rows(numbers["plain"])} if "plain" in numbers else {}
        return {**batch, "texts": self.rows(numbers["report"]), **plain}

    def __str__(self) -> str:
        """Returns a line that describes the table to the user."""
        size = f"{self._bytes / 2**20:.1f} MiB"
        if self.resident:
            return f"  report table: {size} on each device"
        return f"  report table: {size}, more than {TEXT_SHARE:.0%} of the free memory; rows are sent with the batches"


def table_is_resident(size: int, free: int) -> bool:
    """Whether a table of `size` bytes is kept on every device; so it is where the free memory is not known (0)."""
    return not free or size <= TEXT_SHARE * free
