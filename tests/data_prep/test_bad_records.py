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
import wfdb

from etp_jax.data_prep import build as build_module
from etp_jax.data_prep.archives import cinc2020, mimic_iv_ecg, mitdb, ptbxl, table
from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord, Reject, rejecting
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS, Layout, Recording
from etp_jax.errors import EtpError
from etp_jax.shards.pool import Processes
from etp_jax.shards.reader import Shards
from tests.helpers import mimic_samples, ptbxl_samples
from tests.helpers.wfdb_samples import wave, write_record

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


def test_any_exception_of_a_row_becomes_a_reject_that_names_it() -> None:
    found: list[Reject] = []
    for name, error in (("r1", ValueError("odd\nmore")), ("r2", EtpError("kind: x")), ("r3", RecursionError("deep"))):
        with rejecting(found, name, "train"):
            raise error
    assert found == [
        Reject("r1", "train", "unreadable record: ValueError: odd"),
        Reject("r2", "train", "kind: x"),
        Reject("r3", "train", "unreadable record: RecursionError: deep"),
    ]
    for error in (MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), rejecting(found, "r4"):
            raise error


def open_archive(module: str, folder: Path) -> Archive:
    """Opens an archive of a few records; only their tables and headers are read."""
    match module:
        case "ptbxl":
            return ptbxl.open_archive(ptbxl_samples.write_archive(folder))
        case "mimic_iv_ecg":
            return mimic_iv_ecg.open_archive(mimic_samples.write_archive(folder))
        case "table":
            folder.mkdir()
            (folder / "t.csv").write_text("file,report\na.npy,sinus rhythm\nb.npy,x\nc.npy,y\n")
            return table.open_archive(folder / "t.csv", TableColumns(signal_column="file"), Layout(fs=100))
        case "cinc2020":
            for number in (1, 2, 3):
                write_record(folder / f"A000{number}", comments=["#Dx: 426783006"], samples=wave(10, 12), suffix="mat")
            return cinc2020.open_archive(folder)
        case _:
            for name in ("100", "101", "103"):
                about = ["#69 M 1085 1629 x1"]
                write_record(folder / name, wave(7200, 2), ("MLII", "V5"), fs=360, comments=about)
                wfdb.wrann(name, "atr", np.array([360, 720]), ["N", "V"], write_dir=str(folder))
            return mitdb.open_archive(folder)


@pytest.mark.parametrize("module", ["ptbxl", "table", "mimic_iv_ecg", "cinc2020", "mitdb"])
def test_every_archive_rejects_a_row_whatever_its_reader_raises(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that converts a row raises for one of them; the others are kept."""
    archives = {"ptbxl": ptbxl, "table": table, "mimic_iv_ecg": mimic_iv_ecg, "cinc2020": cinc2020, "mitdb": mitdb}
    convert = {"mimic_iv_ecg": "_usable_report", "mitdb": "_windows"}.get(module, "_study")
    original, calls = getattr(archives[module], convert), []

    def odd(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise ZeroDivisionError("odd")
        return original(*args)

    before = open_archive(module, tmp_path / "before")
    monkeypatch.setattr(archives[module], convert, odd)
    after = open_archive(module, tmp_path / "after")
    (new,) = set(after.rejects) - set(before.rejects)
    assert new.record_id and new.reason == "unreadable record: ZeroDivisionError: odd"
    assert 0 < len(after.studies) < len(before.studies)
