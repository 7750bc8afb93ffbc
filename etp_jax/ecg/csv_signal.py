"""Reading of ECGs from text files with separated values, as spreadsheets and PhysioNet's `rdsamp` write them.

What a file states is used: names of the leads, units, and the times of the samples. What it does not state is taken
from the layout. Every assumption becomes a note of the recording. Does not import jax.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etp_jax.ecg.csv_grid import Grid, read_grid
from etp_jax.ecg.csv_time import (
    RATES,
    RATES_AGREE,
    check_record,
    is_clock,
    is_index,
    is_time,
    names_record,
    rate_of,
    steps_evenly,
)
from etp_jax.ecg.leads import MICROVOLT, Layout, Recording, lead_of, leads_of, split_unit, unit_of
from etp_jax.ecg.text import decode, read_bytes
from etp_jax.errors import EtpError, option

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_RATE = re.compile(
    r"(?:sampl\w*[\s_-]*(?:rate|freq\w*)|abtast(?:rate|frequenz)|\bfs\b)[^\d\n]{0,20}(\d+(?:[.,]\d+)?)\s*(k?)hz?",
    re.IGNORECASE,
)


def read_csv_signal(path: Path, layout: Layout) -> Recording:
    """Reads an ECG from separated values: one column or one row for each lead.

    Separators are commas, semicolons, tabs or blanks; decimals have a point or a comma; the text is UTF-8, UTF-16 or
    Windows-1252, compressed if the suffix is `.gz`.

    Args:
      path: the file.
      layout: sampling rate, unit and leads, for what the file does not state.

    Raises:
      EtpError: the file is missing or unreadable, does not state what the layout lacks, or contradicts the layout. The
        message is `kind: detail`.
    """
    try:
        text, encoding = decode(read_bytes(path))
        grid = read_grid(text, len(layout.named))
        grid.notes.extend([f"text in {encoding}"] * (encoding != "utf-8"))
        return _recording(path, grid, layout)
    except FileNotFoundError:
        raise EtpError(f"missing file: {path.name}") from None
    # gzip, csv and pandas raise these on damaged files and on other formats; they share no base class.
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None


def _recording(path: Path, grid: Grid, layout: Layout) -> Recording:
    """Chooses among the columns, and converts them by what the file and the layout state."""
    for column in grid.columns:
        if column.dtype.kind not in "iuf" and lead_of(str(column.iloc[0])) and column.duplicated().any():
            raise EtpError(
                f"unreadable signal: {path.name} has a row for each lead and sample; make a column of each lead"
            )
    timing = [number for number in range(len(grid.columns)) if _is_timing(grid, number)]
    fs, notes = _rate(path, grid, timing, layout)
    numbers, names, named = _channels(path, grid, [n for n in range(len(grid.columns)) if n not in timing], layout)
    kept, channels, scales, voltages, assumed = [], [], [], [], False
    for number, name, lead in zip(numbers, names, leads_of(names), strict=True):
        channel, unit = split_unit(name)
        stated = grid.units[number] or unit or ""
        column = grid.columns[number]
        if lead is None and names_record(name):
            check_record(name, column, path.name)
        if lead is None and (column.dtype.kind not in "iuf" or (stated and unit_of(stated) is None)):
            notes.append(f"column {channel} is no voltage; left out")
            continue
        if column.dtype.kind not in "iuf":
            raise EtpError(f"unreadable signal: {path.name} (column {channel}, {_first_text(column)})")
        if stated and unit_of(stated) is None:
            raise EtpError(f"unit: column {channel} of {path.name} is in {stated!r}, not in {', '.join(MICROVOLT)}")
        if stated and layout.unit and unit_of(stated) != unit_of(layout.unit):
            raise EtpError(
                f"unit: column {channel} of {path.name} is in {stated}, but {option('unit')} is {layout.unit}"
            )
        assumed |= not stated
        kept.append(column.to_numpy(np.float64))
        channels.append(channel)
        scales.append(MICROVOLT[unit_of(stated) or "mV"] if stated else layout.scale)
        voltages += [kept[-1]] * (lead is not None)
    if not kept:
        raise EtpError(f"lead names: {path.name} has no column with a lead, only {', '.join(names)}")
    if _marks_thousands(np.concatenate([*voltages, []])):
        raise EtpError(f"unreadable signal: {path.name} writes one thousand as 1.000 or 1,000; write it as 1000")
    notes += named + ["no unit given: mV assumed"] * (assumed and layout.unit is None)
    unit = (layout.unit or "mV") if assumed else ""
    return Recording(np.column_stack(kept) * scales, fs, tuple(channels), (*grid.notes, *notes), unit)


def _is_timing(grid: Grid, number: int) -> bool:
    """Whether a column counts or times the samples: by its name, or without one by its even steps."""
    name = grid.names[number] if grid.names else ""
    if name:
        return is_time(name) or is_index(name)
    return number == 0 and (steps_evenly(grid.columns[0]) or is_clock(grid.columns[0]))


def _rate(path: Path, grid: Grid, timing: Sequence[int], layout: Layout) -> tuple[float, list[str]]:
    """Returns the sampling rate and notes on its origin; raises EtpError if its sources differ or there is none."""
    stated = {option("fs"): layout.fs} if layout.fs else {}
    for rate, kilo in _RATE.findall(grid.comments):
        hertz = float(rate.replace(",", "."))
        is_thousands = hertz < RATES[0] and re.fullmatch(r"\d+[.,]\d{3}", rate)  # 1,000 Hz
        stated["a comment"] = hertz * (1000 if kilo or is_thousands else 1)
    for number in timing:
        name = (grid.names[number] if grid.names else "") or str(number + 1)
        if rate := rate_of(grid.columns[number], name, grid.units[number]):
            stated[f"column {name}"] = rate
    if not stated:
        raise EtpError(f"sampling rate: {path.name} does not contain it; give {option('fs')}")
    source, fs = next(iter(stated.items()))
    for other, rate in stated.items():
        if abs(rate - fs) > RATES_AGREE * fs:
            raise EtpError(f"sampling rate: {path.name} has {rate:g} Hz by {other}, but {fs:g} Hz by {source}")
    return fs, [f"sampling rate {fs:g} Hz by {source}"] * (source != option("fs"))


def _channels(path: Path, grid: Grid, numbers: list[int], layout: Layout) -> tuple[list[int], list[str], list[str]]:
    """Returns the columns that are channels, their names, and notes on the origin of the names."""
    if grid.names is None:
        while len(numbers) > len(layout.named) and grid.columns[numbers[-1]].isna().all():  # separators at row ends
            numbers = numbers[:-1]
        if len(numbers) != len(layout.named):
            raise EtpError(
                f"lead count: {path.name} has {len(numbers)} columns without names for {len(layout.named)} leads; "
                f"name them with {option('leads')}"
            )
        return numbers, list(layout.named), ["no column names: standard order of leads assumed"] * (not layout.leads)
    names = [grid.names[number] or f"column {number + 1}" for number in numbers]
    try:
        understood = [lead for lead in leads_of(names) if lead]
    except EtpError:
        if len(layout.leads) != len(names):
            raise
        understood = []
    if not understood and len(layout.leads) == len(names):
        return numbers, list(layout.leads), [f"columns {' '.join(names)} read by {option('leads')}"]
    other = layout.leads and leads_of(layout.leads) != leads_of(names)
    return numbers, names, [f"leads by the column names, not by {option('leads')}"] * bool(other)


def _marks_thousands(values: NDArray[np.float64]) -> bool:
    """Whether the file groups digits, so that `1.045` is 1,045.

    Then whole numbers are below 1,000, and all others have at most three decimals and are at least 1.
    """
    values = np.abs(values[np.isfinite(values)])
    is_whole = values == np.rint(values)
    whole, fractions = values[is_whole], values[~is_whole]
    if not len(whole) or not len(fractions) or not 1 <= fractions.min() <= fractions.max() < 100 <= whole.max() < 1000:
        return False
    return bool(np.abs(1000 * fractions - np.rint(1000 * fractions)).max() < 1e-6)


def _first_text(column: pd.Series) -> str:
    """Names the first cell of a column that is no number."""
    numbers: Any = pd.to_numeric(column, errors="coerce")
    wrong = column.notna() & numbers.isna()
    row = int(np.argmax(wrong.to_numpy(bool)))
    return f"row {row + 1}: {str(column.iloc[row])[:20]!r} is no number"
