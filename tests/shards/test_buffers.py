"""Tests that memory of batches is used again, and never while anything still refers to it."""

from __future__ import annotations

import gc
import mmap
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from etp_jax.shards import reader
from etp_jax.shards.buffers import Buffers
from etp_jax.shards.reader import Shards
from etp_jax.training.batches import Batches
from etp_jax.training.feed import DeviceFeed
from etp_jax.training.parallel import Parallel
from tests.helpers.tiny_run import BATCH, change, tiny_config, write_shards

SHAPE = (16, 64, 12)


class Poisoning(deque):
    """Unused memory; it is overwritten as soon as it is given back."""

    count = 0

    def append(self, memory: Any) -> None:
        memory.fill(0x55)
        self.count += 1
        super().append(memory)


def poisoned(most: int = 4) -> Buffers:
    buffers = Buffers(most)
    buffers._free = Poisoning(maxlen=most)  # pyright: ignore[reportPrivateUsage]
    return buffers


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again() -> None:
    buffers = Buffers(2)
    first = buffers.empty(SHAPE)
    place = address(first)
    assert first.shape == SHAPE and first.dtype == np.int16 and first.flags.c_contiguous and first.flags.writeable
    assert address(buffers.empty(SHAPE)) != place
    del first
    assert address(buffers.empty(SHAPE)) == place
    assert buffers.empty((3, 5)).shape == (3, 5)  # another size takes no other's memory


@pytest.mark.parametrize("view", [lambda x: x[3:][2:], lambda x: x.reshape(4, 4, 64, 12)[1], lambda x: memoryview(x)])
def test_a_view_keeps_the_memory(view: Any) -> None:
    buffers = poisoned()
    array = buffers.empty(SHAPE)
    array[:] = 7
    kept = view(array)
    del array
    other = buffers.empty(SHAPE)
    other[:] = 9
    assert np.all(np.asarray(kept) == 7)
    del kept, other
    gc.collect()
    assert len(buffers._free) == 2  # pyright: ignore[reportPrivateUsage]


def test_no_more_than_a_few_blocks_are_kept() -> None:
    buffers = Buffers(2)
    arrays = [buffers.empty(SHAPE) for _ in range(5)]
    arrays.clear()
    assert len(buffers._free) == 2  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("aligned", [False, True], ids=["copied by JAX", "shared with JAX"])
@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_arrays_on_devices_are_never_overwritten(mode: Any, aligned: bool) -> None:
    """On a CPU, JAX shares the memory of an array that begins at a multiple of 64 bytes."""
    buffers, parallel, blocks = poisoned(16), Parallel(mode, jax.devices()[:1]), 6
    if aligned:
        size = 2 * int(np.prod(SHAPE))
        free = [np.frombuffer(mmap.mmap(-1, size), np.uint8)[:size] for _ in range(blocks)]
        buffers._free.extend(free)  # pyright: ignore[reportPrivateUsage]
    add = jax.jit(lambda x: x + 1)
    kept, sums = [], []
    for number in range(40):
        batch = buffers.empty(SHAPE)
        batch[:] = number
        on_device = parallel.put_batch({"ecg": batch})["ecg"]
        del batch
        sums.append(add(on_device))  # may still run when the next batch is filled
        if number % 3 == 0:
            kept.append((number, on_device))
        del on_device
    assert all(np.all(np.asarray(x) == number) for number, x in kept)
    assert all(np.all(np.asarray(x) == number + 1) for number, x in enumerate(sums))
    assert buffers._free.count > 20  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def test_a_run_gets_the_batches_of_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = poisoned()
    monkeypatch.setattr(reader, "RECYCLED_BYTES", 1)
    monkeypatch.setattr(reader, "_BUFFERS", buffers)
    shards = Shards(write_shards(tmp_path / "shards"))
    batches = Batches(shards.split("train"), shards.reports("train"), BATCH, 0)
    config = change(tiny_config(shards.folder), data={"resident": "never"})
    feed = DeviceFeed(config, batches, Parallel("pmap", jax.devices()[:1]))
    whole = np.stack([shards.split("train")[row].ecg for row in range(len(shards.split("train")))])
    for steps, batch in feed.batches([range(step, step + 1) for step in range(30)]):
        expected = whole[batches.paired[batches.rows(steps.start)["row"]]]
        np.testing.assert_array_equal(np.asarray(batch["ecg"]).reshape(expected.shape), expected)
    assert buffers._free.count > 20  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
