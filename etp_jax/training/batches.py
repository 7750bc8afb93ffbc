"""From a split to batches on the devices. The order is a function of (seed, step), so resuming needs only the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.shards.reader import ReportTable, Split
from etp_jax.shards.record import patient_hash

Batch = dict[str, np.ndarray]
K = TypeVar("K")
T = TypeVar("T")


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 ... size - 1, int64, fresh for each epoch."""
    # Sorting raw Philox output, because numpy keeps bit generators stable over its versions and `permutation` not.
    return np.argsort(np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(size), kind="stable")


def in_share(patient_id: str, share: float) -> bool:
    """Whether a patient is among this share; one of a smaller share is among every greater one too."""
    return patient_hash(patient_id) >> (256 - 48) < share * 2**48


class Batches:
    """The training batches of one host.

    Every epoch is a fresh permutation of all records that have a report; what does not fill a last batch is left out of
    that epoch. Each host takes its slice of every global batch, so the order does not depend on the number of hosts.

    Attributes:
        batch_size: pairs a step over all hosts.
        paired: int64 [P], positions in the split of the records that take part.
        steps_per_epoch: whole batches an epoch.
        unpaired: records left out because their report is empty.
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
    ) -> None:
        """Lays out the order.

        Args:
            split: where the records come from.
            reports: the split's report table.
            batch_size: pairs a step over all hosts.
            seed: decides the order; not negative.
            process_index: this host.
            process_count: number of hosts.
            devices: number of devices over all hosts.
            share: of the patients who take part, by a hash of the patient id.

        Raises:
            EtpError: the batch is larger than the split, or the devices do not divide it; or the seed is negative, or
                the share none.
        """
        if not 0 < share <= 1:
            raise EtpError(f"data.train_share is {share}; it must be more than 0 and at most 1")
        self.paired = reports.paired
        self.unpaired = len(reports.number) - len(self.paired)
        if share < 1:
            patients = split.columns.patient_id
            self.paired = self.paired[np.array([in_share(patients[row], share) for row in self.paired], bool)]
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
        self.split, self.reports, self.batch_size, self.seed = split, reports, batch_size, seed
        self.steps_per_epoch = len(self.paired) // batch_size
        own = batch_size // process_count
        self._rows = slice(process_index * own, (process_index + 1) * own)
        self._epoch, self._order = -1, np.arange(0)

    def rows(self, step: int) -> Batch:
        """Which records this host's rows of global batch `step` are.

        Returns:
            `row` int32 [n], place in `paired`; `position` int32 [n], row in the global batch.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(len(self.paired), self.seed, epoch).astype(np.int32)
        position = np.arange(self.batch_size, dtype=np.int32)[self._rows]
        return {"row": self._order[within * self.batch_size + position], "position": position}

    def at(self, step: int) -> Batch:
        """This host's rows of global batch `step`.

        Returns:
            `ecg` int16 [n, T, leads] µV; `lead_mask` bool [n, leads]; `report` int32 [n], number in the report table;
            `position` int32 [n], row in the global batch.
        """
        rows = self.rows(step)
        records = self.paired[rows["row"]]
        return {
            "ecg": self.split.ecg(records),
            "lead_mask": self.split.columns.lead_mask[records],
            "report": self.reports.number[records],
            "position": rows["position"],
        }


def prefetch(keys: Iterable[K], load: Callable[[K], T], depth: int = 2) -> Generator[tuple[K, T], None, None]:
    """Loads things in a background thread ahead of their use.

    An error in the thread is raised at the key it belongs to. Closing the generator ends the thread.

    Args:
        keys: what to load, in order.
        load: called in the thread, for one key at a time.
        depth: things held ready or in the making.

    Yields:
        Key and what was loaded for it.
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
