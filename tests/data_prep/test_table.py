"""One's own ECGs: files of every kind, and the table that lists them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.cli import main
from etp_jax.data_prep.archives.archive import hashed_split
from etp_jax.data_prep.archives.table import open_archive
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.data_prep.build import build
from etp_jax.data_prep.reports import split_english
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record

FS = 100
SIGNAL = np.cumsum(np.random.default_rng(0).integers(-20, 21, (1000, 12)), axis=0) / 1000.0
"""Millivolt, whole microvolts."""
LAYOUT = Layout(fs=FS)


def write_edf(path: Path, signal: np.ndarray, channels: list[str], unit: str = "mV", low: float = -5.0) -> None:
    """An EDF file (Kemp et al. 1992) of one-second blocks that spans `low` to -`low`."""

    def cells(values: list, width: int) -> bytes:
        return b"".join(str(value).ljust(width)[:width].encode() for value in values)

    count, records = len(channels), len(signal) // FS
    head = [("0", 8), ("patient", 80), ("recording", 80), ("01.01.20", 8), ("00.00.00", 8), (256 * (count + 1), 8)]
    head += [("", 44), (records, 8), (1, 8), (count, 4)]
    columns = [(channels, 16), ([""] * count, 80), ([unit] * count, 8), ([low] * count, 8), ([-low] * count, 8)]
    columns += [([-32768] * count, 8), ([32767] * count, 8), ([""] * count, 80), ([FS] * count, 8), ([""] * count, 32)]
    digits = np.rint((signal - low) / (-2 * low) * 65535 - 32768).astype("<i2")
    blocks = digits[: records * FS].reshape(records, FS, count).transpose(0, 2, 1)
    parts = [cells([value], width) for value, width in head] + [cells(values, width) for values, width in columns]
    path.write_bytes(b"".join(parts) + blocks.tobytes())


def write_signal(folder: Path, kind: str, name: str) -> str:
    """`SIGNAL` as a file of some kind; returns what the table says."""
    path = folder / f"{name}.{kind}"
    match kind:
        case "npy":
            np.save(path, SIGNAL.T)
        case "mat":
            scipy.io.savemat(path, {"fs": FS, "ecg": SIGNAL})
        case "csv":
            pd.DataFrame({**dict(zip(LEADS, SIGNAL.T, strict=True)), "time": np.arange(1000) / FS}).to_csv(
                path, index=False
            )
        case "edf":
            write_edf(path, SIGNAL, [f"ECG {lead}" for lead in LEADS])
        case "wfdb":
            wfdb.wrsamp(name, FS, ["mV"] * 12, list(LEADS), SIGNAL, fmt=["16"] * 12, write_dir=str(folder))
            return name
    return path.name


@pytest.mark.parametrize("kind", ["npy", "mat", "csv", "edf", "wfdb"])
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    recording = read_signal(tmp_path / write_signal(tmp_path, kind, "one"), LAYOUT)
    assert recording.fs == FS
    values = recording.signal[:, : len(LEADS)]
    tolerance = 0.2 if kind in ("edf", "wfdb") else 1e-9  # 16 bits over 10 mV are steps of 0.15 µV
    np.testing.assert_allclose(values, 1000 * SIGNAL, atol=tolerance)


def test_both_ways_round_and_one_lead(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SIGNAL)
    np.save(tmp_path / "b.npy", SIGNAL[:, 1])
    np.testing.assert_array_equal(read_signal(tmp_path / "a.npy", LAYOUT).signal, 1000 * SIGNAL)
    single = read_signal(tmp_path / "b.npy", Layout(fs=FS, leads=("II",), unit="uV"))
    assert single.channels == ("II",)
    np.testing.assert_array_equal(single.signal[:, 0], SIGNAL[:, 1])


def test_edf_keeps_voltages_only(tmp_path: Path) -> None:
    write_edf(tmp_path / "a.edf", SIGNAL[:, :2], ["I", "Resp"], unit="uV", low=-5000.0)
    assert read_signal(tmp_path / "a.edf", Layout()).channels == ("I", "Resp")
    write_edf(tmp_path / "b.edf", SIGNAL[:, :2], ["I", "II"], unit="bpm")
    with pytest.raises(EtpError, match=r"^unit: b\.edf is in 'bpm'"):
        read_signal(tmp_path / "b.edf", Layout())


@pytest.mark.parametrize(
    ("name", "content", "layout", "reason"),
    [
        ("a.npy", None, LAYOUT, "missing file: a.npy"),
        ("a.npy", b"no array", LAYOUT, "unreadable signal: a.npy"),
        ("a.mat", b"no matrix", LAYOUT, "unreadable signal: a.mat"),
        ("a.edf", b"0       no EDF", LAYOUT, "unreadable signal: a.edf"),
        ("a.csv", b"I,II\n1,x\n", LAYOUT, "unreadable signal: a.csv"),
        ("a.csv", b"I,II\n1,2\n", Layout(), "sampling rate: a.csv does not contain it"),
        ("a.csv", b"I,II\n1,2\n", Layout(fs=FS, unit="kV"), "unit: 'kV' is not one of"),
        ("a", None, LAYOUT, "missing file: a.hea"),
    ],
)
def test_bad_files(name: str, content: bytes | None, layout: Layout, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EtpError, match=f"^{reason}"):
        read_signal(tmp_path / name, layout)


def test_arrays_whose_leads_are_unclear(tmp_path: Path) -> None:
    np.save(tmp_path / "square.npy", np.zeros((12, 12)))
    np.save(tmp_path / "eight.npy", np.zeros((8, 1000)))
    scipy.io.savemat(tmp_path / "two.mat", {"a": SIGNAL, "b": SIGNAL})
    for name, reason in (("square.npy", "lead count"), ("eight.npy", "lead count"), ("two.mat", "unreadable signal")):
        with pytest.raises(EtpError, match=f"^{reason}"):
            read_signal(tmp_path / name, LAYOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files and their table: two of each kind, the last without its file."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for number in range(10):
        kind = ("npy", "mat", "csv", "edf", "wfdb")[number % 5]
        rows.append(
            {
                "file": write_signal(folder, kind, f"ecg{number}"),
                "patient": f"p{number // 2}",
                "report": "Sinus rhythm. Rate 72.5/min;\nleft axis deviation.",
                "codes": ("NORM", "SR | NORM", "")[number % 3],
                "age": ("61", "unknown")[number % 2],
                "sex": ("F", "male")[number % 2],
            }
        )
    (folder / "ecg8.edf").unlink()
    with (folder / "ecgs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_from_the_table_to_shards(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "shards"
    columns = ["--signal-column", "file", "--report-column", "report", "--label-column", "codes"]
    columns += ["--patient-column", "patient", "--age-column", "age", "--sex-column", "sex"]
    table = str(folder / "ecgs.csv")
    main.main(["prep", "table", "--csv", table, *columns, "--fs", "100", "--out", str(out), "--workers", "1"])
    assert "missing file: 1" in capsys.readouterr().out
    assert "sound" in str(check_shards(out))
    shards = Shards(out)
    assert shards.label_vocabulary == ("NORM", "SR")
    records: dict[str, Record] = {}
    for name in shards.splits:
        split = shards.split(name)
        for row in range(len(split)):
            record = split[row]
            assert name == hashed_split(record.patient_id)
            np.testing.assert_allclose(record.ecg, 1000 * SIGNAL, atol=0.7)
            records[record.record_id] = record
    assert len(records) == 9
    first, second = records["ecg0.npy"], records["ecg1.mat"]
    assert first.statements == ("Sinus rhythm", "Rate 72.5/min", "left axis deviation")
    assert first.report == "Sinus rhythm. Rate 72.5/min. left axis deviation"
    assert (first.labels, second.labels, records["ecg2.csv"].labels) == (("NORM",), ("SR", "NORM"), ())
    assert (first.age, first.sex, second.sex) == (61, "female", "male") and np.isnan(second.age)


def test_bad_tables(folder: Path, tmp_path: Path) -> None:
    columns = TableColumns(signal_column="file", report_column="report", split_column="split", id_column="id")
    with pytest.raises(EtpError, match="column 'id' is missing"):
        open_archive(folder / "ecgs.csv", columns, LAYOUT)
    with pytest.raises(EtpError, match="No such file"):
        open_archive(folder / "none.csv", columns, LAYOUT)
    table = tmp_path / "t.csv"
    table.write_text("id,file,report,split\na,,x,train\n,a.npy,x,test\nb,b.npy,x,dev\n", encoding="utf-8")
    archive = open_archive(table, columns, LAYOUT)
    assert [reject.reason.split(":")[0] for reject in archive.rejects] == ["signal", "record id", "split"]
    with pytest.raises(EtpError, match="no usable record"):
        build(archive, tmp_path / "out")


def own_table(folder: Path, rows: list[dict[str, str]], encoding: str = "utf-8", separator: str = ",") -> Path:
    """A table whose records all have one signal file."""
    np.save(folder / "a.npy", SIGNAL)
    np.save(folder / "b.npy", SIGNAL)
    with (folder / "t.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "t.csv"


def test_labels_as_programs_write_them(tmp_path: Path) -> None:
    cells = ["['AF', 'LBBB']", "{'NORM': 100.0, 'SR': 0.0}", '["AF"]', "nan", "NaN", "AF LBBB", "[]", "None", "[AF"]
    rows = [{"id": str(n), "file": "a.npy", "codes": cell} for n, cell in enumerate(cells)]
    columns = TableColumns(signal_column="file", label_column="codes", id_column="id")
    archive = open_archive(own_table(tmp_path, rows), columns, LAYOUT)
    assert archive.label_vocabulary == ("AF", "LBBB", "NORM", "SR")
    assert [study.labels for study in archive.studies] == [
        ("AF", "LBBB"),
        ("NORM", "SR"),
        ("AF",),
        (),
        (),
        ("AF", "LBBB"),
        (),
        (),
    ]
    assert archive.studies[1].likelihoods == (100.0, 0.0)
    assert [(reject.record_id, reject.reason[:7]) for reject in archive.rejects] == [("8", "labels:")]
    assert archive.notes == {"labels with likelihood 0 count as present": 1, "labels separated by blanks": 1}


def test_what_a_table_assumes_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"id": "1", "file": "a.npy", "patient": "00123", "age": "300", "sex": "0"},
        {"id": "2", "file": "a.npy", "patient": "123.0", "age": "45Y", "sex": "F"},
        {"id": "3", "file": "b.npy", "patient": "123", "age": "", "sex": "nan"},
        {"id": "4", "file": "b.npy", "patient": "", "age": "4", "sex": "m"},
        {"id": "5", "file": "b.npy", "patient": "9", "age": "4", "sex": "m"},
        {"id": "5", "file": "a.npy", "patient": "8", "age": "4", "sex": "m"},
    ]
    table = own_table(tmp_path, rows, "utf-16", ";")
    argv = ["prep", "table", "--csv", str(table), "--signal-column", "file", "--id-column", "id", "--fs", "100"]
    argv += ["--patient-column", "patient", "--age-column", "age", "--sex-column", "sex", "--workers", "1"]
    main.main([*argv, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    shards = Shards(tmp_path / "out")
    (split,) = [shards.split(name) for name in shards.splits]
    assert split.columns.patient_id == ["123"] * 3 and split.columns.sex == ["", "female", ""]
    np.testing.assert_array_equal(split.columns.age, [np.nan, 45, np.nan])
    assert shards.build["rejects"] == {"patient": 1, "repeated record id": 2}
    assert shards.build["notes"] == {
        "table in utf-16": 6,
        "table separated by semicolons": 6,
        "no unit given: mV assumed": 3,
        "patient ids without leading zeros and .0": 2,
        "age is not possible or not understood; stored as unknown": 1,
        "sex is not understood; stored as unknown": 1,
    }
    for note, count in shards.build["notes"].items():
        assert f"  {note}: {count}\n" in printed


def test_patients_by_any_spelling_are_in_one_split(tmp_path: Path) -> None:
    spellings = [f"{name}-{number}" for number in range(20) for name in ("P", "p", " P")]
    rows = [{"id": str(n), "file": "a.npy", "patient": f"{cell} "} for n, cell in enumerate(spellings)]
    columns = TableColumns(signal_column="file", id_column="id", patient_column="patient")
    archive = open_archive(own_table(tmp_path, rows), columns, LAYOUT)
    assert [study.patient_id for study in archive.studies] == [f"P-{n // 3}" for n in range(60)]
    assert archive.notes == {"patient ids that differ in upper and lower case are one patient": 20}
    rows = [row | {"split": ("train", "test")[n]} for n, row in enumerate(rows[:2])]
    columns = TableColumns(signal_column="file", id_column="id", patient_column="patient", split_column="split")
    with pytest.raises(EtpError, match="patient P-0 is in two splits"):
        build(open_archive(own_table(tmp_path, rows), columns, LAYOUT), tmp_path / "out")


def test_leads_that_are_absent_are_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pd.DataFrame(SIGNAL[:, :2], columns=["I (mV)", "C1 (mV)"]).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "t.csv").write_text("file\na.csv\n")
    argv = ["prep", "table", "--csv", str(tmp_path / "t.csv"), "--signal-column", "file", "--fs", "100"]
    main.main([*argv, "--workers", "1", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "  absent lead: 1 (II 1, III 1, aVR 1, aVL 1, aVF 1, V2 1, V3 1, V4 1, V5 1, V6 1)\n" in printed
    assert "  read C1 as V1: 1\n" in printed
    build = Shards(tmp_path / "out").build
    assert build["verdicts"] == {"absent lead": 1, "empty report": 1}
    assert list(build["leads_by_verdict"]["absent lead"]) == [lead for lead in LEADS if lead not in ("I", "V1")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--name", "my-data"],
            "--name 'my-data': TFDS takes letters, digits and _ only, a letter first; take 'my_data'",
        ),
        (["--name", "2024"], "take 'ecg_2024'"),
        (["--fs", "0"], "sampling rate: --fs is 0"),
        (["--unit", "kV"], "unit: 'kV' is not one of mV"),
        (["--unit", "uV"], "no usable record; voltage: the leads span"),
    ],
)
def test_mistakes_are_found_at_once(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = own_table(tmp_path, [{"file": "a.npy"}])
    np.save(tmp_path / "a.npy", SIGNAL / 1000)
    argv = ["prep", "table", "--csv", str(table), "--signal-column", "file", "--fs", "100", "--workers", "1", *options]
    with pytest.raises(SystemExit) as stop:
        main.main([*argv, "--out", str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("etp: ")]
    assert stop.value.code == 2 and len(lines) == 1 and message in lines[0]


def test_odd_cells_reject_their_rows_only(tmp_path: Path) -> None:
    files = ["a.npy", "a\0.npy", "/", "..", "x" * 5000]
    table = own_table(tmp_path, [{"id": str(n), "file": file, "age": "9" * 400} for n, file in enumerate(files)])
    columns = TableColumns(signal_column="file", id_column="id", age_column="age")
    build(open_archive(table, columns, LAYOUT), tmp_path / "out")
    assert sum(Shards(tmp_path / "out").splits.values()) == 1
    with (tmp_path / "out/rejects.csv").open(newline="", encoding="utf-8") as file:
        assert {row["record_id"] for row in csv.DictReader(file)} == {"1", "2", "3", "4"}


def test_reports_in_german(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SIGNAL)
    (tmp_path / "t.csv").write_text("file,report\na.npy,sinusrhythmus. linkstyp\n", encoding="utf-8")
    columns = TableColumns(signal_column="file", report_column="report")
    build(open_archive(tmp_path / "t.csv", columns, LAYOUT, translate=True), tmp_path / "out")
    shards = Shards(tmp_path / "out")
    (name,) = shards.splits
    assert shards.split(name)[0].statements[0] == "sinus rhythm"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_statements_lose_no_word(text: str) -> None:
    """Every letter and digit of a report is in its statements, in order, unless a statement repeats."""
    statements = split_english(text)
    assert all(statement == statement.strip() and "\n" not in statement for statement in statements)
    assert len(set(statements)) == len(statements)
    remaining = iter("".join(filter(str.isalnum, text)))
    assert all(letter in remaining for letter in filter(str.isalnum, "".join(statements)))
