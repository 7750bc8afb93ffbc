from __future__ import annotations

import math
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etp_jax.cli import main
from etp_jax.data_prep.archives.archive import Archive, hashed_split
from etp_jax.data_prep.archives.mimic_iv_ecg import REPORT_COLUMNS, clean_statements, open_archive
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from tests.helpers.mimic_samples import (
    CELLS,
    PATIENTS,
    RECORDS,
    patient_of,
    record_row,
    report_row,
    signal_of,
    study_of,
    write_archive,
    write_signal,
    write_tables,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("mimic") / "source")


def opened(folder: Path, *reports: dict[str, str]) -> Archive:
    """An archive of the first three records, without signals, and with these rows of measurements."""
    return open_archive(write_tables(folder, [record_row(number) for number in range(3)], list(reports)))


def test_studies(source):
    archive = open_archive(source)
    assert (archive.name, archive.fs, archive.samples, archive.leads) == ("mimic_iv_ecg", 100, 1000, LEADS)
    assert (archive.label_vocabulary, archive.rejects) == ((), ())
    assert [study.record_id for study in archive.studies] == [study_of(number) for number in range(RECORDS)]
    study = archive.studies[4]
    assert (study.patient_id, study.sex, study.labels, study.likelihoods) == (patient_of(4), "", (), ())
    assert math.isnan(study.age)
    assert study.statements == ("Sinus rhythm", "Possible inferior infarct - age undetermined", "Abnormal ECG")
    assert study.report == "\n".join(cell for cell in CELLS if cell)
    assert open_archive(source, 500).samples == 5000
    with pytest.raises(EtpError, match="rate 250: shards of MIMIC-IV-ECG are made at 100 and 500 Hz"):
        open_archive(source, 250)


def test_in_parts_from_the_command_line(source, tmp_path, capsys):
    folders = [str(tmp_path / number) for number in ("1", "2")]
    for number, folder in enumerate(folders, start=1):
        main.main(
            ["prep", "mimic-iv-ecg", "--source", str(source), "--out", folder, "--workers", "1", f"--part={number}/2"]
        )
    main.main(["prep", "merge", "--parts", *folders, "--out", str(tmp_path / "shards")])
    main.main(["check", str(tmp_path / "shards")])
    assert f"sound; {RECORDS} records" in capsys.readouterr().out


def test_tables_are_joined_by_study(tmp_path):
    reports = [report_row(number, (f"Finding {number}",)) for number in (2, 0, 1)]
    archive = opened(tmp_path, *reports)
    assert [study.statements for study in archive.studies] == [("Finding 0",), ("Finding 1",), ("Finding 2",)]


def test_splits_are_by_patient_and_the_metadata_say_so(source, tmp_path):
    studies = open_archive(source).studies
    home = {study.patient_id: study.split for study in studies}
    assert len(home) == PATIENTS
    assert all(study.split == home[study.patient_id] == hashed_split(study.patient_id) for study in studies)
    assert set(home.values()) == {"train", "validation", "test"}
    recipe = build(open_archive(source), tmp_path / "shards").build["preparation"]["splits"]
    assert recipe["split"] == "by SHA-256 of the patient id: 80 % train, 10 % validation, 10 % test"
    assert any(re.fullmatch(pattern, "poor data quality") for pattern in recipe["dropped statements"])
    assert check_shards(tmp_path / "shards").patients == PATIENTS


@pytest.mark.parametrize("rate", [100, 500])
def test_leads_are_taken_by_name(source, tmp_path, rate):
    build(open_archive(source, rate), tmp_path / "shards")
    for split in Shards(tmp_path / "shards").splits:
        for record in Shards(tmp_path / "shards").split(split):  # pyright: ignore[reportGeneralTypeIssues]
            assert record.ecg.shape == (10 * rate, 12)
            inner = record.ecg[rate:-rate].astype(float)  # away from the edges, which resampling bends
            amplitudes = np.ptp(inner, axis=0) / 2
            # The archive's fifth lead is aVF, its sixth aVL; here they change places.
            np.testing.assert_allclose(amplitudes, [100, 200, 300, 400, 600, 500, *range(700, 1300, 100)], rtol=0.02)
            assert record.lead_mask.all()
    if rate == 500:
        number = (int(record.record_id) - 40_000_000) // 7  # pyright: ignore[reportPossiblyUnboundVariable]
        expected = np.rint(1000 * signal_of(number)).astype(np.int16)
        archive_order = [0, 1, 2, 3, 5, 4, *range(6, 12)]
        np.testing.assert_array_equal(record.ecg, expected[:, archive_order])  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_programs_word_for_nothing_is_no_statement(tmp_path):
    write_tables(tmp_path, [record_row(0)], [report_row(0, ("NaN", "Sinus rhythm", "nan"))])
    (study,) = open_archive(tmp_path).studies
    assert (study.report, study.statements) == ("Sinus rhythm", ("Sinus rhythm",))


def test_damaged_signals_are_rejected_and_counted(source, tmp_path):
    folder = tmp_path / "source"
    reports = [report_row(number) for number in range(5)]
    folder.mkdir()
    write_tables(folder, [record_row(number) for number in range(5)], reports)
    for number, seconds in ((0, 10), (1, 10), (2, 10), (3, 8)):
        write_signal(folder, number, seconds)
    cut = (folder / record_row(1)["path"]).with_suffix(".dat")
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / record_row(2)["path"]).with_suffix(".hea").unlink()
    summary = build(open_archive(folder), tmp_path / "shards")
    assert sum(Shards(tmp_path / "shards").splits.values()) == 1
    assert summary.build["rejects"] == {"length": 1, "missing file": 2, "unreadable signal": 1}
    rejects = (tmp_path / "shards/rejects.csv").read_text()
    assert f"{study_of(1)}.dat holds 119900 bytes" in rejects
    assert f"missing file: {study_of(2)}.hea" in rejects
    assert "length: 4000 samples at 500 Hz instead of 10 s" in rejects


@pytest.mark.parametrize(
    ("cells", "statements"),
    [
        (("Sinus rhythm.", " sinus  RHYTHM", "Normal EKG"), ("Sinus rhythm", "Normal ECG")),
        (("", "\tSinus\u00a0rhythm \n", "  "), ("Sinus rhythm",)),
        (("*** Sinus rhythm. ***", "--- Possible measurement error ---"), ("Sinus rhythm",)),
        (("Summary: Abnormal ECG", "Abnormal ECG.", "Summary:"), ("Abnormal ECG",)),
        (("Pacemaker rhythm - no further analysis",), ("Pacemaker rhythm - no further analysis",)),
        (("Left axis deviation (> -30)", "Rate 50-60?"), ("Left axis deviation (> -30)", "Rate 50-60?")),
        (("Interpretation based on noisy lead II", "Sinus tachycardia"), None),
        (("Lead reversal cannot explain the inferior infarct", "Sinus rhythm"), ("Sinus rhythm",)),
    ],
)
def test_statements(cells, statements):
    assert clean_statements(cells) == (cells if statements is None else statements)


@pytest.mark.parametrize(
    "statement",
    [
        "Warning: Data quality may affect interpretation",
        "*** Poor data quality, interpretation may be affected",
        "Technically difficult study",
        "Artifact in lead(s) I, II and baseline wander in lead(s) V1",
        "Baseline wander",
        "All 12 leads are missing",
        "Lead(s) unsuitable for analysis: V1",
        "Suspect arm lead reversal, interpretation assumes no reversal",
        "12 Lead; Standard Placement",
        "Analysis error",
        "No further analysis attempted",
        "INTERPRETATION MADE WITHOUT KNOWING PATIENT'S GENDER/AGE",
        "AGE NOT ENTERED, ASSUMED TO BE 50 YEARS OLD FOR PURPOSE OF ECG INTERPRETATION",
        "No previous ECG available for comparison",
        "*** Unconfirmed ***",
        "Suggest repeat tracing",
        "Clinical correlation is suggested",
    ],
)
def test_technical_statements_go_and_findings_stay(statement):
    assert clean_statements((statement, "Sinus rhythm")) == ("Sinus rhythm",)
    finding = f"Atrial fibrillation, {statement.strip('* ')}"
    assert clean_statements((finding,)) == (finding,)


@given(st.lists(st.text(max_size=20), max_size=18))
def test_statements_are_clean_and_clean_again(cells):
    statements = clean_statements(cells)
    assert len({statement.casefold() for statement in statements}) == len(statements)
    for statement in statements:
        assert statement == " ".join(statement.split()).strip(".")
        assert re.search(r"\w", statement)
    assert clean_statements(statements) == statements


def test_records_that_cannot_be_used(tmp_path):
    blank, technical = report_row(1, ("", " ")), report_row(2, ("Poor data quality",))
    archive = opened(tmp_path, blank, technical)
    assert archive.studies == ()
    assert {reject.record_id: reject.reason for reject in archive.rejects} == {
        study_of(0): "no report: no row of machine_measurements.csv",
        study_of(1): "no report: it has no statement about the heart",
        study_of(2): "no report: it has no statement about the heart",
    }
    assert [reject.split for reject in archive.rejects] == [hashed_split(patient_of(number)) for number in range(3)]


def test_a_study_with_two_rows_is_no_study(tmp_path):
    archive = opened(tmp_path, report_row(0), report_row(1), report_row(1, ("Sinus rhythm",)), report_row(2))
    assert [reject.reason for reject in archive.rejects] == [
        "duplicate study: several rows of machine_measurements.csv"
    ]
    write_tables(tmp_path, [record_row(0), record_row(0), record_row(1)], [report_row(0), report_row(1)])
    archive = open_archive(tmp_path)
    assert [study.record_id for study in archive.studies] == [study_of(1)]
    assert [reject.reason for reject in archive.rejects] == ["duplicate study: 2 rows of record_list.csv"] * 2


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"subject_id": ""}, "patient: '' is no number"),
        ({"study_id": ""}, "record id: '' is no number"),
        ({"path": "files/none"}, "missing file: none.hea"),
    ],
)
def test_rows_with_empty_or_wrong_cells(source, tmp_path, cell, reason):
    write_tables(tmp_path, [{**record_row(0), **cell}], [report_row(0)])
    archive = open_archive(tmp_path)
    if archive.rejects:
        assert archive.rejects[0].reason == reason
    else:
        with pytest.raises(EtpError, match=re.escape(reason)):
            archive.studies[0].read()


@pytest.mark.parametrize("table", ["record_list.csv", "machine_measurements.csv"])
def test_tables_that_cannot_be_read(tmp_path, table, capsys):
    write_tables(tmp_path, [record_row(0), record_row(1)], [report_row(0), report_row(1)])
    path = tmp_path / table
    good = path.read_bytes()

    def line() -> str:
        """What `etp prep` says: one line."""
        with pytest.raises(SystemExit) as stop:
            main.main(["prep", "mimic-iv-ecg", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
        assert stop.value.code == 2
        (printed,) = capsys.readouterr().err.splitlines()
        return printed

    path.write_bytes(good.replace(b"study_id", b"study"))
    assert line().startswith(f"etp: {path}: column 'study_id' is missing; it has subject_id, study, ")
    path.write_bytes(b"")
    assert line().startswith(f"etp: {path}: column ")
    path.write_bytes(good[:-70])
    assert re.search(rf"^etp: {path}: line 3 has \d+ cells instead of \d+; download it again$", line())
    path.write_bytes(good + b'"1,2')  # a quote without end would take the rows after it
    assert line().startswith(f"etp: {path}: not a CSV table (line 4: unexpected end of data")
    path.write_bytes(good.replace(b"4000000", b"\xff000000"))
    assert line().startswith(f"etp: {path}: not a CSV table in UTF-8 (")
    path.unlink()
    assert line() == f"etp: {path}: No such file or directory; --source must name a folder of MIMIC-IV-ECG's layout"
    assert not (tmp_path / "out").exists()


def test_tables_with_a_byte_order_mark(source, tmp_path):
    expected = open_archive(source)
    for table in ("record_list.csv", "machine_measurements.csv"):
        for encoding in ("utf-8-sig", "utf-16"):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(source, tmp_path / "copy")
            content = (source / table).read_text(encoding="utf-8")
            (tmp_path / "copy" / table).write_text(content, encoding=encoding, newline="")
            found = open_archive(tmp_path / "copy")
            assert [study.record_id for study in found.studies] == [study.record_id for study in expected.studies]
            assert found.rejects == expected.rejects


def test_columns_are_found_by_name(tmp_path):
    records = [dict(reversed(record_row(0).items()))]
    write_tables(tmp_path, records, [dict(reversed(report_row(0).items()))])
    (study,) = open_archive(tmp_path).studies
    assert (study.record_id, study.patient_id) == (study_of(0), patient_of(0))
    assert study.statements == clean_statements(report_row(0)[column] for column in REPORT_COLUMNS)


def test_the_source_is_known_by_its_content(source, tmp_path):
    known = open_archive(source).source
    assert known == open_archive(source, 500).source
    assert not any(str(source) in value for value in known.values())
    (tmp_path / "record_list.csv").write_bytes((source / "record_list.csv").read_bytes())
    (tmp_path / "machine_measurements.csv").write_bytes((source / "machine_measurements.csv").read_bytes())
    other = open_archive(tmp_path).source
    assert [name for name in known if known[name] != other[name]] == ["signal sizes"]


def test_studies_are_slim(tmp_path):
    """800,000 of them are held at once, and thousands are sent to a worker."""
    rows = range(2000)
    write_tables(tmp_path, [record_row(number) for number in rows], [report_row(number) for number in rows])
    studies = open_archive(tmp_path).studies
    assert len({id(study.report) for study in studies}) == len({id(study.statements) for study in studies}) == 1
    assert len({id(study.patient_id) for study in studies}) == PATIENTS
    assert not hasattr(studies[0], "__dict__") and not hasattr(studies[0].read, "__dict__")
    assert len(pickle.dumps(studies)) / len(studies) < 300
