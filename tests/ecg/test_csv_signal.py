"""ECGs in separated values, as spreadsheets, pandas, R and PhysioNet's `rdsamp` write them."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from etp_jax.ecg import csv_grid
from etp_jax.ecg.csv_signal import read_csv_signal
from etp_jax.ecg.leads import LEADS, Layout, leads_of
from etp_jax.ecg.prepare import prepare
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError

SIGNAL = np.cumsum(np.random.default_rng(0).integers(-20, 21, (900, 12)), axis=0) / 1000
"""Whole microvolts, in millivolt."""
FS = 360
LAYOUT = Layout(fs=FS)
HEAD = ",".join(LEADS)
PLAIN = [",".join(f"{value:.3f}" for value in row) for row in SIGNAL]
SEMICOLONS = [row.replace(",", ";").replace(".", ",") for row in PLAIN]


def text(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def timed(times: list[str], rows: list[str], separator: str = ",") -> list[str]:
    return [time + separator + row for time, row in zip(times, rows, strict=True)]


def clock(seconds: float) -> str:
    return f"'{int(seconds // 60)}:{seconds % 60:06.3f}'"


COUNTED = ",".join(f"{number:02}.0" for number in range(1, 13))
TIMES = np.arange(900) / FS
TWO = [",".join(row.split(",")[:2]) for row in PLAIN]
FILES: dict[str, tuple[bytes, Layout, int, float]] = {
    "plain": (text(HEAD, *PLAIN), LAYOUT, 12, FS),
    "numbers of the columns": (text(COUNTED, *PLAIN), LAYOUT, 12, FS),
    "numbers beside times": (
        text(f"time,{COUNTED}", *timed([f"{t:.6f}" for t in np.arange(900) / FS], PLAIN)),
        Layout(),
        12,
        FS,
    ),
    "rows end with a comma": (text(HEAD, *(f"{row}," for row in PLAIN)), LAYOUT, 12, FS),
    "header ends with a comma too": (text(f"{HEAD},", *(f"{row}," for row in PLAIN)), LAYOUT, 12, FS),
    "only the first row ends with a comma": (text(HEAD, f"{PLAIN[0]},", *PLAIN[1:]), LAYOUT, 12, FS),
    "semicolons and decimal commas": (text(HEAD.replace(",", ";"), *SEMICOLONS), LAYOUT, 12, FS),
    "Excel": (
        "\r\n".join(["sep=;", HEAD.replace(",", ";"), *SEMICOLONS, ";" * 11, ""]).encode("utf-8-sig"),
        LAYOUT,
        12,
        FS,
    ),
    "tabs": (text(HEAD.replace(",", "\t"), *(row.replace(",", "\t") for row in PLAIN)), LAYOUT, 12, FS),
    "blanks": (text(HEAD.replace(",", "   "), *(row.replace(",", "  ") for row in PLAIN)), LAYOUT, 12, FS),
    "a blank after each comma": (text(HEAD.replace(",", ", "), *(r.replace(",", ", ") for r in PLAIN)), LAYOUT, 12, FS),
    "quotes": (
        text(HEAD, *(",".join(f'"{cell.replace(".", ",")}"' for cell in row.split(",")) for row in PLAIN)),
        LAYOUT,
        12,
        FS,
    ),
    "UTF-16": ("\n".join([HEAD, *PLAIN]).encode("utf-16"), LAYOUT, 12, FS),
    "UTF-16 without a mark": ("\n".join([HEAD, *PLAIN]).encode("utf-16-le"), LAYOUT, 12, FS),
    "UTF-8 with a mark": ("\n".join([HEAD, *PLAIN]).encode("utf-8-sig"), LAYOUT, 12, FS),
    "cp1252": ("\n".join([HEAD.replace(",", " (mV),") + " (mV)", "# Mürz", *PLAIN]).encode("cp1252"), LAYOUT, 12, FS),
    "old line ends": ("\r".join([HEAD, *PLAIN]).encode(), LAYOUT, 12, FS),
    "no header": (text(*PLAIN), LAYOUT, 12, FS),
    "columns numbered by pandas": (text(",".join(map(str, range(12))), *PLAIN), LAYOUT, 12, FS),
    "index of pandas": (text(f",{HEAD}", *timed(list(map(str, range(900))), PLAIN)), LAYOUT, 12, FS),
    "row numbers of R": (text(HEAD, *timed(list(map(str, range(1, 901))), PLAIN)), LAYOUT, 12, FS),
    "rdsamp -c -p": (
        text("'Elapsed time','MLII','V5'", "'hh:mm:ss.mmm','mV','mV'", *timed(list(map(clock, TIMES)), TWO)),
        Layout(),
        2,
        FS,
    ),
    "rdsamp -c -p seconds": (
        text("'Elapsed time','MLII','V5'", "'seconds','mV','mV'", *timed([f"{time:.3f}" for time in TIMES], TWO)),
        Layout(),
        2,
        FS,
    ),
    "rdsamp -c": (text("'sample #','MLII','V5'", *timed(list(map(str, range(900))), TWO)), LAYOUT, 2, FS),
    "rdsamp -v -p": (
        text(
            "   Elapsed time\t    MLII\t      V5",
            "   (seconds)\t    (mV)\t    (mV)",
            *(f"{time:12.3f}\t{row[0]:8.3f}\t{row[1]:8.3f} " for time, row in zip(TIMES, SIGNAL, strict=True)),
        ),
        Layout(),
        2,
        FS,
    ),
    "milliseconds": (text(f"time_ms,{HEAD}", *timed([str(2 * n) for n in range(900)], PLAIN)), Layout(), 12, 500),
    "milliseconds, which are not named": (
        text(f"time,{HEAD}", *timed([str(2 * n) for n in range(900)], PLAIN)),
        Layout(),
        12,
        500,
    ),
    "dates": (
        text(f"timestamp,{HEAD}", *timed([f"2021-03-04 10:00:{n / 250:06.3f}" for n in range(900)], PLAIN)),
        Layout(),
        12,
        250,
    ),
    "times without a name": (text(*timed([f"{n / 500:.3f}" for n in range(900)], PLAIN)), Layout(), 12, 500),
    "rate in a comment": (text("# Sampling rate: 250 Hz", HEAD, *PLAIN), Layout(), 12, 250),
    "lines above the header": (
        text("Patient;x", "Datum;2020-01-01;10:00", "Abtastrate;500 Hz", HEAD.replace(",", ";"), *SEMICOLONS),
        Layout(),
        12,
        500,
    ),
    "numpy.savetxt": (text(f"# {HEAD}", *PLAIN), LAYOUT, 12, FS),
    "names after slashes": (text("// made by x", f"// {HEAD}", *PLAIN), LAYOUT, 12, FS),
    "minus signs": (text(HEAD, *PLAIN).decode().replace("-", "\u2212").encode(), LAYOUT, 12, FS),
    "a watch": (
        text(
            "Name,x",
            "Recorded Date,2020-12-30 10:00:00 +0100",
            "Software Version,1.90",
            "Sample Rate,512 hertz",
            "",
            "Lead,Lead I",
            "Unit,mV",
            "",
            *(f"{value:.3f}" for value in SIGNAL[:, 0]),
        ),
        Layout(),
        1,
        512,
    ),
    "one row for each lead": (
        text(*(f"{lead}," + ",".join(f"{v:.3f}" for v in SIGNAL[:, n]) for n, lead in enumerate(LEADS))),
        LAYOUT,
        12,
        FS,
    ),
    "one row for each lead, no names": (
        text(*(";".join(f"{v:.3f}".replace(".", ",") for v in SIGNAL[:, n]) + ";" for n in range(12))),
        LAYOUT,
        12,
        FS,
    ),
    "one row for each lead, with units": (
        text(*(f"{lead},mV," + ",".join(f"{v:.3f}" for v in SIGNAL[:, n]) for n, lead in enumerate(LEADS))),
        LAYOUT,
        12,
        FS,
    ),
    "one row for each lead, numbered by pandas": (pd.DataFrame(SIGNAL.T).to_csv().encode(), LAYOUT, 12, FS),
    "no header, rows end with a comma": (text(*(f"{row}," for row in PLAIN)), LAYOUT, 12, FS),
    "dates over midnight": (
        text(
            f"timestamp,{HEAD}",
            *timed(
                [str(np.datetime64("2021-03-04T23:59:59") + np.timedelta64(4 * n, "ms")) for n in range(900)], PLAIN
            ),
        ),
        Layout(),
        12,
        250,
    ),
    "rate of a thousand": (text("# Sampling rate: 1,000 Hz", HEAD, *PLAIN), Layout(), 12, 1000),
    "rate with three decimals": (text("# Sampling rate: 500.000 Hz", HEAD, *PLAIN), Layout(), 12, 500),
    "text beside the leads": (text(f"{HEAD},beat", *(f"{row},N" for row in PLAIN)), LAYOUT, 12, FS),
    "one lead with decimal commas": (text("I", *(f"{v:.3f}".replace(".", ",") for v in SIGNAL[:, 0])), LAYOUT, 1, FS),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_way_of_writing(kind: str, tmp_path: Path) -> None:
    content, layout, leads, fs = FILES[kind]
    (tmp_path / "a.csv").write_bytes(content)
    recording = read_signal(tmp_path / "a.csv", layout)
    assert recording.fs == fs and recording.signal.shape == (900, leads)
    np.testing.assert_allclose(recording.signal, 1000 * SIGNAL[:, :leads], atol=1e-9)
    assert tuple(leads_of(recording.channels)) == (LEADS if leads == 12 else ("II", "V5") if leads == 2 else ("I",))


@pytest.mark.parametrize("suffix", ["txt", "tsv", "csv.gz"])
def test_other_suffixes(suffix: str, tmp_path: Path) -> None:
    content = text(HEAD, *PLAIN)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    np.testing.assert_allclose(read_signal(path, LAYOUT).signal, 1000 * SIGNAL, atol=1e-9)


@pytest.mark.parametrize("missing", ["", "-", "NaN", "nan", "NA", "null", "None", " "])
def test_missing_samples(missing: str, tmp_path: Path) -> None:
    rows = [row.split(",") for row in PLAIN]
    rows[0][0] = rows[5][3] = rows[7][11] = missing
    (tmp_path / "a.csv").write_bytes(text(HEAD, *map(",".join, rows)))
    expected = 1000 * SIGNAL
    expected[0, 0] = expected[5, 3] = expected[7, 11] = np.nan
    np.testing.assert_allclose(read_signal(tmp_path / "a.csv", LAYOUT).signal, expected, atol=1e-9)


def test_errors_of_excel_are_cells(tmp_path: Path) -> None:
    rows = [row.split(",") for row in PLAIN]
    rows[5][0] = "#N/A"
    (tmp_path / "a.csv").write_bytes(text(HEAD, *map(",".join, rows)))
    expected = 1000 * SIGNAL
    expected[5, 0] = np.nan
    np.testing.assert_allclose(read_signal(tmp_path / "a.csv", LAYOUT).signal, expected, atol=1e-9)
    rows[5][0] = "#DIV/0!"
    (tmp_path / "a.csv").write_bytes(text(HEAD, *map(",".join, rows)))
    with pytest.raises(EtpError, match="column I, row 6: '#DIV/0!' is no number"):
        read_signal(tmp_path / "a.csv", LAYOUT)


@pytest.mark.parametrize(("separator", "mark"), [(";", "."), (";", ","), ("\t", "."), ("\t", ",")])
def test_marks_of_thousands_are_no_decimal_marks(separator: str, mark: str, tmp_path: Path) -> None:
    rows = [separator.join(f"{5000 * value:,.0f}".replace(",", mark) for value in row) for row in SIGNAL]
    (tmp_path / "a.csv").write_bytes(text(HEAD.replace(",", separator), *rows))
    with pytest.raises(EtpError, match=r"^unreadable signal: a.csv (writes one thousand|.column .* is no number)"):
        read_signal(tmp_path / "a.csv", Layout(fs=FS, unit="uV"))


def test_what_is_assumed_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\n".join(["# Mürz", *SEMICOLONS]).encode("cp1252"))
    recording = read_signal(tmp_path / "a.csv", LAYOUT)
    assert set(recording.notes) == {
        "separated by semicolons",
        "decimal comma",
        "comment lines skipped",
        "text in cp1252",
        "no column names: standard order of leads assumed",
        "no unit given: mV assumed",
    }
    (tmp_path / "b.csv").write_bytes(
        text(f"time_ms,{HEAD},PULSE", *timed([str(2 * n) for n in range(900)], PLAIN, ","))
    )
    with pytest.raises(EtpError, match="rows have 13 values for 14 column names"):
        read_signal(tmp_path / "b.csv", LAYOUT)
    (tmp_path / "c.csv").write_bytes(text(f"{HEAD},RESP", "mV," * 12 + "bpm", *(f"{row},3" for row in PLAIN)))
    assert read_signal(tmp_path / "c.csv", LAYOUT).notes == ("column RESP is no voltage; left out",)
    (tmp_path / "d.csv").write_bytes(text(f"{HEAD},PULSE", *(f"{row},3" for row in PLAIN)))
    prepared = prepare(read_signal(tmp_path / "d.csv", LAYOUT), FS, 900)
    assert prepared.notes == ("no unit given: mV assumed", "channel PULSE is no lead that is read; left out")


@pytest.mark.parametrize(
    ("content", "layout", "reason"),
    [
        (text(*TWO), LAYOUT, "lead count: a.csv has 2 columns without names for 12 leads; name them with --leads"),
        (text("I (uV),II (uV)", *TWO), Layout(fs=FS, unit="mV"), "unit: column I of a.csv is in uV, but --unit is mV"),
        (text("I,II", "'bpm','mV'", *TWO), LAYOUT, "unit: column I of a.csv is in 'bpm'"),
        (
            text("time (s),I,II", *timed([f"{n / 500:.3f}" for n in range(900)], TWO)),
            LAYOUT,
            "sampling rate: a.csv has 500 Hz by column time .s., but 360 Hz by --fs",
        ),
        (
            text("time,I,II", *timed([f"{(n + (n > 400)) / 500:.3f}" for n in range(900)], TWO)),
            Layout(),
            "unreadable signal: a.csv .its column 'time' does not rise by equal steps at row 402",
        ),
        (text("I,II", *TWO), Layout(), "sampling rate: a.csv does not contain it; give --fs"),
        (text("sample,I,II", *timed(list(map(str, range(900))), TWO)), Layout(), "sampling rate: a.csv does not"),
        (text("I,II", *TWO[:300], "0.1,oops", *TWO), LAYOUT, "unreadable signal: a.csv .column II, row 301: 'oops'"),
        (text("I,II", *TWO)[:-7], LAYOUT, "unreadable signal: a.csv .row 900 of the samples has 1 values instead of 2"),
        (text("I,II", *TWO[:50], "1,2,3", *TWO), LAYOUT, "unreadable signal: a.csv .row 51 of the samples has 3"),
        (text("I,II,III", *TWO), LAYOUT, "unreadable signal: a.csv .its rows have 2 values for 3 column names"),
        (b"", LAYOUT, "unreadable signal: a.csv .it holds no row of numbers"),
        (b"<html>404</html>", LAYOUT, "unreadable signal: a.csv .it holds no row of numbers"),
        (bytes(range(256)), LAYOUT, "unreadable signal: a.csv"),
        (text("I,II", *TWO), Layout(fs=0), "sampling rate: --fs is 0"),
        (text("I,II", *TWO), Layout(fs=FS, unit="kV"), "unit: 'kV' is not one of mV"),
    ],
)
def test_what_is_refused(content: bytes, layout: Layout, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(EtpError, match=f"^{reason}"):
        read_signal(tmp_path / "a.csv", layout)


@pytest.mark.parametrize("name", ["MOST_LINES", "LONGEST_LINE"])
def test_too_much_text_is_refused_before_it_is_parsed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(csv_grid, name, 20)
    (tmp_path / "a.csv").write_text("1,2\n" * 30 if name == "MOST_LINES" else "1," * 30)
    with pytest.raises(EtpError, match=r"it has (more than 20 lines|a line of more than 20 characters); cut it"):
        read_csv_signal(tmp_path / "a.csv", LAYOUT)


def test_a_long_line_takes_time_in_proportion(tmp_path: Path) -> None:
    """It was judged 16 times, under each separator and decimal mark; once takes 20 times as long as its numbers."""
    text = "1," * 1_000_000
    (tmp_path / "a.csv").write_text(text)
    started = time.process_time()
    assert sum(map(float, text.strip(",").split(","))) == 1_000_000
    numbers, started = time.process_time() - started, time.process_time()
    with pytest.raises(EtpError, match="unreadable signal"):
        read_csv_signal(tmp_path / "a.csv", LAYOUT)
    assert time.process_time() - started < 80 * numbers


def test_names_that_are_no_leads_are_refused_with_the_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text(",".join(f"ch{n}" for n in range(12)), *PLAIN))
    with pytest.raises(EtpError, match=r"lead names: no channel of a.csv \(ch0, ch1, .*\) is a lead; name all 12"):
        prepare(read_signal(tmp_path / "a.csv", LAYOUT), FS, 900)
    (tmp_path / "b.csv").write_bytes(text(",".join(f"Lead {n}" for n in range(1, 13)), *PLAIN))
    with pytest.raises(EtpError, match=r"lead names: Lead 1 .* are numbers of channels; name the leads with --leads"):
        read_signal(tmp_path / "b.csv", LAYOUT)
    for name in "ab":
        assert read_signal(tmp_path / f"{name}.csv", Layout(fs=FS, leads=LEADS)).channels == LEADS


UNITS = {"mV": 1e3, "uV": 1.0, "µV": 1.0, "V": 1e6}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_written_is_read_back(tmp_path: Path, data: st.DataObject) -> None:
    draw: Any = data.draw
    leads = draw(st.permutations(LEADS))[: draw(st.integers(1, 12))]
    separator, decimal = draw(st.sampled_from([",", ";", "\t", "  "])), draw(st.sampled_from(".,"))
    assume((separator, decimal) != (",", ","))
    digits, samples = draw(st.integers(0, 6)), draw(st.integers(30, 60))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(-3000, 3000, (samples, len(leads)))
    unit, where = draw(st.sampled_from(sorted(UNITS))), draw(st.sampled_from(["name", "row", "layout"]))
    time = draw(st.sampled_from(["", "time (s)", "index"]))
    ends, by_row = draw(st.sampled_from(["", separator.strip(" ")])), draw(st.booleans()) and where != "row"
    encoding, line_end = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), draw(st.sampled_from(["\n", "\r\n"]))
    columns = [[f"{value / 10**digits:.{digits}f}".replace(".", decimal) for value in column] for column in values.T]
    names = [f"{lead}_{unit}" if unit != "V" else f"{lead}[V]" for lead in leads] if where == "name" else list(leads)
    table = [[name, *[unit] * (where == "row"), *column] for name, column in zip(names, columns, strict=True)]
    if time:
        steps = [f"{n / 250:.3f}".replace(".", decimal) if time == "time (s)" else str(n) for n in range(samples)]
        head = time if separator.strip() else time.split()[0]
        table.insert(0, [head, *["s" if time == "time (s)" else "nu"] * (where == "row"), *steps])
    lines = [separator.join(row) + ends for row in (table if by_row else zip(*table, strict=True))]
    (tmp_path / "a.csv").write_bytes(line_end.join(lines).encode(encoding))
    layout = Layout(fs=None if time == "time (s)" else 250, unit=unit if where == "layout" else None)
    recording = read_signal(tmp_path / "a.csv", layout)
    assert recording.channels == tuple(leads) and recording.fs == 250
    np.testing.assert_allclose(recording.signal, values / 10**digits * UNITS[unit], rtol=1e-12, atol=1e-9)


def test_names_in_a_comment_are_the_leads(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.csv", SIGNAL[:, ::-1], delimiter=",", header=",".join(LEADS[::-1]))
    recording = read_signal(tmp_path / "a.csv", LAYOUT)
    assert recording.channels == LEADS[::-1]
    np.testing.assert_allclose(recording.signal, 1000 * SIGNAL[:, ::-1], atol=1e-9)


def test_what_pandas_writes(tmp_path: Path) -> None:
    frame = pd.DataFrame(SIGNAL, columns=list(LEADS))
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "b.csv", index=False, sep=";", decimal=",")
    frame.set_index(pd.Index(TIMES, name="time")).to_csv(tmp_path / "c.csv")
    frame.set_index(pd.Index(TIMES)).to_csv(tmp_path / "d.csv")
    for name, layout in (("a", LAYOUT), ("b", LAYOUT), ("c", Layout()), ("d", Layout())):
        recording = read_signal(tmp_path / f"{name}.csv", layout)
        assert recording.fs == FS and recording.channels == LEADS
        np.testing.assert_allclose(recording.signal, 1000 * SIGNAL, atol=1e-9)


def test_a_first_row_of_gains_is_named(tmp_path: Path) -> None:
    note = "the first sample is 200 in all columns; if these are gains, remove the row"
    (tmp_path / "a.csv").write_bytes(text(HEAD, ",".join(["200"] * 12), *PLAIN))
    assert note in read_signal(tmp_path / "a.csv", LAYOUT).notes
    (tmp_path / "a.csv").write_bytes(text(HEAD, *PLAIN))
    assert not read_signal(tmp_path / "a.csv", Layout(fs=FS, unit="mV")).notes


def test_a_row_for_each_lead_and_sample_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame(SIGNAL, columns=list(LEADS)).assign(sample=range(900))
    frame.melt("sample", var_name="lead", value_name="mV").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(EtpError, match=r"^unreadable signal: a.csv has a row for each lead and sample; make a column"):
        read_signal(tmp_path / "a.csv", Layout(fs=FS, leads=("II",)))


def test_names_with_line_breaks_are_refused(tmp_path: Path) -> None:
    rows = "\n".join(f"{a:.3f},{b:.0f}" for a, b in SIGNAL[:300, :2] * (1, 1000))
    (tmp_path / "a.csv").write_text(f'"I\n(mV)","II\n(uV)"\n{rows}\n')
    with pytest.raises(EtpError, match="a name of its columns has a line break"):
        read_signal(tmp_path / "a.csv", LAYOUT)


def test_a_repeated_time_is_refused(tmp_path: Path) -> None:
    times = np.r_[0:250, 249:499] * 2
    pd.DataFrame({"time_ms": times, "I": SIGNAL[:500, 0]}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(EtpError, match="does not rise by equal steps at row 251"):
        read_signal(tmp_path / "a.csv", Layout())
