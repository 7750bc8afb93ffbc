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
from etp_jax.data_prep.archives.table import TableColumns, open_archive
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
