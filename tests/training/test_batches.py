import threading
import time
from pathlib import Path

import numpy as np
import pytest

from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards, Split
from etp_jax.training.batches import Batches, epoch_order, in_share, prefetch
from tests.helpers.shard_samples import make_record, write_folder

RECORDS, PAIRED, BATCH = 30, 20, 6  # every third record has no report
STEPS = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    records = [make_record(number) for number in range(RECORDS)]
    return Shards(write_folder(tmp_path_factory.mktemp("input") / "shards", {"train": [records[:11], records[11:]]}))


def batches(shards: Shards, batch_size: int = BATCH, seed: int = 0, **hosts: int) -> Batches:
    return Batches(shards.split("train"), shards.reports("train"), batch_size, seed, **hosts)


def records_of(shards: Shards, batch: dict[str, np.ndarray]) -> list[int]:
    """Which records a batch holds, told by their signals."""
    every = shards.split("train").ecg(np.arange(RECORDS))
    return [int(np.flatnonzero((every == ecg).all(axis=(1, 2)))[0]) for ecg in batch["ecg"]]


def test_a_batch_is_what_the_records_say(shards: Shards):
    source = batches(shards)
    split, reports = shards.split("train"), shards.reports("train")
    batch = source.at(1)
    assert {name: (x.dtype.name, x.shape) for name, x in batch.items()} == {
        "ecg": ("int16", (BATCH, shards.samples, 12)),
        "lead_mask": ("bool", (BATCH, 12)),
        "report": ("int32", (BATCH,)),
        "position": ("int32", (BATCH,)),
    }
    for row, number in enumerate(records_of(shards, batch)):
        np.testing.assert_array_equal(batch["lead_mask"][row], split[number].lead_mask)
        assert reports.reports[batch["report"][row]] == split[number].report
    np.testing.assert_array_equal(batch["position"], np.arange(BATCH))
    rows = source.rows(1)
    np.testing.assert_array_equal(split.ecg(source.paired[rows["row"]]), batch["ecg"])
    assert {name: x.dtype.name for name, x in rows.items()} == {"row": "int32", "position": "int32"}


def test_an_epoch_visits_each_paired_record_at_most_once_and_none_without_a_report(shards: Shards):
    source = batches(shards)
    assert (source.steps_per_epoch, source.unpaired) == (STEPS, RECORDS - PAIRED)
    for epoch in range(2):
        seen = [n for step in range(STEPS) for n in records_of(shards, source.at(epoch * STEPS + step))]
        assert len(set(seen)) == len(seen) == STEPS * BATCH
        assert all(number % 3 for number in seen)  # those divisible by 3 have no report


def test_every_record_gets_its_turn_over_the_epochs(shards: Shards):
    source = batches(shards)
    seen = {n for step in range(5 * STEPS) for n in records_of(shards, source.at(step))}
    assert len(seen) == PAIRED


def test_order_is_a_function_of_seed_and_step(shards: Shards):
    forward, backward = batches(shards), batches(shards)
    there = {step: records_of(shards, forward.at(step)) for step in range(2 * STEPS)}
    back = {step: records_of(shards, backward.at(step)) for step in reversed(range(2 * STEPS))}
    assert there == back
    assert there[0] != there[STEPS], "each epoch has an order of its own"
    assert there[0] != records_of(shards, batches(shards, seed=1).at(0))


def test_order_never_changes_between_versions():
    """A resumed run must go on in the order it was started with; these numbers were drawn when the format was set."""
    assert epoch_order(10, 0, 0).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]
    assert epoch_order(10, 7, 3).tolist() == [7, 1, 9, 6, 0, 4, 2, 8, 3, 5]


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_share_out_each_global_batch(shards: Shards, hosts: int):
    whole = batches(shards).at(4)
    parts = [batches(shards, process_index=i, process_count=hosts).at(4) for i in range(hosts)]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


@pytest.mark.parametrize("patients", [1, 5000])
def test_a_share_of_the_patients(shards: Shards, patients: int):
    """Whole patients, the same ones in every greater share, about as many as asked for."""
    split, reports = shards.split("train"), shards.reports("train")
    half, most = (set(Batches(split, reports, 1, 0, share=share).paired) for share in (0.5, 0.8))
    assert half < most < set(reports.paired)
    of = {row: split.columns.patient_id[row] for row in reports.paired}
    assert not {of[row] for row in half} & {of[row] for row in set(of) - half}
    shares = [np.mean([in_share(f"p{patients}-{n}", share) for n in range(4000)]) for share in (0.1, 1 / 3, 1.0)]
    np.testing.assert_allclose(np.array(shares), (0.1, 1 / 3, 1.0), atol=0.03)
    for share in (0.0, 1.5):
        with pytest.raises(EtpError, match=f"data.train_share is {share}"):
            Batches(split, reports, 1, 0, share=share)


@pytest.mark.parametrize("size", [0, PAIRED + 1])
def test_a_batch_larger_than_the_split_is_refused(shards: Shards, size: int):
    with pytest.raises(EtpError, match=rf"batch_size is {size}, but .* \(train\) has {PAIRED} records with a report"):
        batches(shards, size)


def test_a_split_in_one_batch_is_fine(shards: Shards):
    assert batches(shards, PAIRED).steps_per_epoch == 1


def test_devices_must_divide_the_batch(shards: Shards):
    with pytest.raises(EtpError, match=r"batch_size 6 is not a multiple of the number of devices, 4; 4 would be"):
        batches(shards, devices=4)
    with pytest.raises(EtpError, match=r"batch_size 6 .* devices, 8; 8 would be"):
        batches(shards, devices=8)
    assert batches(shards, devices=3).steps_per_epoch == STEPS


def test_a_negative_seed_is_refused(shards: Shards):
    with pytest.raises(EtpError, match="seed is -1"):
        batches(shards, seed=-1)


class Counting:
    """Batches that only tell which step was asked for, and fail at one of them."""

    def __init__(self, fail_at: int = -1) -> None:
        self.asked: list[int] = []
        self.fail_at = fail_at

    def at(self, step: int) -> int:
        self.asked.append(step)
        if step == self.fail_at:
            raise EtpError(f"step {step}")
        return step


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_prefetch_gives_every_step_in_order():
    out = list(prefetch(range(3, 9), lambda step: -step, 2))
    assert out == [(step, -step) for step in range(3, 9)]
    assert list(prefetch([], abs, 2)) == []
    assert reader_threads() == []


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetch_reads_depth_batches_ahead_and_no_more(depth: int):
    source = Counting()
    stream = prefetch(range(100), source.at, depth)
    assert next(stream) == (0, 0)
    time.sleep(0.05)
    assert source.asked == list(range(1 + max(depth, 1)))
    stream.close()


def test_prefetch_raises_an_error_at_its_step_and_ends():
    stream = prefetch(range(9), Counting(fail_at=2).at, 4)
    assert [next(stream), next(stream)] == [(0, 0), (1, 1)]
    with pytest.raises(EtpError, match="step 2"):
        next(stream)
    assert reader_threads() == []


def test_prefetch_stops_reading_when_it_is_closed():
    source = Counting()
    stream = prefetch(range(10**9), source.at, 2)
    next(stream)
    assert len(reader_threads()) == 1
    stream.close()
    assert reader_threads() == []
    assert len(source.asked) <= 3


def test_a_shard_that_vanishes_while_reading_is_one_line(tmp_path: Path):
    folder = write_folder(tmp_path / "shards", {"train": [[make_record(number) for number in range(6)]]})
    shards = Shards(folder)
    source = batches(shards, 2)
    stream = prefetch(range(4), source.at, 1)
    next(stream)
    next(folder.glob("*.tfrecord*")).write_bytes(b"")
    with pytest.raises(EtpError, match="ends early"):
        list(stream)


def test_every_nth_record_of_a_batch_is_checked(shards: Shards, monkeypatch: pytest.MonkeyPatch):
    checked: list[int] = []
    monkeypatch.setattr(Split, "_check", lambda self, position, signal: checked.append(position))
    split = shards.split("train")
    source = Batches(split, shards.reports("train"), 6, seed=0, check_every=4)
    source.at(0)
    assert checked == source.paired[source.rows(0)["row"]][[0, 4]].tolist()
    with pytest.raises(EtpError, match=r"data.check_every is -1; it must not be negative"):
        Batches(split, shards.reports("train"), 6, seed=0, check_every=-1)
