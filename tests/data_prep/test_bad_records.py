"""One bad record never ends a build: exceptions of any class, and worker processes that are killed."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.data_prep import build as build_module
from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS, Recording
from etp_jax.errors import EtpError
from etp_jax.shards.pool import Processes
from etp_jax.shards.reader import Shards

SIGNAL = 500 * np.sin(np.arange(1000)[:, None] / (5 + np.arange(12)))


@dataclass(frozen=True)
class Reader:
    """Reads, raises or kills its process, by the fault."""

    fault: Any = None

    def __call__(self) -> Recording:
        if isinstance(self.fault, BaseException):
            raise self.fault
        if self.fault:
            os.kill(os.getpid(), self.fault)
        return Recording(SIGNAL, 100, LEADS)


def archive(faults: dict[str, Any]) -> Archive:
    studies = tuple(
        ArchiveRecord(f"r{n}", f"p{n}", "train", Reader(faults.get(f"r{n}")), "", (), (), 50.0, "", ())
        for n in range(12)
    )
    return Archive("bad", 100, 1000, LEADS, (), studies, (), {}, {})


def rejects(out: Path) -> dict[str, str]:
    with (out / "rejects.csv").open(newline="", encoding="utf-8") as file:
        return {row["record_id"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "SHARD_BYTES", 4 * 24_000)


def test_any_exception_becomes_a_reject_that_names_the_record(tmp_path: Path) -> None:
    faults = {
        "r1": Exception("odd\nmore"),
        "r4": MemoryError(),
        "r5": RecursionError("deep"),
        "r9": EtpError("kind: x"),
    }
    summary = build(archive(faults), tmp_path / "out")
    assert rejects(tmp_path / "out") == {
        "r1": "unreadable record: Exception: odd",
        "r4": "unreadable record: MemoryError: MemoryError",
        "r5": "unreadable record: RecursionError: deep",
        "r9": "kind: x",
    }
    assert summary.build["rejects"] == {"kind": 1, "unreadable record": 3}
    assert Shards(tmp_path / "out").splits == {"train": 8}


def test_an_interrupt_passes_and_leaves_no_mark(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(archive({"r5": KeyboardInterrupt()}), tmp_path / "out")
    assert not list((tmp_path / "out/.parts").glob("*.working"))
    assert build(archive({}), tmp_path / "out").build["rejects"] == {}


@pytest.mark.parametrize("fault", [signal.SIGSEGV, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_killed_worker_names_its_record_and_the_next_start_skips_it(tmp_path: Path, fault: int) -> None:
    out, killed = tmp_path / "out", archive({"r5": fault, "r10": fault})
    with pytest.raises(EtpError) as error:
        build(killed, out, Processes(2))
    named = json.loads((out / ".parts/killed.json").read_text())
    assert named and set(named) <= {"r5", "r10"}
    assert f"{out}: a worker process was killed while it read record {', '.join(named)} (a damaged" in str(error.value)
    assert not list((out / ".parts").glob("*.working"))
    if len(named) == 1:  # the two may have died together
        with pytest.raises(EtpError, match="while it read record"):
            build(killed, out, Processes(2))
    build(killed, out, Processes(2))
    assert set(rejects(out)) == {"r5", "r10"}
    assert all(reason.startswith("killed: a worker process ended") for reason in rejects(out).values())
    assert Shards(out).splits == {"train": 10}
    assert not (out / ".parts").exists()


def test_marks_of_a_build_that_was_killed_as_a_whole_mean_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build(archive({"r11": KeyboardInterrupt()}), out)
    (out / ".parts/bad-train.tfrecord-00002-of-00003.working").write_text("r10")
    assert build(archive({}), out, Processes(2)).build["rejects"] == {}
