from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.ecg import wfdb as wfdb_reader
from etp_jax.ecg.leads import MICROVOLT, lead_of
from etp_jax.ecg.prepare import prepare
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from tests.helpers.ptbxl_samples import signal_of, write_signal
from tests.helpers.wfdb_samples import LEADS, wave, write_record


@pytest.fixture
def record(tmp_path: Path) -> Path:
    write_signal(tmp_path, 1)
    return tmp_path / "records100" / "00000" / "00001_lr"


def test_reads_what_wfdb_wrote(record):
    recording = read_wfdb(record)
    np.testing.assert_allclose(recording.signal, 1000 * signal_of(1), atol=1e-9)
    assert (recording.fs, recording.channels) == (
        100.0,
        tuple(lead.upper() if lead[0] == "a" else lead for lead in LEADS),
    )


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
        {"fmt": ["24"] * 12},
        {"fmt": ["80"] * 12, "adc_gain": [50.0] * 12},
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


def test_integers_are_read_without_wfdb(record, tmp_path, monkeypatch):
    monkeypatch.setattr(wfdb_reader, "_read_by_wfdb", lambda path, header, kept: np.zeros((0, 12)))
    assert len(read_wfdb(record).signal) == 1000
    assert len(read_wfdb(write_record(tmp_path / "A0001", wave(99, 12), format="16x1+24", suffix="mat")).signal) == 99
    write_signal(tmp_path, 2, fmt=["212"] * 12, adc_gain=[100.0] * 12)
    assert len(read_wfdb(record.with_name("00002_lr")).signal) == 0


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, dict[str, np.ndarray], int]:
    """A header with some of the fields that may be left out, the samples of each file, and their byte offset."""
    offset = draw(st.sampled_from([0, 24]))
    length = draw(st.integers(1, 20))
    lines, files = [], {}
    for number in range(draw(st.integers(1, 2))):
        kind, width = draw(st.sampled_from([("16", "<i2"), ("32", "<i4")])), draw(st.integers(1, 2))
        limits = np.iinfo(kind[1])
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        samples = rng.integers(limits.min, limits.max, (length, width), endpoint=True).astype(kind[1])
        samples[draw(st.integers(0, length - 1)), 0] = limits.min
        files[f"r_{number}.dat"] = samples
        for values in samples.T:
            gain = draw(st.floats(0.01, 5000).map("{:.5g}".format) | st.sampled_from(["-200", "1e3", "2.5e-1"]))
            gain += draw(st.sampled_from(["", "(0)", "(-7)", "(512)"])) + draw(
                st.sampled_from(["", "/mV", "/uV", "/V"])
            )
            rest = (
                f"16 {draw(st.sampled_from([0, -3, 1024]))} {values[0]} {int(values.sum(dtype=np.int64)) % 65536} 0 V1"
            )
            fields = rest.split()[: draw(st.integers(0, 6))]
            form = kind[0] + draw(st.sampled_from(["", "x1"])) + (f"+{offset}" if offset else "")
            lines.append(" ".join([f"r_{number}.dat", form, gain, *fields]))
    fs = draw(st.sampled_from(["100", "257", "500/500(0)", "1000", "249.5"]))
    clock = draw(st.sampled_from(["", " 12:33:59", " 12:33:59 12/05/2020"]))
    head = [f"r {len(lines)} {fs} {length}{clock}", "", "# Age: 50"]
    return "\n".join([*head[: draw(st.integers(1, 3))], *lines, "#Dx: 426783006", ""]), files, offset


@settings(max_examples=40, deadline=None)
@given(headers())
def test_every_header_is_read_as_wfdb_reads_it(tmp_path_factory, content):
    header, files, offset = content
    path = tmp_path_factory.mktemp("record") / "r"
    path.with_name("r.hea").write_text(header)
    for name, samples in files.items():
        path.with_name(name).write_bytes(bytes(offset) + samples.tobytes())
    expected: Any = wfdb.rdrecord(str(path))
    recording = read_wfdb(path)
    np.testing.assert_allclose(recording.signal, expected.p_signal * [MICROVOLT[u] for u in expected.units], rtol=1e-12)
    assert np.isnan(recording.signal).any()
    assert recording.fs == expected.fs
    assert recording.channels == tuple(name or "" for name in expected.sig_name)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_header_gives_a_reason_or_the_samples(tmp_path_factory, data):
    path = write_record(tmp_path_factory.getbasetemp() / "r", wave(20, 3), LEADS[:3])
    text = path.with_name("r.hea").read_text()
    place = data.draw(st.integers(0, len(text) - 1))
    path.with_name("r.hea").write_text(text[:place] + data.draw(st.sampled_from("\n 0-x+(/:#A~")) + text[place + 1 :])
    try:
        recording = read_wfdb(path)
    except EtpError as error:
        assert re.match(r"[a-z ]+: .", str(error))
    else:
        assert recording.signal.shape == (20, 3 - len(recording.notes))  # a channel without a voltage unit is left out


@pytest.mark.parametrize(
    ("old", "new", "signal"),
    [
        ("1000/mV", "1000", 1.0),  # WFDB's default unit is the millivolt
        ("1000/mV", "500(0)/mV", 2.0),
        ("1000/mV", "1/uV", 1.0),
        ("r 3", "r.mat 3", 1.0),
        ("r 3 500 2500", "r 3 500", 1.0),  # as many samples as the file holds
        ("1000/mV", "0/mV", "gain: lead I of r is not calibrated (gain 0 or none in the header)"),
        ("1000/mV", "0", "gain: lead I of r"),
        ("16 1000/mV 16 0", "16", "unreadable signal: r (header line "),
        ("r 3 500 2500", "r 3", "sampling rate: the header of r gives none"),
        ("r 3 500", "r/2 3 500", "unreadable signal: r (the header announces 2 segments and describes 3)"),
        ("r 3 500", "r/3 3 500", "unreadable signal: r (too many values to unpack"),
        (".dat 16 ", ".dat 16x2 ", "unreadable signal: r.dat holds 15000 bytes, not 2500 samples of 3 leads"),
        ("r 3 500 2500", "r 3 0 2500", "sampling rate: the header of r gives 0"),
        ("r 3 500 2500", "r 3 nan 2500", "unreadable signal: r (the header has no record line)"),
        ("1000/mV", f"1000({'9' * 400})/mV", "unreadable signal: r (header line "),
        (".dat 16 ", ".dat 212 ", "checksum: lead I of r differs"),
        ("r.dat 16 ", "r.dat 516 ", "unreadable signal: r.dat is damaged, or no FLAC file"),
        (".dat 16 ", ".dat 16+24 ", "unreadable signal: r.dat holds 14976 bytes, not 2500 samples of 3 leads"),
        ("r.dat", "other/r.dat", "unreadable signal: r "),
    ],
)
def test_odd_headers(tmp_path, old, new, signal):
    samples = wave(2500, 3)
    path = write_record(tmp_path / "r", samples, LEADS[:3])
    text = path.with_name("r.hea").read_text()
    assert old in text
    path.with_name("r.hea").write_text(text.replace(old, new))
    if isinstance(signal, float):
        np.testing.assert_allclose(read_wfdb(path).signal, signal * samples)
    else:
        with pytest.raises(EtpError) as error:
            read_wfdb(path)
        assert str(error.value).startswith(signal)


def test_a_header_without_any_gain(tmp_path):
    path = write_record(tmp_path / "r", wave(10, 1), ["I"])
    path.with_name("r.hea").write_text("r 1 500 10\nr.dat 16\n")
    with pytest.raises(EtpError, match=r"^gain: lead  of r is not calibrated"):
        read_wfdb(path)


FRANK = ["i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6", "vx", "vy", "vz"]


@pytest.mark.parametrize(
    ("leads", "fs", "seconds", "format", "verdicts"),
    [
        (FRANK, 1000, 10, "16", {"good signal"}),
        ([lead.upper() for lead in LEADS], 500, 10, "32", {"good signal"}),
        (["I", "II", *LEADS[6:]], 500, 10, "16", {"derived lead"}),
        (["MLII", "V5"], 360, 10, "16", {"absent lead"}),
        (LEADS, 500, 5, "16+24", {"padded"}),
        (LEADS, 500, 60, "16x1+24", {"cropped"}),
    ],
)
def test_odd_records_become_ten_seconds_of_twelve_leads(tmp_path, leads, fs, seconds, format, verdicts):
    samples = wave(fs * seconds, len(leads))
    path = write_record(tmp_path / "r", samples, leads, fs=fs, format=format)
    prepared = prepare(read_wfdb(path), fs, 10 * fs)
    assert prepared.kinds == verdicts
    for number, channel in enumerate(leads[:12]):
        place = LEADS.index(lead_of(channel))
        assert prepared.lead_mask[place]
        assert (prepared.ecg[: len(samples), place] == samples[: 10 * fs, number]).all()
        assert not prepared.ecg[len(samples) :, place].any()
    named = {lead_of(channel) for channel in leads} | ({"III", "aVR", "aVL", "aVF"} if "I" in leads else set())
    assert prepared.lead_mask.tolist() == [lead in named for lead in LEADS]


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
        (damage_cut, "unreadable signal: 00001_lr.dat holds 23995 bytes, not 1000 samples of 12 leads; copy it again"),
        (
            lambda record: header(record, "100 1000", "100 900"),
            "unreadable signal: 00001_lr.dat holds 24000 bytes, not 900 samples of 12 leads; it holds 1000: if no lead",
        ),
        (damage_bit, "checksum: lead I of 00001_lr differs from the header"),
        (lambda record: record.with_name("00001_lr.dat").unlink(), "missing file: 00001_lr.dat"),
        (lambda record: record.with_name("00001_lr.hea").unlink(), "missing file: 00001_lr.hea"),
        (lambda record: record.with_name("00001_lr.hea").write_text(""), "unreadable signal: 00001_lr "),
        (lambda record: header(record, "_lr 12 100", "_lr 13 100"), "unreadable signal: 00001_lr "),
        (lambda record: header(record, "_lr 12 100", "_lr 11 100"), "unreadable signal: 00001_lr "),
        (lambda record: header(record, ".dat 16 ", ".dat 999 "), "unreadable signal: 00001_lr.dat has format 999"),
        (lambda record: header(record, "/mV", "/mmHg"), "unit: 00001_lr is in 'mmHg', not in one of mV"),
        (lambda record: header(record, "00001_lr 12", "junk"), "unreadable signal: 00001_lr "),
    ],
)
def test_damaged_records(record, damage, message):
    damage(record)
    with pytest.raises(EtpError) as error:
        read_wfdb(record)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
