from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from etp_jax.cli import main
from etp_jax.data_prep.archives.archive import hashed_split
from etp_jax.data_prep.archives.mitdb import open_archive
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards

FS, SECONDS = 360, 35
BEATS = ((1.0, "N"), (2.5, "V"), (9.99, "N"), (10.0, "A"), (15.0, "~"), (16.0, "/"), (31.0, "R"))
"""Second and annotation code; the last lies beyond the last whole window, `~` and `/` are none of the five types."""


def write(
    folder: Path, name: str, channels: tuple[str, str] = ("MLII", "V5"), about: str = "69 M 1085 1629 x1"
) -> None:
    """A record as MIT-BIH writes it: format 212, 200 units a millivolt around 1024, with beat annotations."""
    rng = np.random.default_rng(int(name))
    signal = np.cumsum(rng.integers(-5, 6, (FS * SECONDS, 2)), axis=0).clip(-900, 900) + 1024
    wfdb.wrsamp(
        name,
        fs=FS,
        units=["mV", "mV"],
        sig_name=list(channels),
        d_signal=signal,
        fmt=["212", "212"],
        adc_gain=[200, 200],
        baseline=[1024, 1024],
        comments=[about],
        write_dir=str(folder),
    )
    samples, symbols = zip(*((round(second * FS), symbol) for second, symbol in BEATS), strict=True)
    wfdb.wrann(name, "atr", np.array(samples), list(symbols), write_dir=str(folder))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mitdb")
    write(folder, "100")
    write(folder, "114", ("V5", "MLII"), "54 F 1711 1738 x1")
    write(folder, "201", ("MLII", "V1"), "-1 M 0 0 x1")
    write(folder, "202", ("MLII", "V1"))
    return folder


def test_windows_and_their_beats(source: Path) -> None:
    archive = open_archive(source)
    windows = [study for study in archive.studies if study.patient_id == "100"]
    assert [study.record_id for study in windows] == ["100-0000", "100-0010", "100-0020"]
    assert [study.labels for study in windows] == [("N", "V"), ("A",), ()]
    assert windows[0].likelihoods == (-1.0, -1.0) and (windows[0].age, windows[0].sex) == (69.0, "male")
    assert archive.label_vocabulary == ("A", "L", "N", "R", "V") and archive.samples == 1000


def test_one_patient_with_two_records(source: Path) -> None:
    studies = [study for study in open_archive(source).studies if study.record_id[:3] in ("201", "202")]
    assert {study.patient_id for study in studies} == {"201"}
    assert {study.split for study in studies} == {hashed_split("201")}
    assert math.isnan(studies[0].age)


def test_shards_hold_the_window_in_the_right_leads(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """At the file's own rate nothing is resampled, so the values must be the file's, lead by name."""
    build(open_archive(source, rate=FS), tmp_path / "shards")
    assert "sound" in str(check_shards(tmp_path / "shards"))
    shards = Shards(tmp_path / "shards")
    found = 0
    for split in map(shards.split, shards.splits):
        for row, record_id in enumerate(split.columns.record_id):
            name, start = record_id.split("-")
            theirs: Any = wfdb.rdrecord(str(source / name))
            window = 1000 * np.asarray(theirs.p_signal)[int(start) * FS : (int(start) + 10) * FS]
            ecg = split.ecg(np.array([row]))[0]
            places = [LEADS.index({"MLII": "II"}.get(lead, lead)) for lead in theirs.sig_name or ()]
            np.testing.assert_array_equal(ecg[:, places], np.rint(window))
            mask = split.columns.lead_mask[row]
            assert set(np.flatnonzero(mask)) == set(places) and not ecg[:, ~mask].any()
            found += 1
    assert found == 12


def test_bad_records_are_rejected(source: Path, tmp_path: Path) -> None:
    """No annotations; annotations that are cut; a cut signal, which only its windows show."""
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "100.atr").unlink()
    (tmp_path / "114.atr").write_bytes((tmp_path / "114.atr").read_bytes()[:-2])
    data = (tmp_path / "201.dat").read_bytes()
    (tmp_path / "201.dat").write_bytes(data[:1000])
    archive = open_archive(tmp_path)
    assert {reject.record_id: reject.reason.split(":")[0] for reject in archive.rejects} == {
        "100": "missing file",
        "114": "unreadable annotations",
    }
    summary = build(archive, tmp_path / "out")
    assert summary.build["rejects"] == {"missing file": 1, "unreadable annotations": 1, "unreadable signal": 3}


def test_upper_case_files_and_comments_ahead(source: Path, tmp_path: Path) -> None:
    """As on the database's CD-ROM; the header begins with a comment in Latin-1."""
    for suffix in ("hea", "dat", "atr"):
        (tmp_path / f"100.{suffix.upper()}").write_bytes((source / f"100.{suffix}").read_bytes())
    header = tmp_path / "100.HEA"
    header.write_bytes("# Aufzeichnung für 100\n".encode("latin-1") + header.read_bytes())
    theirs = [study for study in open_archive(source).studies if study.patient_id == "100"]
    for ours, study in zip(open_archive(tmp_path).studies, theirs, strict=True):
        assert (ours.record_id, ours.labels, ours.age, ours.sex) == (
            study.record_id,
            study.labels,
            study.age,
            study.sex,
        )
        np.testing.assert_array_equal(ours.read().signal, study.read().signal)
    header.write_bytes(header.read_bytes().replace(b"12600", b"99999999999"))
    (reject,) = open_archive(tmp_path).rejects
    assert reject.reason == "unreadable signal: the header of 100 announces 2.77778e+08 s, not half an hour"


def test_a_folder_without_records(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(EtpError, match="no WFDB header"):
        open_archive(tmp_path)
    with pytest.raises(EtpError, match="at least 1"):
        open_archive(source, seconds=0)
    main.main(["prep", "mitdb", "--source", str(source), "--out", str(tmp_path / "shards"), "--workers", "1"])
    assert "records: 12" in capsys.readouterr().out
    assert json.loads((tmp_path / "shards/build.json").read_text())["preparation"]["splits"]["same patient"] == {
        "202": "201"
    }
