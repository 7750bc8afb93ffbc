"""Reading speed of shards, in batches of random order."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from etp_jax.config import TrainConfig
from etp_jax.shards.reader import Shards, Split
from etp_jax.shards.record import TRAIN
from etp_jax.training.batches import Batches


def read(config: TrainConfig, repeats: int) -> list[dict[str, Any]]:
    """Measures records per second of the training split: once from disk, then with the files in memory (median)."""
    shards = Shards(config.data.shards)
    split, reports = shards.split(TRAIN), shards.reports(TRAIN)
    batches = Batches(split, reports, config.data.batch_size, config.seed)

    def rate(epoch: int) -> float:
        started = time.perf_counter()
        for step in range(batches.steps_per_epoch):
            batches.at(epoch * batches.steps_per_epoch + step)
        return batches.steps_per_epoch * batches.batch_size / (time.perf_counter() - started)

    batches.at(0)  # reads the index of the records, which is not part of an epoch
    _forget(split)
    cold, warm = rate(0), [rate(epoch) for epoch in range(1, repeats + 1)]
    about = {"records": len(batches.paired), "samples": shards.samples, "batch_size": batches.batch_size}
    return [
        {"cache": "cold", **about, "records_per_s": round(cold)},
        {"cache": "warm", **about, "records_per_s": round(statistics.median(warm))},
    ]


def _forget(split: Split) -> None:
    """Asks the operating system to drop a split's files from the page cache."""
    for shard in split.shards.build["splits"][split.name]["shards"]:
        file = os.open(split.shards.folder / shard["file"], os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
