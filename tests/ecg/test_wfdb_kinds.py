"""WFDB records of every structure: formats, units, rates, skew and segments, compared with wfdb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from etp_jax.ecg.leads import Layout
from etp_jax.ecg.read import read_signal
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from tests.helpers.wfdb_samples import LEADS, wave, write_record


def rewrite(path: Path, old: str, new: str, encoding: str = "utf-8") -> None:
    header = path.with_name(f"{path.name}.hea")
    text = header.read_text(encoding="utf-8")
    assert old in text
    header.write_bytes(text.replace(old, new).encode(encoding))


@pytest.mark.parametrize("form", ["8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524"])
@pytest.mark.parametrize("count", [1, 3])
def test_every_format(tmp_path: Path, form: str, count: int) -> None:
    digital = wave(301, count) // (100 if form in ("8", "80", "508") else 10)
    if form in ("61", "160", "310", "311", "8"):  # wfdb reads these but does not write them all
        write_by_hand(tmp_path / "r", digital, form)
    else:
        write_by_wfdb(tmp_path, digital, form, baseline=3)
    expected: Any = wfdb.rdrecord(str(tmp_path / "r"))
    found = read_wfdb(tmp_path / "r")
    np.testing.assert_array_equal(found.signal, expected.p_signal * 1000)
    np.testing.assert_array_equal(np.rint(found.signal / 50 + 3), digital)
    assert (found.fs, found.channels) == (250, LEADS[:count])


def write_by_wfdb(folder: Path, digital: np.ndarray, form: str, baseline: int = 0) -> None:
    """Writes the record `r`: 20 units a millivolt."""
    count = digital.shape[1]
    names: Any = {"units": ["mV"] * count, "sig_name": list(LEADS[:count]), "fmt": [form] * count}
    scale: Any = {"adc_gain": [20.0] * count, "baseline": [baseline] * count}
    wfdb.wrsamp("r", 250, d_signal=digital.astype(np.int64), write_dir=str(folder), **names, **scale)


def write_by_hand(path: Path, digital: np.ndarray, form: str) -> None:
    """Packs samples by the definitions of https://wfdb.io/spec/signal-files.html."""
    flat = digital.astype(np.int64).ravel()
    if form == "8":
        data = np.diff(digital.astype(np.int64), axis=0, prepend=digital[:1]).astype(np.int8).tobytes()
    elif form == "61":
        data = flat.astype(">i2").tobytes()
    elif form == "160":
        data = (flat + 2**15).astype("<u2").tobytes()
    else:
        flat = np.pad(flat, (0, -len(flat) % 3)).reshape(-1, 3) & 0x3FF
        a, b, c = flat.T
        if form == "310":
            words = np.stack([(a << 1) | ((c & 0x1F) << 11), (b << 1) | ((c >> 5) << 11)], axis=1).astype("<u2")
        else:
            words = (a | (b << 10) | (c << 20)).astype("<u4")
        data = words.tobytes()
    path.with_name("r.dat").write_bytes(data)
    lines = [f"r {digital.shape[1]} 250 {len(digital)}"]
    lines += [f"r.dat {form} 20(3)/mV 10 0 {first} 0 0 {lead}" for first, lead in zip(digital[0], LEADS, strict=False)]
    path.with_name("r.hea").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("unit", "microvolts"),
    [("mv", 1000), ("MV", 1000), ("uv", 1), ("UV", 1), ("µV", 1), ("μV", 1), ("nV", 0.001), ("v", 1e6), ("V", 1e6)],
)
def test_spellings_of_units(tmp_path: Path, unit: str, microvolts: float) -> None:
    samples = wave(50, 2)
    path = write_record(tmp_path / "r", samples, LEADS[:2], gain=f"2000.0(0)/{unit}")
    np.testing.assert_allclose(read_wfdb(path).signal, samples / 2000 * microvolts)
    path = write_record(tmp_path / "s", samples, LEADS[:2], gain=f"2000000/{unit}")
    np.testing.assert_allclose(read_wfdb(path).signal, samples / 2e6 * microvolts)


@pytest.mark.parametrize("unit", ["NU", "mmHg", "Ohm", "pm", "bpm", "%", "degC"])
def test_a_channel_that_is_no_voltage_is_left_out_with_a_note(tmp_path: Path, unit: str) -> None:
    samples = wave(50, 4)
    path = write_record(tmp_path / "r", samples, ["PLETH", "I", "RESP", "II"])
    lines = path.with_name("r.hea").read_text().splitlines()
    lines[1], lines[3] = lines[1].replace("1000/mV", f"0/{unit}"), lines[3].replace("/mV", f"/{unit}")
    path.with_name("r.hea").write_text("\n".join(lines))
    found = read_wfdb(path)
    np.testing.assert_array_equal(found.signal, samples[:, [1, 3]])
    assert found.channels == ("I", "II")
    assert found.notes == (f"channel PLETH ({unit}) left out", f"channel RESP ({unit}) left out")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252"])
def test_encodings_of_headers(tmp_path: Path, encoding: str) -> None:
    path = write_record(tmp_path / "r", wave(50, 2), LEADS[:2], comments=["# Ischämie, männlich"])
    rewrite(path, "/mV", "/µV", encoding)
    assert read_wfdb(path).channels == ("I", "II")


def test_a_name_of_another_alphabet_is_no_lead_but_is_read(tmp_path: Path) -> None:
    path = write_record(tmp_path / "r", wave(50, 2), LEADS[:2])
    rewrite(path, "0 II\n", "0 Äbl\n", "latin-1")
    assert read_wfdb(path).channels == ("I", "Äbl")


@pytest.mark.parametrize("upper", [("R.HEA", "R.DAT"), ("r.HEA", "r.DAT"), ("r.hea", "R.DAT"), ("R.HEA", "r.dat")])
@pytest.mark.parametrize("form", ["16", "212"])
def test_upper_case_files(tmp_path: Path, upper: tuple[str, str], form: str) -> None:
    digital = wave(60, 2) // 10
    write_by_wfdb(tmp_path, digital, form)
    for old, new in zip(("r.hea", "r.dat"), upper, strict=True):
        (tmp_path / old).rename(tmp_path / new)
    for name in (*upper, "r"):
        np.testing.assert_array_equal(read_signal(tmp_path / name, Layout()).signal, digital * 50.0)


def test_challenge_2017(tmp_path: Path) -> None:
    """One lead called ECG, and 0 in place of a checksum."""
    samples = wave(3000, 1)
    path = write_record(tmp_path / "A00001", samples, ["ECG"], fs=300, format="16+24", suffix="mat")
    fields = path.with_name("A00001.hea").read_text().split()
    path.with_name("A00001.hea").write_text(
        f"A00001 1 300 3000 05:05:15 1/05/2000 \n{' '.join(fields[4:9])} 7 0 0 ECG "
    )
    for name in ("A00001.mat", "A00001.hea", "A00001"):
        found = read_signal(tmp_path / name, Layout(leads=("II",)))
        np.testing.assert_array_equal(found.signal, samples)
        assert (found.channels, found.fs, found.notes) == (("II",), 300, ("ECG read as II by --leads",))
        for leads in ((), ("I", "II")):
            with pytest.raises(EtpError, match=r"no channel of .* \(ECG\) is a lead; name all 1 with --leads"):
                read_signal(tmp_path / name, Layout(leads=leads))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two leads of four samples a frame, one of two, pressure of one; in two files."""
    rng = np.random.default_rng(0)
    rates, names = [4, 4, 2, 1], ["I", "II", "V1", "ABP"]
    signals = [np.cumsum(rng.integers(-9, 10, 100 * rate)).astype(np.int64) for rate in rates]
    lines = ["r 4 62.5 100"]
    units, files = ["mV", "mV", "mV", "mmHg"], ["a.dat 16", "a.dat 16", "b.dat 32", "b.dat 32"]
    for name, unit, file, rate, baseline in zip(names, units, files, rates, (0, 5, 0, 0), strict=True):
        total = int(signals[names.index(name)].sum()) % 2**16
        lines.append(f"{file}x{rate} 200.0({baseline})/{unit} 16 0 0 {total} 0 {name}")
    (tmp_path / "r.hea").write_text("\n".join(lines) + "\n")
    for file, kind, pair in (("a.dat", "<i2", signals[:2]), ("b.dat", "<i4", signals[2:])):
        blocks = np.hstack([signal.reshape(100, -1) for signal in pair])
        (tmp_path / file).write_bytes(blocks.astype(kind).tobytes())
    return tmp_path / "r"


def test_several_samples_a_frame_are_read_at_the_leads_own_rate(frames: Path) -> None:
    expected: Any = wfdb.rdrecord(str(frames), smooth_frames=False)
    found = read_wfdb(frames)
    assert (found.fs, found.channels) == (250, ("I", "II"))
    np.testing.assert_array_equal(found.signal, 1000 * np.column_stack(expected.e_p_signal[:2]))
    assert found.notes == ("channel ABP (mmHg) left out", "channel V1 (125 Hz) left out: the leads have 250 Hz")


def test_leads_of_several_rates_none_of_which_has_most(frames: Path) -> None:
    rewrite(frames, " II\n", " Resp\n")
    with pytest.raises(EtpError, match=r"channels of r have several: I Resp \(250 Hz\); V1 \(125 Hz\); convert them"):
        read_wfdb(frames)


@pytest.mark.parametrize("form", ["16", "212"])
def test_skew_is_undone_as_wfdb_does(tmp_path: Path, form: str) -> None:
    write_by_wfdb(tmp_path, wave(60, 2), form, baseline=5)
    header = (tmp_path / "r.hea").read_text().splitlines()
    header[2] = header[2].replace(f" {form} ", f" {form}:3 ", 1)
    (tmp_path / "r.hea").write_text("\n".join(header))
    expected: Any = wfdb.rdrecord(str(tmp_path / "r"))
    found = read_wfdb(tmp_path / "r").signal
    np.testing.assert_array_equal(found, 1000 * expected.p_signal)
    assert np.isnan(found[-3:, 1]).all() and not np.isnan(found[:-3]).any()


def test_skew_counts_frames(frames: Path) -> None:
    """Wfdb shifts by frames too, but then marks only as many samples as missing."""
    straight = read_wfdb(frames).signal
    rewrite(frames, "a.dat 16x4 200.0(5)", "a.dat 16x4:3 200.0(5)")
    expected: Any = wfdb.rdrecord(str(frames), smooth_frames=False)
    found = read_wfdb(frames).signal
    np.testing.assert_array_equal(found[:, 0], straight[:, 0])
    np.testing.assert_array_equal(found[:-12, 1], straight[12:, 1])
    np.testing.assert_array_equal(found[:-12], 1000 * np.column_stack(expected.e_p_signal[:2])[:-12])
    assert np.isnan(found[-12:, 1]).all()
    rewrite(frames, "a.dat 16x4:3 200.0(5)", f"a.dat 16x4:{10**12} 200.0(5)")
    assert np.isnan(read_wfdb(frames).signal[:, 1]).all()


def write_segments(folder: Path, layout: bool) -> np.ndarray:
    """Three segments and a gap; with a layout, the second has its channels in another order and lacks one."""
    names = [["I", "II", "V1"]] * 3
    if layout:
        names[1] = ["V1", "I"]
    parts = [wave(length, len(leads), seed=length) for leads, length in zip(names, (40, 25, 60), strict=True)]
    for number, (leads, part) in enumerate(zip(names, parts, strict=True)):
        write_record(folder / f"r_{number}", part, leads, fs=250, gain=f"{100 * (number + 1)}(0)/mV")
    lines = ["r/5 3 250 145" if layout else "r/4 3 250 145"]
    lines += ["r_layout 0"] * layout + ["r_0 40", "~ 20", "r_1 25", "r_2 60"]
    (folder / "r.hea").write_text("\n".join(lines) + "\n")
    layout_lines = ["r_layout 3 250 0", *(f"~ 0 100/mV 12 0 0 0 0 {lead}" for lead in names[0])]
    (folder / "r_layout.hea").write_text("\n".join(layout_lines) + "\n")
    expected = np.full((145, 3), np.nan)
    for start, leads, part, number in zip((0, 60, 85), names, parts, (1, 2, 3), strict=True):
        for lead, samples in zip(leads, part.T, strict=True):
            expected[start : start + len(part), ["I", "II", "V1"].index(lead)] = samples * 10 / number
    return expected


@pytest.mark.parametrize("layout", [True, False])
def test_segments(tmp_path: Path, layout: bool) -> None:
    expected = write_segments(tmp_path, layout)
    found = read_wfdb(tmp_path / "r")
    np.testing.assert_allclose(found.signal, expected, rtol=1e-12)
    assert (found.fs, found.channels) == (250, ("I", "II", "V1"))
    assert found.notes == ("gaps of 0.08 s hold no samples",)
    if layout:  # wfdb joins fixed segments by their numbers, and takes a gap for a missing file
        theirs: Any = wfdb.rdrecord(str(tmp_path / "r"))
        np.testing.assert_allclose(found.signal, theirs.p_signal * 1000, rtol=1e-12)
        assert theirs.sig_name == list(found.channels)


def test_a_segment_without_voltages_is_a_gap(tmp_path: Path) -> None:
    expected = write_segments(tmp_path, layout=True)
    rewrite(tmp_path / "r_1", "/mV", "/mmHg")
    expected[60:85] = np.nan
    np.testing.assert_allclose(read_wfdb(tmp_path / "r").signal, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("r", "~ 20", f"~ {10**11}", "segments: those of r do not add up to its 145 samples"),
        ("r", "r_1 25", "missing 25", "missing file: missing.hea"),
        ("r", "r_1 25", "../r_1 25", "unreadable signal: r "),
        ("r", "250 145", f"250 {10**11 + 125}", "gaps: r holds 125 samples and gaps of 100000000000; split it"),
        ("r_1", "r_1 2 250", "r_1 2 500", "segments: the header of r_1 does not fit that of r"),
        ("r_1", "250 25", "250 24", "segments: the header of r_1 does not fit that of r"),
    ],
)
def test_segments_that_do_not_fit(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    write_segments(tmp_path, layout=True)
    rewrite(tmp_path / file, old, new)
    if message.startswith("gaps"):
        rewrite(tmp_path / "r", "~ 20", f"~ {10**11}")
    with pytest.raises(EtpError) as error:
        read_wfdb(tmp_path / "r")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("form", ["16", "212", "8", "24", "80", "311", "516"])
def test_a_claim_beyond_the_file_is_refused_before_memory_is_taken(tmp_path: Path, form: str) -> None:
    digital = wave(60, 2) // 100
    if form in ("8", "311"):
        write_by_hand(tmp_path / "r", digital, form)
    else:
        write_by_wfdb(tmp_path, digital, form)
    for claim in (61, 10**11):
        rewrite(tmp_path / "r", "250 60", f"250 {claim}")
        with pytest.raises(EtpError, match=rf"^unreadable signal: r\.\w+ holds \d+ bytes, not {claim} samples of 2"):
            read_wfdb(tmp_path / "r")
        rewrite(tmp_path / "r", f"250 {claim}", "250 60")
    next(path for path in tmp_path.iterdir() if path.suffix != ".hea").unlink()
    with pytest.raises(EtpError, match=r"^missing file: r\.(dat|flac)$"):
        read_wfdb(tmp_path / "r")


def test_signals_in_several_files_one_of_which_is_not_needed(tmp_path: Path) -> None:
    first, second = wave(50, 2), wave(50, 1, seed=1)
    write_record(tmp_path / "r", first, ["I", "II"])
    write_record(tmp_path / "s", second, ["PLETH"], gain="1/NU")
    lines = [(tmp_path / f"{name}.hea").read_text().splitlines()[1:] for name in "rs"]
    (tmp_path / "r.hea").write_text("\n".join(["# first a comment", "r 3 500 50", *lines[1], *lines[0]]))
    (tmp_path / "s.dat").unlink()
    np.testing.assert_array_equal(read_wfdb(tmp_path / "r").signal, first)


def test_channels_without_a_name_have_a_number(tmp_path: Path) -> None:
    write_record(tmp_path / "r", wave(300, 2), leads=("", ""))
    with pytest.raises(
        EtpError, match=r"^lead names: no channel of r \(number 1, number 2\) is a lead; name all 2 with"
    ):
        read_signal(tmp_path / "r", Layout())
    assert read_signal(tmp_path / "r", Layout(leads=("II", "V1"))).channels == ("II", "V1")
