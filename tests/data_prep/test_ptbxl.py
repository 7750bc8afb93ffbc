from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from etp_jax.data_prep.archives.ptbxl import open_archive, read_folds
from etp_jax.data_prep.build import build, build_part
from etp_jax.data_prep.parts import Part, merge
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards
from tests.helpers.ptbxl_samples import RECORDS, row_of, signal_of, write_archive, write_signal, write_table
from tests.helpers.unsealed import unsealed


@pytest.fixture(scope="module")
def archive_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("ptbxl") / "source")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A source without signals."""
    write_table(tmp_path / "ptbxl_database.csv", [row_of(number) for number in range(RECORDS)])
    write_table(tmp_path / "scp_statements.csv", [{"": code} for code in ("NORM", "AFIB", "SR")])
    return tmp_path


def test_studies(archive_folder):
    archive = open_archive(archive_folder)
    assert (archive.name, archive.fs, archive.samples, archive.leads) == ("ptbxl", 100, 1000, LEADS)
    assert archive.label_vocabulary == ("AFIB", "IMI", "NORM", "SR")
    assert len(archive.studies) == RECORDS
    assert archive.rejects == ()
    first, second, third = archive.studies[:3]
    assert (first.record_id, first.patient_id, first.age, first.sex) == ("0", "1000", 56.0, "male")
    assert (first.labels, first.likelihoods) == (("NORM", "SR"), (100.0, 0.0))  # 0 stays: present, likelihood unknown
    assert first.report == "sinusrhythmus. normales ekg"
    assert (second.age, second.sex, second.labels, second.likelihoods) == (90.0, "female", ("AFIB",), (80.0,))
    assert math.isnan(third.age)
    assert (third.sex, third.report, third.labels) == ("", " ", ())


def test_folds_become_splits(archive_folder):
    for study in open_archive(archive_folder).studies:
        fold = int(study.record_id) % 10 + 1
        assert study.split == {9: "validation", 10: "test"}.get(fold, "train")


def test_signals_at_both_rates(archive_folder):
    for rate in (100, 500):
        recording = open_archive(archive_folder, rate).studies[1].read()
        assert recording.fs == rate
        np.testing.assert_allclose(recording.signal, 1000 * signal_of(1, rate), atol=1e-9)
    with pytest.raises(EtpError, match=r"^missing file: 00002_hr.hea$"):
        open_archive(archive_folder, 500).studies[2].read()
    with pytest.raises(EtpError, match="rate 250: PTB-XL comes at 100 and 500 Hz"):
        open_archive(archive_folder, 250)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"p_signal": signal_of(1)[:, :11], "fmt": ["16"] * 11, "adc_gain": [1e3] * 11, "baseline": [0] * 11},
            "lead count: 11 instead of 12",
        ),
        ({"p_signal": signal_of(1)[:900]}, "length: 900 samples at 100 Hz instead of 1000 at 100 Hz"),
        ({"fs": 50}, "length: 1000 samples at 50 Hz instead of 1000 at 100 Hz"),
        ({"sig_name": [*LEADS[:11], "V7"]}, "lead names: V6 is missing among I II III"),
    ],
)
def test_unusable_signals(tmp_path, tables, changes, message):
    if len(changes.get("baseline", ())) == 11:
        changes = {**changes, "sig_name": list(LEADS[:11]), "units": ["mV"] * 11}
    write_signal(tables, 1, **changes)
    with pytest.raises(EtpError, match=message):
        open_archive(tables).studies[1].read()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"scp_codes": "{'NORM': 100.0, 'XYZ': 0.0}"}, "unknown SCP code: 'XYZ' is not in scp_statements.csv"),
        ({"scp_codes": "NORM"}, "SCP codes: 'NORM' is not a dictionary of code and likelihood"),
        ({"scp_codes": "__import__('os')"}, 'SCP codes: "__import__'),
        ({"scp_codes": ""}, "SCP codes: '' is not"),
        ({"scp_codes": "{'NORM': 'high'}"}, "SCP codes: "),
        ({"strat_fold": "11"}, "fold: '11' is not one of 1-10"),
        ({"strat_fold": ""}, "fold: '' is not one of 1-10"),
        ({"strat_fold": "1e1"}, "fold: '1e1' is not one of 1-10"),
        ({"scp_codes": "{'NORM': 100.0, 'NORM': 0.0}"}, "SCP codes: \"{'NORM': 100.0, 'NORM': 0.0}\" has a code twice"),
        ({"patient_id": ""}, "patient: '' is no whole number"),
        ({"patient_id": "1000.7"}, "patient: '1000.7' is no whole number"),
        ({"patient_id": "1_000"}, "patient: '1_000' is no whole number"),
        ({"ecg_id": ""}, "record id: empty"),
    ],
)
def test_unusable_rows_are_rejected_with_their_reason(tables, cell, reason):
    write_table(tables / "ptbxl_database.csv", [row_of(1), {**row_of(2), **cell}, row_of(3)])
    archive = open_archive(tables)
    assert [study.record_id for study in archive.studies] == ["1", "3"]
    (reject,) = archive.rejects
    assert reject.record_id == cell.get("ecg_id", "2")
    assert reject.split == ("" if "strat_fold" in cell else "train")
    assert reject.reason.startswith(reason)


def test_ids_ages_and_sexes_are_read_as_written(tables):
    cells = [
        {"patient_id": "0900719925474099312.0", "age": "61", "sex": "1.0", "strat_fold": "10.0"},
        {"patient_id": "900719925474099313", "age": "6_1", "sex": "2"},
        {"age": "121", "sex": "female", "report": "NaN"},
    ]
    write_table(tables / "ptbxl_database.csv", [{**row_of(number), **cell} for number, cell in enumerate(cells)])
    archive = open_archive(tables)
    first, second, third = archive.studies
    assert (first.patient_id, first.split, first.age, first.sex) == ("900719925474099312", "test", 61, "female")
    assert (second.patient_id, second.sex) == ("900719925474099313", "")
    assert math.isnan(second.age) and math.isnan(third.age)
    assert third.report == ""
    assert archive.notes == {
        "age is not possible or not understood; stored as unknown": 2,
        "sex is not understood; stored as unknown": 2,
    }


def test_folds_of_rows_that_differ_are_unknown(tables):
    rows = [row_of(1), row_of(2), {**row_of(1), "strat_fold": "10"}, {**row_of(2), "report": ""}]
    write_table(tables / "ptbxl_database.csv", rows)
    assert read_folds(tables / "ptbxl_database.csv")[0] == {2: ("1002", "train")}


def test_codes_are_exact_tokens(tables):
    write_table(tables / "ptbxl_database.csv", [{**row_of(1), "scp_codes": "{'NOR': 100.0}"}])
    assert open_archive(tables).rejects[0].reason.startswith("unknown SCP code: 'NOR'")


def test_the_source_is_known_by_its_content(archive_folder, tables):
    one, other = open_archive(archive_folder).source, open_archive(tables).source
    assert one["ptbxl_database.csv"] == other["ptbxl_database.csv"]
    assert one["scp_statements.csv"] != other["scp_statements.csv"]
    assert one["signal sizes"] != other["signal sizes"]
    assert not any(str(archive_folder) in value for value in one.values())


def test_tables_that_cannot_be_read(tables):
    database = tables / "ptbxl_database.csv"
    good = database.read_bytes()
    database.write_bytes(good.replace(b"Vorhofflimmern", "Vorhofflimmern für".encode("latin-1")))
    with pytest.raises(EtpError, match=rf"^{database}: not UTF-8 \(byte \d+\); download it again or convert"):
        open_archive(tables)
    database.write_bytes(good.replace(b"scp_codes", b"codes"))
    with pytest.raises(EtpError, match=rf"^{database}: column 'scp_codes' is missing"):
        open_archive(tables)
    breaks = {
        b"": "column 'ecg_id' is missing; it has no columns",
        good + b'7,"2': r"not a CSV table \(line 32: unexpected end of data\); download it again",
        good + b"7,2\n": "line 32 has 2 cells instead of 9; download it again",
        good.replace(b"filename_hr", b"age"): "column 'age' appears twice",
    }
    for broken, message in breaks.items():
        database.write_bytes(broken)
        with pytest.raises(EtpError, match=rf"^{database}: {message}"):
            open_archive(tables)
    database.unlink()
    with pytest.raises(EtpError, match=rf"^{database}: No such file or directory; name the file"):
        open_archive(tables)
    database.write_bytes(good)
    (tables / "scp_statements.csv").unlink()
    with pytest.raises(EtpError, match=r"scp_statements.csv: No such file"):
        open_archive(tables)


def test_marks_of_noise_are_carried_to_the_shards(tmp_path):
    rows = [row_of(number) for number in range(RECORDS)]
    cells = {"static_noise": " , I-AVR,  ", "burst_noise": " ", "electrodes_problems": ""}
    for number, row in enumerate(rows):
        row.update({name: cell if number in (3, 5) else "" for name, cell in cells.items()})
    source = write_archive(tmp_path / "source")
    write_table(source / "ptbxl_database.csv", rows)
    expected = {"static noise": ["3", "5"], "burst noise": [], "electrodes problems": []}  # without baseline_drift
    build(open_archive(source), tmp_path / "whole")
    assert Shards(tmp_path / "whole").marks == expected
    for number in (1, 2):
        build_part(open_archive(source), tmp_path / f"part{number}", Part(number, 2))
    merge([tmp_path / "part1", tmp_path / "part2"], tmp_path / "merged")
    for name in ("build.json", "dataset_info.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_marks_leave_the_bytes_of_the_shards_alone(archive_folder, tmp_path):
    """A folder without marks, as an earlier version wrote it, opens, and has the fingerprint of one with marks."""
    build(open_archive(archive_folder), tmp_path / "shards")
    shards = Shards(tmp_path / "shards")
    assert shards.marks == {}  # this archive's table has none of the columns
    content = unsealed(tmp_path / "shards" / "build.json")
    del content["marks"]
    (tmp_path / "shards" / "build.json").write_text(json.dumps(content))
    old = Shards(tmp_path / "shards")
    assert old.marks is None and old.fingerprint == shards.fingerprint
    assert build(open_archive(archive_folder), tmp_path / "shards").seconds == 0  # finished, left as it is
