"""Tests `etp prep ptbxl` on the whole of PTB-XL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from etp_jax.data_prep.archives.ptbxl import open_archive
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.shards.check import check_shards
from etp_jax.shards.pool import Processes
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task, labels

ROOT = os.environ.get("ETP_DATA_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="ETP_DATA_ROOT is not set")
SOURCE = Path(ROOT or "") / "ptbxl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Shards of all records at 100 Hz."""
    folder = tmp_path_factory.mktemp("ptbxl") / "shards"
    build(open_archive(SOURCE), folder, Processes(os.cpu_count() or 1))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shards(folder: Path) -> Shards:
    return Shards(folder)


def test_splits_and_checksums(folder):
    summary = check_shards(folder)
    assert summary.splits == {"train": 17418, "validation": 2183, "test": 2198}
    assert summary.patients == 18869


def test_nothing_is_rejected_and_little_is_odd(folder, shards):
    assert (folder / "rejects.csv").read_text() == "record_id,split,reason\n"
    assert shards.build["rejects"] == {}
    assert shards.build["verdicts"]["flat lead"] == 2
    flat = {r.record_id: r for r in shards.split("train") if not r.lead_mask.all()}  # pyright: ignore[reportGeneralTypeIssues]
    assert {name: [LEADS[place] for place in np.flatnonzero(~r.lead_mask)] for name, r in flat.items()} == {
        "12722": ["V5", "V6"],
        "20045": ["V6"],
    }
    assert set(shards.build["verdicts"]) == {"good signal", "flat lead", "empty report"}


@pytest.mark.parametrize(
    ("task", "records"), [("ptbxl-super", 2158), ("ptbxl-sub", 2158), ("ptbxl-form", 880), ("ptbxl-rhythm", 2098)]
)
def test_labelled_records_of_the_test_fold(shards, task, records):
    keep, _ = labels(get_task(task), shards.split("test").columns)
    assert keep.sum() == records


def test_every_signal_is_the_archives(shards):
    files = {path.name.split("_")[0].lstrip("0"): path for path in (SOURCE / "records100").glob("*/*.dat")}
    for name in shards.splits:
        split = shards.split(name)
        columns = split.columns
        for start in range(0, len(split), 500):
            places = range(start, min(start + 500, len(split)))
            for place, ecg in zip(places, split.ecg(list(places)), strict=True):
                raw = np.fromfile(files[columns.record_id[place]], "<i2").reshape(1000, 12)
                mask = columns.lead_mask[place]
                assert (ecg[:, mask] == raw[:, mask]).all()
                assert (np.count_nonzero(np.diff(raw[:, ~mask], axis=0), axis=0) < 80).all()  # of 999 steps


def test_signals_agree_with_wfdb():
    for study in open_archive(SOURCE).studies[::500]:
        path = SOURCE / "records100" / f"{int(study.record_id) // 1000 * 1000:05d}" / f"{int(study.record_id):05d}_lr"
        expected: Any = wfdb.rdrecord(str(path))
        found = read_wfdb(path)
        np.testing.assert_allclose(found.signal, 1000 * expected.p_signal, atol=1e-9)
        assert [name.upper() for name in found.channels] == [lead.upper() for lead in LEADS]


def test_metadata_of_some_records(shards):
    first = shards.split("train")[0]
    assert (first.record_id, first.patient_id, first.age, first.sex) == ("1", "15709", 56.0, "female")
    assert (first.labels, first.likelihoods) == (("NORM", "LVOLT", "SR"), (100.0, 0.0, 0.0))
    assert first.report_original == "sinusrhythmus periphere niederspannung"
    ages = np.concatenate([shards.split(name).columns.age for name in shards.splits])
    assert (ages == 90).sum() == 293
    assert ages.max() == 90
    assert not any("consensus label" in report for name in shards.splits for report in shards.reports(name).reports)


def test_translation(shards):
    for share in shards.build["translation"].values():
        assert share["token_share"] >= 0.97
        assert share["report_share"] >= 0.90


def test_500_hz(tmp_path):
    build(open_archive(SOURCE, 500), tmp_path / "shards", Processes(os.cpu_count() or 1))
    shards = Shards(tmp_path / "shards")
    check_shards(tmp_path / "shards")
    present = len(list((SOURCE / "records500").glob("*/*.dat")))
    assert sum(shards.splits.values()) == present
    assert (shards.fs, shards.samples) == (500, 5000)
    rejected = shards.build["rejects"]
    assert rejected == ({"missing file": 21799 - present} if present < 21799 else {})
