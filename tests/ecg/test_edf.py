"""EDF, EDF+ and BDF files, compared with pyedflib to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError

KINDS = {
    "edf": pyedflib.FILETYPE_EDF,
    "edf+": pyedflib.FILETYPE_EDFPLUS,
    "bdf": pyedflib.FILETYPE_BDF,
    "bdf+": pyedflib.FILETYPE_BDFPLUS,
}
MICROVOLTS = {"uV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3, "MV": 1e3}


def write(path: Path, kind: str, signals: dict[str, np.ndarray], duration: float = 1.0, **changes: Any) -> None:
    """Writes by pyedflib; `changes` are header entries, a value or one per signal.

    The samples are rounded here, since pyedflib cuts them off towards 0.
    """
    writer = pyedflib.EdfWriter(str(path), len(signals), file_type=KINDS[kind])
    if duration != 1.0:
        writer.setDatarecordDuration(duration)
    digital = []
    high = 2 ** (15 if kind.startswith("edf") else 23) - 1
    for number, (label, samples) in enumerate(signals.items()):
        entry: dict[str, Any] = {"label": label, "dimension": "uV", "sample_frequency": 100, "physical_max": 3276.7}
        entry |= {"physical_min": -3276.8, "digital_max": high, "digital_min": -high - 1, "transducer": ""}
        entry |= {key: value[number] if isinstance(value, list) else value for key, value in changes.items()}
        writer.setSignalHeader(number, {**entry, "prefilter": ""})
        steps = (entry["digital_max"] - entry["digital_min"]) / (entry["physical_max"] - entry["physical_min"])
        digital.append(np.rint((samples - entry["physical_min"]) * steps + entry["digital_min"]).astype(np.int32))
    if kind.endswith("+"):
        writer.writeAnnotation(0.25, 0.5, "beat")
    writer.writeSamples(digital, digital=True)
    writer.close()


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def field(start: int, value: str, width: int = 8) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[start : start + width] = value.encode("latin-1").ljust(width)

    return change


def column(number: int, of: int, offset: int, width: int, value: str) -> Callable[[bytearray], None]:
    """Changes the field of one signal; `offset` is the sum of the widths of the fields ahead, per signal."""
    return field(256 + of * offset + number * width, value, width)


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).integers(-30, 31, count)).clip(-3000, 3000).astype(np.float64)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, float, dict[str, np.ndarray], dict[str, list[Any]]]:
    leads = draw(st.lists(st.sampled_from(LEADS), min_size=1, max_size=4, unique=True))
    duration, per_record = draw(st.sampled_from([(1, 100), (0.5, 125), (1.5, 300), (2, 257), (0.1, 50), (10, 2500)]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(list(KINDS)))
    changes: dict[str, list[Any]] = {key: [] for key in ("dimension", "physical_min", "physical_max")}
    changes |= {"digital_min": [], "digital_max": []}
    signals = {}
    for lead in leads:
        low, high = sorted(
            draw(st.tuples(st.integers(-32768, 32767), st.integers(-32768, 32767)).filter(lambda x: x[0] != x[1]))
        )
        physical = draw(st.tuples(st.integers(-99999, 0), st.integers(1, 99999)))
        scale = 10 ** draw(st.integers(0, 3))
        ends = [physical[0] / scale, physical[1] / scale]
        changes["digital_min"].append(low)
        changes["digital_max"].append(high)
        changes["physical_min"].append(ends[0])
        changes["physical_max"].append(ends[1])
        changes["dimension"].append(draw(st.sampled_from(list(MICROVOLTS))))
        signals[draw(st.sampled_from(["", "ECG ", "EKG "])) + lead] = rng.uniform(ends[0], ends[1], 3 * per_record)
    changes["sample_frequency"] = [per_record / duration] * len(leads)
    return kind, duration, signals, changes


@settings(max_examples=60, deadline=None)
@given(files())
def test_values_are_those_of_pyedflib_and_within_half_a_step_of_what_was_written(tmp_path_factory, content) -> None:
    kind, duration, signals, changes = content
    path = tmp_path_factory.getbasetemp() / f"a.{kind[:3]}"
    write(path, kind, signals, duration, **changes)
    found = read_signal(path, Layout())
    with pyedflib.EdfReader(str(path)) as theirs:
        assert found.channels == tuple(theirs.getSignalLabels()) == tuple(signals)
        assert found.fs == pytest.approx(theirs.getSampleFrequency(0), rel=1e-15)
        for number, (samples, unit) in enumerate(zip(signals.values(), changes["dimension"], strict=True)):
            values = theirs.readSignal(number)
            np.testing.assert_array_equal(found.signal[:, number], values * MICROVOLTS[unit])
            steps = changes["digital_max"][number] - changes["digital_min"][number]
            step = (changes["physical_max"][number] - changes["physical_min"][number]) / steps
            assert np.abs(values[: len(samples)] - samples).max() <= 0.5 * step * (1 + 1e-6)
    assert not found.notes


@pytest.mark.parametrize("kind", ["edf", "edf+", "bdf", "bdf+"])
def test_slower_channels_and_other_units_are_left_out(tmp_path: Path, kind: str) -> None:
    signals = {
        "II": noise(500),
        "V1": noise(500, 1),
        "Resp": noise(50, 2),
        "Acc X": noise(50, 3),
        "SpO2": noise(500, 4),
    }
    rates = [100, 100, 10, 10, 100]
    write(tmp_path / "a.edf", kind, signals, sample_frequency=rates, dimension=["uV", "uV", "uV", "g", "%"])
    found = read_signal(tmp_path / "a.edf", Layout())
    assert (found.fs, found.channels, found.signal.shape) == (100, ("II", "V1"), (500, 2))
    np.testing.assert_allclose(found.signal[:, 0], signals["II"], atol=0.051)
    assert found.notes == (
        "channel Acc X (g) left out",
        "channel SpO2 (%) left out",
        "channel Resp (10 Hz) left out: the leads have 100 Hz",
    )


def test_leads_of_two_rates(tmp_path: Path) -> None:
    signals = {"I": noise(500), "II": noise(500, 1), "V1": noise(1000, 2)}
    write(tmp_path / "a.edf", "edf", signals, sample_frequency=[100, 100, 200])
    found = read_signal(tmp_path / "a.edf", Layout())
    assert (found.fs, found.channels) == (100, ("I", "II"))
    assert found.notes == ("channel V1 (200 Hz) left out: the leads have 100 Hz",)
    del signals["II"]
    write(tmp_path / "a.edf", "edf", signals, sample_frequency=[100, 200])
    with pytest.raises(EtpError, match=r"^sampling rate: .*: I \(100 Hz\); V1 \(200 Hz\); convert them to one$"):
        read_signal(tmp_path / "a.edf", Layout())


def test_a_sleep_recording_with_one_ecg(tmp_path: Path) -> None:
    """The channel that is called ECG is read if --leads says which lead it is."""
    signals = {"EEG Fpz-Cz": noise(500), "EOG": noise(500, 1), "ECG": noise(1000, 2)}
    write(tmp_path / "a.edf", "edf+", signals, sample_frequency=[100, 100, 200])
    found = read_signal(tmp_path / "a.edf", Layout(leads=("II",)))
    assert (found.fs, found.channels, found.signal.shape) == (200, ("II",), (1000, 1))
    assert found.notes[-1] == "ECG read as II by --leads"
    with pytest.raises(EtpError, match=r"no channel of a.edf \(ECG\) is a lead; name all 1 with --leads"):
        read_signal(tmp_path / "a.edf", Layout())


@pytest.mark.parametrize("suffix", [".edf", ".EDF", ".bdf", ".BDF", ".rec", ".Rec"])
@pytest.mark.parametrize("kind", ["edf+", "bdf"])
def test_the_first_byte_decides_and_not_the_suffix(tmp_path: Path, kind: str, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", kind, {"II": noise(300)})
    np.testing.assert_allclose(read_signal(tmp_path / f"a{suffix}", Layout()).signal[:, 0], noise(300), atol=0.051)


@pytest.mark.parametrize(
    "change",
    [
        field(168, "00.00.00"),
        field(168, "xx.xx.xx"),
        field(168, ""),
        field(168, "1.1.2020"),
        field(176, "??"),
        field(88, "Startdate X X X X", 80),
        field(88, "Startdate 31-FEB-2020", 80),
        field(8, "Jörg Größe", 80),
        field(8, "\0" * 80, 80),
        field(236, "-1"),
        field(184, "0"),
        field(184, ""),
        column(0, 3, 0, 16, "EKG II"),
        column(2, 3, 0, 16, "Märker"),
        column(2, 3, 104, 8, "0"),
        column(0, 3, 16, 80, "Ag/AgCl\0"),
        column(0, 3, 96, 8, "µV"),
        column(0, 3, 96, 8, "uv"),
        column(0, 3, 96, 8, "uV\0"),
        column(0, 3, 104, 8, "-3276,8"),
        field(244, "1,0"),
    ],
)
def test_odd_headers(tmp_path: Path, change: Callable[[bytearray], None]) -> None:
    write(tmp_path / "a.edf", "edf", {"II": noise(500), "V1": noise(500, 1), "Marker": noise(500, 2)})
    before = read_signal(tmp_path / "a.edf", Layout())
    rewrite(tmp_path / "a.edf", change)
    found = read_signal(tmp_path / "a.edf", Layout())
    assert found.fs == 100
    np.testing.assert_array_equal(found.signal[:, :2], before.signal[:, :2])
    assert "not" not in "".join(found.notes)


def test_channels_without_a_unit_take_that_of_the_layout(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", "edf", {"II": noise(500), "V1": noise(500, 1)}, dimension="")
    with pytest.raises(EtpError, match=r"^unit: a.edf does not contain it; give --unit$"):
        read_signal(tmp_path / "a.edf", Layout())
    found = read_signal(tmp_path / "a.edf", Layout(unit="mV"))
    np.testing.assert_allclose(found.signal[:, 0], 1000 * noise(500), atol=51)
    assert found.unit == "mV" and "unit mV by --unit" in found.notes
    write(tmp_path / "a.edf", "edf", {"II": noise(500), "V1": noise(500, 1)})
    stated = read_signal(tmp_path / "a.edf", Layout(unit="mV"))
    np.testing.assert_allclose(stated.signal[:, 0], noise(500), atol=0.051)
    assert not stated.unit and not stated.notes


def test_limits_that_define_no_value(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", "edf", {name: noise(500) for name in ("II", "dummy", "V1", "V2")})
    for change in (column(1, 4, 120, 8, "-32768"), column(1, 4, 128, 8, "-32768"), column(2, 4, 104, 8, "3276.7")):
        rewrite(tmp_path / "a.edf", change)
    rewrite(tmp_path / "a.edf", column(3, 4, 112, 8, "12 5"))
    found = read_signal(tmp_path / "a.edf", Layout())
    assert found.channels == ("II",)
    assert found.notes == (
        "channel dummy left out: its limits are equal",
        "channel V1 left out: its limits are equal",
        "channel V2 left out: its limits are not numbers",
    )


@pytest.mark.parametrize("kind", ["edf", "bdf"])
def test_truncated_and_longer_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.edf"
    write(path, kind, {"II": noise(500)})
    whole, before = path.read_bytes(), read_signal(path, Layout()).signal
    path.write_bytes(whole[:-150])
    found = read_signal(path, Layout())
    np.testing.assert_array_equal(found.signal, before[:400])
    assert found.notes == ("the header announces 5 data records, the file holds 4",)
    path.write_bytes(whole)
    rewrite(path, field(236, "3"))
    assert read_signal(path, Layout()).notes == ("the header announces 3 data records, the file holds 5",)
    path.write_bytes(whole[:520])
    with pytest.raises(EtpError, match=r"^unreadable signal: a.edf "):
        read_signal(path, Layout())


@pytest.mark.parametrize("kind", ["edf", "edf+", "bdf"])
def test_zeros_after_the_announced_data_records(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.edf"
    write(path, kind, {"II": noise(500), "V1": noise(500, 1)})
    before = read_signal(path, Layout()).signal
    path.write_bytes(path.read_bytes() + bytes(4096))
    found = read_signal(path, Layout())
    np.testing.assert_array_equal(found.signal, before)
    assert found.notes == ("zeros after the 5 data records that the header announces left out",)


def test_a_lead_without_a_unit_takes_that_of_leads_with_the_same_limits(tmp_path: Path) -> None:
    path, signals = tmp_path / "a.edf", {"II": noise(500), "V1": noise(500, 1), "Resp": noise(500, 2)}
    write(path, "edf", signals, dimension=["uV", "", ""])
    found = read_signal(path, Layout())
    assert found.channels == ("II", "V1") and not found.unit
    np.testing.assert_allclose(found.signal[:, 1], noise(500, 1), atol=0.051)
    note = "V1 without a unit: read in that of the leads with the same limits"
    assert found.notes == (note, "channel Resp (no unit) left out")
    write(path, "edf", signals, dimension=["uV", "", ""], physical_max=[3276.7, 5000, 3276.7])
    assert read_signal(path, Layout()).channels == ("II",)


def discontinuous(path: Path, kind: str, onsets: list[str]) -> np.ndarray:
    """Makes an EDF+D of five data records of 100 samples, which begin at the onsets."""
    write(path, kind, {"II": noise(500), "V1": noise(500, 1)})
    continuous = read_signal(path, Layout()).signal
    width, header = 3 if kind == "bdf+" else 2, 256 * 4
    content = bytearray(path.read_bytes())
    content[192:236] = (f"{kind[:3].upper()}+D").encode().ljust(44)
    size = (len(content) - header) // 5
    for number, onset in enumerate(onsets):
        start = header + number * size + 200 * width
        stamps = f"{onset}\x14\x14\0".encode() if onset else b""
        content[start : header + (number + 1) * size] = stamps.ljust(size - 200 * width, b"\0")
    path.write_bytes(content)
    return continuous


@pytest.mark.parametrize("kind", ["edf+", "bdf+"])
def test_discontinuous_files_have_nan_in_their_gaps(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.edf"
    continuous = discontinuous(path, kind, ["+0.25", "+1.25", "+4.75", "+5.754", "+60.25"])
    found = read_signal(path, Layout())
    expected = np.full((6100, 2), np.nan)
    for start, number in ((0, 0), (100, 1), (450, 2), (550, 3), (6000, 4)):
        expected[start : start + 100] = continuous[100 * number : 100 * number + 100]
    np.testing.assert_array_equal(found.signal, expected)
    assert found.notes == ("gaps of 56 s hold no samples",)
    continuous = discontinuous(path, kind, ["+0", "+1", "+2", "+3", "+4"])
    found = read_signal(path, Layout())
    np.testing.assert_array_equal(found.signal, continuous)
    assert not found.notes


@pytest.mark.parametrize("reserved", ["EDF+C", ""])
def test_time_stamps_count_in_a_file_that_calls_itself_continuous(tmp_path: Path, reserved: str) -> None:
    path = tmp_path / "a.edf"
    continuous = discontinuous(path, "edf+", ["+0", "+1", "+4", "+5", "+6"])
    rewrite(path, field(192, reserved, 44))
    found = read_signal(path, Layout())
    np.testing.assert_array_equal(np.delete(found.signal, range(200, 400), axis=0), continuous)
    assert np.isnan(found.signal[200:400]).all() and found.notes == ("gaps of 2 s hold no samples",)
    for onsets in (["+0", "+0", "+0", "+0", "+0"], ["", "", "", "", ""]):
        continuous = discontinuous(path, "edf+", onsets)
        rewrite(path, field(192, reserved, 44))
        found = read_signal(path, Layout())
        np.testing.assert_array_equal(found.signal, continuous)
        assert found.notes[0].endswith("; read without gaps, as its header calls it continuous")


@pytest.mark.parametrize(
    ("onsets", "message"),
    [
        (["+0", "+1", "+2", "+3", "+1e9"], "gaps: data record 5 of a.edf has no time-stamp"),
        (["+0", "+1", "+2", "+3", "+1000000000"], "gaps: a.edf holds 500 samples and gaps of 99999999600; split it"),
        (["+0", "+1", "+0.5", "+3", "+4"], "gaps: data record 3 of a.edf begins before the one ahead of it has ended"),
        (["+0", "+1", "", "+3", "+4"], "gaps: data record 3 of a.edf has no time-stamp"),
    ],
)
def test_time_stamps_that_make_no_sense(tmp_path: Path, onsets: list[str], message: str) -> None:
    discontinuous(tmp_path / "a.edf", "edf+", onsets)
    with pytest.raises(EtpError) as error:
        read_signal(tmp_path / "a.edf", Layout())
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (field(0, "7"), "unreadable signal: a.edf is neither EDF nor BDF"),
        (field(244, "0"), "unreadable signal: a.edf "),
        (field(244, "-1"), "sampling rate: the data records of a.edf last -1 s"),
        (field(244, "nan"), "unreadable signal: a.edf "),
        (field(244, "1e-7"), "sampling rate: 1e+09 Hz of a.edf is not between 1 Hz and 1 MHz"),
        (field(252, "9999", 4), "unreadable signal: a.edf "),
        (field(252, "", 4), "unreadable signal: a.edf "),
        (column(0, 1, 216, 8, "99999999"), "unreadable signal: a.edf "),
        (column(0, 1, 216, 8, "-100"), "unreadable signal: a.edf "),
        (column(0, 1, 96, 8, ""), "unit: a.edf does not contain it; give --unit"),
        (column(0, 1, 96, 8, "mmHg"), "unit: a.edf is in 'mmHg', not in one of mV, "),
        (column(0, 1, 0, 16, "EDF Annotations"), "unreadable signal: a.edf has no channel (annotations only)"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, change: Callable[[bytearray], None], message: str) -> None:
    write(tmp_path / "a.edf", "edf", {"II": noise(500)})
    rewrite(tmp_path / "a.edf", change)
    with pytest.raises(EtpError) as error:
        read_signal(tmp_path / "a.edf", Layout())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 256 * 4 - 1), byte=st.integers(0, 255), kind=st.sampled_from(["edf+", "bdf+"]))
def test_a_damaged_header_gives_a_reason_or_the_samples(tmp_path_factory, place: int, byte: int, kind: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{kind}.edf"
    if not path.exists():
        write(path, kind, {"II": noise(500), "V1": noise(500, 1)})
    content = bytearray(path.read_bytes())
    content[place] = byte
    damaged = path.with_name("damaged.edf")
    damaged.write_bytes(content)
    try:
        found = read_signal(damaged, Layout())
    except EtpError as error:
        assert "\n" not in str(error)
    else:
        assert found.signal.shape[1] == len(found.channels)
