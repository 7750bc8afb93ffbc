"""Batches of a split, and prefetching. The order depends on (seed, step) alone, so resuming needs only the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.shards.reader import ReportTable, Split
from etp_jax.shards.record import patient_hash

Batch = dict[str, Any]
"""Arrays [n, ...] by name, one row for each row of the batch; a value may be a tree of them."""
K = TypeVar("K")
T = TypeVar("T")


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of 0 ... size - 1, int64, different for each epoch."""
    # Raw Philox output is sorted, because numpy keeps bit generators stable over its versions, but not `permutation`.
    return np.argsort(np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(size), kind="stable")


def in_share(patient_id: str, share: float) -> bool:
    """Whether a patient belongs to the first `share` of all patients, by hash. Smaller shares are subsets of larger."""
    return patient_hash(patient_id) >> (256 - 48) < share * 2**48


class Batches:
    """The training batches of one host.

    Every epoch is a new permutation of all records that have a report. Records that do not fill the last batch are left
    out of that epoch. Each host takes a slice of every global batch, so the order is the same for any number of hosts.

    Attributes:
        batch_size: pairs per step, over all hosts.
        paired: int64 [P], positions in the split of the records used for training.
        steps_per_epoch: number of whole batches per epoch.
        unpaired: number of records left out because their report is empty.
        check_every: the CRC of every n-th record of a batch is checked; 0: none.
    """

    def __init__(
        self,
        split: Split,
        reports: ReportTable,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        devices: int = 1,
        share: float = 1.0,
        check_every: int = 1,
    ) -> None:
        """Selects the records and checks the batch size.

        Args:
            split: split that holds the records.
            reports: report table of the split.
            batch_size: pairs per step, over all hosts.
            seed: seed of the order; not negative.
            process_index: index of this host.
            process_count: number of hosts.
            devices: number of devices over all hosts.
            share: share of the patients that is used, selected by a hash of the patient id.
            check_every: the CRC of every n-th record of a batch is checked, see `Split.ecg`.

        Raises:
            EtpError: the batch is larger than the split, or is not a multiple of the number of devices; the seed is
                negative, or `check_every` is; or the share is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise EtpError(f"data.train_share is {share}; it must be more than 0 and at most 1")
        self.paired = reports.paired
        self.unpaired = len(reports.number) - len(self.paired)
        if share < 1:
            patients, number = split.index.distinct("patient_id")
            used = np.array([in_share(patient, share) for patient in patients], bool)
            self.paired = self.paired[used[number[self.paired]]]
        if not len(reports.paired):
            raise EtpError(
                f"{split.shards.folder} ({split.name}) holds no report, and training compares ECGs with reports; "
                "prepare the shards with reports (--report-column)"
            )
        if not 0 < batch_size <= len(self.paired):
            raise EtpError(
                f"data.batch_size is {batch_size}, but {split.shards.folder} ({split.name}) has {len(self.paired)} "
                f"records with a report; choose a batch between 1 and that"
            )
        if batch_size % devices:
            raise EtpError(
                f"data.batch_size {batch_size} is not a multiple of the number of devices, {devices}; "
                f"{batch_size // devices * devices or devices} would be"
            )
        if seed < 0:
            raise EtpError(f"seed is {seed}; it must not be negative")
        if check_every < 0:
            raise EtpError(f"data.check_every is {check_every}; it must not be negative (0: no check)")
        self.split, self.reports, self.batch_size, self.seed = split, reports, batch_size, seed
        self.check_every = check_every
        self.steps_per_epoch = len(self.paired) // batch_size
        own = batch_size // process_count
        self._rows = slice(process_index * own, (process_index + 1) * own)
        self._epoch, self._order = -1, np.arange(0)

    def rows(self, step: int) -> Batch:
        """Selects the records of this host's rows of global batch `step`.

        Returns:
            `row` int32 [n], index into `paired`; `position` int32 [n], row in the global batch.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(len(self.paired), self.seed, epoch).astype(np.int32)
        position = np.arange(self.batch_size, dtype=np.int32)[self._rows]
        return {"row": self._order[within * self.batch_size + position], "position": position}

    def at(self, step: int) -> Batch:
        """Reads this host's rows of global batch `step`.

        Returns:
            `ecg` int16 [n, T, leads] µV; `lead_mask` bool [n, leads]; `report` int32 [n], number in the report table;
            `position` int32 [n], row in the global batch; with a table of both reports also `plain` int32 [n], number
            of the plain report.
        """
        batch = self.columns(step)
        records = self.paired[batch.pop("row")]
        return {"ecg": self.split.ecg(records, check_every=self.check_every), **batch}

    def columns(self, step: int) -> Batch:
        """Reads this host's rows of global batch `step` without their signals.

        Returns:
            `rows` with `lead_mask` and `report`, see `at`.
        """
        rows = self.rows(step)
        records = self.paired[rows["row"]]
        return {**self.fields(records), **rows}

    def fields(self, records: np.ndarray) -> Batch:
        """Returns what the batch needs of records besides the signal: lead masks and numbers of reports, [n, ...]."""
        plain = {} if self.reports.plain is None else {"plain": self.reports.plain[records]}
        return {"lead_mask": self.split.columns.lead_mask[records], "report": self.reports.number[records], **plain}


def prefetch(keys: Iterable[K], load: Callable[[K], T], depth: int = 2) -> Generator[tuple[K, T], None, None]:
    """Loads items in a background thread ahead of their use.

    An error in the thread is raised when its key is reached. Closing the generator ends the thread.

    Args:
        keys: keys of the items to load, in order.
        load: function that loads the item of a key; the thread calls it for one key at a time.
        depth: number of items that are loaded or being loaded.

    Yields:
        Key and loaded item.
    """

    def pair(key: K) -> tuple[K, T]:
        return key, load(key)

    keys = iter(keys)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as reader:
        ahead = deque(reader.submit(pair, key) for key in islice(keys, max(depth, 1)))
        try:
            while ahead:
                loaded = ahead.popleft().result()
                ahead.extend(reader.submit(pair, key) for key in islice(keys, 1))
                yield loaded
        finally:
            reader.shutdown(cancel_futures=True)
