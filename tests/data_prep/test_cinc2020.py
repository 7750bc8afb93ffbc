from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from etp_jax.cli.prep import PrepCinc2020, prep_cinc2020
from etp_jax.data_prep.archives.archive import hashed_split
from etp_jax.data_prep.archives.cinc2020 import DATASETS, open_archive
from etp_jax.data_prep.build import build
from etp_jax.errors import EtpError
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record
from tests.helpers.ptbxl_samples import write_table
from tests.helpers.wfdb_samples import LEADS, wave, write_record

FRANK = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6", "vx", "vy", "vz")


def write(source: Path, name: str, dx: str | None = "426783006", age: str = "50", sex: str = "Male", **record) -> Path:
    """A record as the Challenge writes it: 7 s at 500 Hz if nothing else is said."""
    comments = [f"#Age: {age}", f"# Sex: {sex}", *([] if dx is None else [f"#Dx: {dx}"]), "#Rx: Unknown"]
    record = {"samples": wave(3500, 12, seed=len(name)), "format": "16+24", "suffix": "mat", **record}
    return write_record(source / name, comments=comments, **record)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("cinc2020")
    write(source / "training/cpsc_2018/g1", "A0001", "59118001", samples=wave(7500, 12))
    write(source / "training/cpsc_2018/g2", "A0011", "RBBB,AF", "NaN", "Female")
    write(source / "training/cpsc_2018_extra/g1", "Q0001", " 164867002, 427084000,164867002", "-1", "F")
    georgia = write(source / "training/georgia/g1", "E00001", "426177001", "Unknown", "M")
    header = georgia.with_name("E00001.hea")
    header.write_text(header.read_text().replace("E00001 12", "E00001.mat 12"))
    write(
        source / "ptb", "S0001", "164865005", samples=wave(12000, 15), leads=FRANK, fs=1000, format="16", gain="1000/mv"
    )
    for number in (1, 2, 3):
        write(source / "ptb-xl/g1", f"HR0000{number}", "426783006", "300", "Unknown")
    write(source / "chapman/g1", "JS00001", "426783006,164934002", format="16x1+24")
    write(source / "chapman/g1", "JS00002", "Unknown", "", "")
    write(source / "chapman/g1", "JS00003", "426783006,Sinus")
    write(source / "chapman/g1", "JS00004", None)
    write(source / "chapman/g1", "JS00005", samples=wave(1000, 12))
    write(source / "st_petersburg_incart", "I0001", "426783006")
    return source


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folds of the first two copies; the third has been withdrawn from PTB-XL."""
    path = tmp_path_factory.mktemp("ptbxl") / "ptbxl_database.csv"
    rows = [("1", "15709.0", "10"), ("2", "13243.0", "9"), ("4", "", "3")]
    write_table(path, [dict(zip(("ecg_id", "patient_id", "strat_fold"), row, strict=True)) for row in rows])
    return path


def test_headers_become_studies(source, database):
    archive = open_archive(source, ptbxl_database=database)
    studies = {study.record_id: study for study in archive.studies}
    assert list(studies) == sorted(studies)
    assert {name: study.labels for name, study in studies.items()} == {
        "A0001": ("59118001",),
        "A0011": ("59118001", "164889003"),
        "E00001": ("426177001",),
        "HR00001": ("426783006",),
        "HR00002": ("426783006",),
        "JS00001": ("426783006", "164934002"),
        "JS00002": (),
        "JS00005": ("426783006",),
        "Q0001": ("164867002", "427084000"),
        "S0001": ("164865005",),
    }
    assert archive.label_vocabulary == tuple(sorted({code for study in studies.values() for code in study.labels}))
    assert studies["A0011"].likelihoods == (-1.0, -1.0)
    assert {study.dataset for study in studies.values()} == set(DATASETS.values())
    assert studies["E00001"].dataset == "georgia"
    assert {(study.report, study.statements) for study in studies.values()} == {("", ())}
    assert [studies[name].age for name in ("A0001", "HR00001")] == [50, 90]
    assert all(math.isnan(studies[name].age) for name in ("A0011", "Q0001", "E00001", "JS00002"))
    sexes = {"A0001": "male", "A0011": "female", "Q0001": "female", "E00001": "male", "HR00001": "", "JS00002": ""}
    assert {name: studies[name].sex for name in sexes} == sexes


def test_copies_of_ptbxl_take_its_folds_and_the_others_a_hash(source, database):
    archive = open_archive(source, ptbxl_database=database)
    studies = {study.record_id: study for study in archive.studies}
    assert (studies["HR00001"].patient_id, studies["HR00001"].split) == ("ptb-xl/15709", "test")
    assert (studies["HR00002"].patient_id, studies["HR00002"].split) == ("ptb-xl/13243", "validation")
    for name, study in studies.items():
        if study.dataset != "ptb-xl":
            assert (study.patient_id, study.split) == (name, hashed_split(name))
    assert archive.recipe["patients"].startswith("unknown")
    with pytest.raises(EtpError, match=r"holds copies of PTB-XL's records.*name that file with --ptbxl-database"):
        open_archive(source)
    with pytest.raises(EtpError, match=r"no.csv: no such file; --ptbxl-database names"):
        open_archive(source, ptbxl_database=source / "no.csv")


def test_what_cannot_be_used_is_rejected_with_its_reason(source, database):
    reasons = {reject.record_id: reject for reject in open_archive(source, ptbxl_database=database).rejects}
    assert {name: reject.reason.split(" is ")[0] for name, reject in reasons.items()} == {
        "HR00003": "fold: ptbxl_database.csv has no fold of ecg_id 3",
        "I0001": "record name: I0001",
        "JS00003": "unknown code: 'Sinus'",
        "JS00004": "labels: the header has no #Dx line",
    }
    assert reasons["JS00003"].split == hashed_split("JS00003")


def test_what_a_header_says_twice_or_wrongly(tmp_path):
    write(tmp_path, "A0001").with_name("A0001.hea").open("a").write("#Dx: 426783006\n")
    write(tmp_path, "A0002").with_name("A0002.hea").open("a").write("# Dx: 164889003\n")
    write(tmp_path, "A0003", age="5_0", sex="x")
    write(tmp_path, "A0004", age="400", sex="Unknown").with_name("A0004.hea").open("a").write("#Hx: see #Age: 40\n")
    archive = open_archive(tmp_path)
    assert [(reject.record_id, reject.reason) for reject in archive.rejects] == [
        ("A0002", "header: its #Dx lines differ")
    ]
    assert [study.record_id for study in archive.studies] == ["A0001", "A0003", "A0004"]
    assert all(math.isnan(study.age) and study.sex == "" for study in archive.studies[1:])
    assert archive.notes == {
        "age is not possible or not understood; stored as unknown": 2,
        "sex is not understood; stored as unknown": 1,
    }


def test_some_data_sets_only(source):
    archive = open_archive(source, datasets=("georgia", "ptb"))
    assert [study.record_id for study in archive.studies] == ["E00001", "S0001"]
    assert archive.rejects == ()
    assert archive.recipe["data sets"] == ["georgia", "ptb"]
    with pytest.raises(EtpError, match=r"^no data set 'cpsc' in the Challenges; there are cpsc_2018, "):
        open_archive(source, datasets=("cpsc",))


@pytest.mark.parametrize("text", ["normal", "rbbb", "RBBB AF", "IRBBB", "PVCs", "59118001;164889003", "0x1", "²"])
def test_codes_are_exact_tokens(tmp_path, text):
    write(tmp_path, "A0001", text)
    (reject,) = open_archive(tmp_path).rejects
    assert reject.reason.startswith(f"unknown code: {text!r} is neither a number nor one of Normal, AF, ")


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(EtpError, match=rf"^{tmp_path}: holds no WFDB header"):
        open_archive(tmp_path)
    (tmp_path / "A0001.hea").mkdir()
    with pytest.raises(EtpError, match=rf"^{tmp_path}/A0001.hea: is a folder; a file is needed there$"):
        open_archive(tmp_path)
    (tmp_path / "A0001.hea").rmdir()
    write(tmp_path / "2020", "A0001")
    write(tmp_path / "2021", "A0001")
    with pytest.raises(EtpError, match=rf"^{tmp_path}/2021/A0001.hea: record A0001 is also in {tmp_path}/2020"):
        open_archive(tmp_path)
    with pytest.raises(EtpError, match="rate 0 Hz, 10 s: both must be at least 1"):
        open_archive(tmp_path, rate=0)


def test_a_changed_header_or_signal_is_another_source(tmp_path):
    write(tmp_path, "A0001")
    first = open_archive(tmp_path).source
    assert open_archive(tmp_path).source == first
    write(tmp_path, "A0001", "164889003")
    second = open_archive(tmp_path).source
    assert second["headers"] != first["headers"]
    with (tmp_path / "A0001.mat").open("ab") as file:
        file.write(b"\0")
    assert open_archive(tmp_path).source["signal sizes"] != second["signal sizes"]
    assert not any(str(tmp_path) in value for value in first.values())


@pytest.fixture(scope="module")
def shards(source: Path, database: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out = tmp_path_factory.mktemp("built") / "shards"
    prep_cinc2020(PrepCinc2020(source=source, out=out, rate=500, ptbxl_database=database, workers=1))
    return Shards(out)


def test_shards(shards):
    assert check_shards(shards.folder).patients == 9
    assert shards.build["rejects"] == {
        "fold": 1,
        "labels": 1,
        "record name": 1,
        "too short": 1,
        "unknown code": 1,
    }
    assert shards.build["verdicts"] == {"cropped": 2, "empty report": 9, "padded": 7}
    preparation = shards.build["preparation"]
    assert preparation["length"] == "a longer record keeps its first samples, a shorter one gets zeros at the end"
    assert preparation["splits"]["patients"] == "unknown: the record id stands for the patient"
    assert json.dumps(preparation)


def test_signals_are_the_archives(shards):
    records: dict[str, Record] = {}
    for name in shards.splits:
        records |= {record.record_id: record for record in shards.split(name)}  # pyright: ignore[reportGeneralTypeIssues]
    assert records["Q0001"].dataset == "cpsc_2018_extra"
    for name, seed in (("Q0001", 5), ("E00001", 6), ("JS00001", 7)):
        np.testing.assert_array_equal(records[name].ecg[:3500], wave(3500, 12, seed))
        assert not records[name].ecg[3500:].any()
    np.testing.assert_array_equal(records["A0001"].ecg, wave(7500, 12)[:5000])
    np.testing.assert_allclose(records["S0001"].ecg[50:-50], wave(12000, 15)[100:9900:2, :12], atol=120)
    assert all(record.lead_mask.all() for record in records.values())


def test_upper_case_suffixes_and_latin_comments(tmp_path):
    path = write(tmp_path / "source", "A0001", sex="Männlich")
    header = path.with_name("A0001.hea")
    path.with_name("A0001.HEA").write_bytes(header.read_text(encoding="utf-8").encode("latin-1"))
    path.with_name("A0001.mat").rename(path.with_name("A0001.MAT"))
    header.unlink()
    build(open_archive(tmp_path / "source", rate=500), tmp_path / "shards")
    (record,) = Shards(tmp_path / "shards").split(hashed_split("A0001"))  # pyright: ignore[reportGeneralTypeIssues]
    np.testing.assert_array_equal(record.ecg[:3500], wave(3500, 12, 5))
    assert record.labels == ("426783006",) and record.age == 50 and record.sex == ""


def test_every_rate_and_length(source, tmp_path):
    summary = build(open_archive(source, rate=128, seconds=5, datasets=("cpsc_2018",)), tmp_path / "shards")
    shards = Shards(tmp_path / "shards")
    assert (shards.fs, shards.samples, shards.leads) == (128, 640, LEADS)
    assert summary.build["verdicts"] == {"cropped": 2, "empty report": 2}
