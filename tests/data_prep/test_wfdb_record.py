from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from ptbxl_samples import LEADS, signal_of, write_signal

from data_prep.archives import wfdb_record
from data_prep.archives.wfdb_record import read_wfdb
from etp_jax.errors import EtpError


@pytest.fixture
def record(tmp_path: Path) -> Path:
    write_signal(tmp_path, 1)
    return tmp_path / "records100" / "00000" / "00001_lr"


def test_reads_what_wfdb_wrote(record):
    recording = read_wfdb(record)
    np.testing.assert_allclose(recording.signal, 1000 * signal_of(1), atol=1e-9)
    assert (recording.fs, recording.channels) == (100.0, tuple(LEADS))


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": [7] * 12, "adc_gain": [333.3] * 12},
        {"units": ["uV"] * 12, "adc_gain": [1.5] * 12, "p_signal": 1000 * signal_of(1)},
        {"units": ["V", *["mV"] * 11]},
        {"fs": 250.5},
        {"comments": ["Age: 50", "Dx: none"]},
        {"p_signal": np.where(np.arange(1000)[:, None] == 5, np.nan, signal_of(1))},
        {"fmt": ["212"] * 12, "adc_gain": [100.0] * 12},
        {"fmt": ["32"] * 12},
    ],
)
def test_agrees_with_wfdb(tmp_path, changes):
    write_signal(tmp_path, 1, **changes)
    path = tmp_path / "records100" / "00000" / "00001_lr"
    expected: Any = wfdb.rdrecord(str(path))
    scale = [{"mV": 1e3, "uV": 1.0, "V": 1e6}[unit] for unit in expected.units]
    recording = read_wfdb(path)
    np.testing.assert_allclose(recording.signal, expected.p_signal * scale, rtol=1e-12)
    assert recording.fs == expected.fs


def test_only_plain_headers_are_read_without_wfdb(record, tmp_path, monkeypatch):
    monkeypatch.setattr(wfdb_record, "_read_any", lambda path: path)
    assert not isinstance(read_wfdb(record), Path)
    write_signal(tmp_path, 2, fmt=["212"] * 12, adc_gain=[100.0] * 12)
    assert isinstance(read_wfdb(record.with_name("00002_lr")), Path)
    header = record.with_name("00001_lr.hea")
    header.write_text(header.read_text().replace(".dat 16 ", ".dat 16+24 "))  # a byte offset
    assert isinstance(read_wfdb(record), Path)


def damage_cut(record: Path) -> None:
    record.with_name("00001_lr.dat").write_bytes(record.with_name("00001_lr.dat").read_bytes()[:-5])


def damage_bit(record: Path) -> None:
    data = bytearray(record.with_name("00001_lr.dat").read_bytes())
    data[2400] ^= 8
    record.with_name("00001_lr.dat").write_bytes(data)


def header(record: Path, old: str, new: str) -> None:
    path = record.with_name("00001_lr.hea")
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode("latin-1")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, "unreadable signal: 00001_lr.dat holds 23995 bytes, not 1000 samples of 12 leads"),
        (damage_bit, "checksum: lead I of 00001_lr differs from the header"),
        (lambda record: record.with_name("00001_lr.dat").unlink(), "missing file: 00001_lr.dat"),
        (lambda record: record.with_name("00001_lr.hea").unlink(), "missing file: 00001_lr.hea"),
        (lambda record: record.with_name("00001_lr.hea").write_text(""), "unreadable signal: 00001_lr "),
        (lambda record: header(record, "_lr 12 100", "_lr 13 100"), "unreadable signal: 00001_lr "),
        (lambda record: header(record, "_lr 12 100", "_lr 11 100"), "unreadable signal: 00001_lr "),
        (lambda record: header(record, ".dat 16 ", ".dat 999 "), "unreadable signal: 00001_lr "),
        (lambda record: header(record, "/mV", "/mmHg"), "unit: 00001_lr is in 'mmHg', not in one of mV"),
        (lambda record: header(record, "V6", "\xff"), "unreadable signal: 00001_lr "),
        (lambda record: header(record, "00001_lr 12", "junk"), "unreadable signal: 00001_lr "),
    ],
)
def test_damaged_records(record, damage, message):
    damage(record)
    with pytest.raises(EtpError) as error:
        read_wfdb(record)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
