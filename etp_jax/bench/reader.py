"""Reading speed of shards, in batches of random order, next to bare system calls that read the same bytes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from etp_jax.config import TrainConfig
from etp_jax.shards.reader import READERS, Shards, Split
from etp_jax.shards.record import TRAIN
from etp_jax.training.batches import Batches


def read(config: TrainConfig, repeats: int) -> list[dict[str, Any]]:
    """Measures records per second of the training split: once from disk, then with the files in memory.

    In memory, every round reads an epoch with the reader and the same epoch by bare `preadv` into one reused buffer,
    with 1 thread and with all of them. Figures are medians; the ratio is that of the two rates of a round.
    """
    shards = Shards(config.data.shards)
    split, reports = shards.split(TRAIN), shards.reports(TRAIN)
    batches = Batches(split, reports, config.data.batch_size, config.seed)
    about = {"records": len(batches.paired), "samples": shards.samples, "batch_size": batches.batch_size}

    def positions(epoch: int) -> Iterator[np.ndarray]:
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            yield batches.paired[batches.rows(step)["row"]]

    ecg = partial(split.ecg, check_every=config.data.check_every)

    def rate(epoch: int, read_batch: Callable[[np.ndarray], object]) -> float:
        started = time.perf_counter()
        for rows in positions(epoch):
            read_batch(rows)
        return batches.steps_per_epoch * batches.batch_size / (time.perf_counter() - started)

    next(positions(0))
    split.ecg([0])  # reads the index of the records, which is not part of an epoch
    _forget(split)
    rows: list[dict[str, Any]] = [
        {"cache": "cold", "threads": READERS, **about, "records_per_s": round(rate(0, ecg)), "plain": None}
    ]
    for threads in sorted({1, READERS}):
        plain = _Plain(split, batches.batch_size, threads)
        rounds = [
            (rate(epoch, partial(ecg, threads=threads)), rate(epoch, plain.read)) for epoch in range(1, repeats + 1)
        ]
        ours, theirs = (round(statistics.median(rates)) for rates in zip(*rounds, strict=True))
        ratio = round(statistics.median(own / bare for own, bare in rounds), 3)
        warm = {"cache": "warm", "threads": threads, **about, "records_per_s": ours}
        rows.append(warm | {"plain": {"records_per_s": theirs, "ratio": ratio}})
    return rows


class _Plain:
    """Reads signals by bare `preadv` calls into one buffer."""

    def __init__(self, split: Split, batch_size: int, threads: int) -> None:
        files = [split.shards.folder / shard["file"] for shard in split.shards.shard_files(split.name)]
        self._files = [os.open(file, os.O_RDONLY) for file in files]
        self._split, self._size = split, split.shards.signal_bytes
        self._buffer = memoryview(bytearray(batch_size * self._size))
        self._share, self._pool = -(-batch_size // threads), ThreadPoolExecutor(threads) if threads > 1 else None

    def read(self, positions: np.ndarray) -> None:
        """Reads a batch."""
        shards, offsets = self._split.signal_places(positions)
        size, buffer, files = self._size, self._buffer, self._files

        def fill(first: int) -> None:
            for row in range(first, min(first + self._share, len(shards))):
                os.preadv(files[shards[row]], [buffer[row * size : (row + 1) * size]], offsets[row])

        list((self._pool.map if self._pool else map)(fill, range(0, len(shards), self._share)))

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)


def _forget(split: Split) -> None:
    """Asks the operating system to drop a split's files from the page cache."""
    for shard in split.shards.shard_files(split.name):
        file = os.open(split.shards.folder / shard["file"], os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
