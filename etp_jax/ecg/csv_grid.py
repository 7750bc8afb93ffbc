"""Parsing of separated values into named columns, whatever program wrote them. Does not import jax."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

from etp_jax.ecg.csv_time import CLOCK, SECONDS, steps_evenly
from etp_jax.ecg.leads import leads_of, unit_of

MISSING = ("", "-", "--", "?", "*", "nan", "na", "n/a", "null", "none", "#n/a")
"""Cells of samples that were not recorded, in lower case."""
FEW_ROWS = 64
"""Largest number of rows in a file that has one row for each lead."""
MOST_LINES = 5_000_000
"""Largest number of lines: each takes some 100 bytes of memory while they are parsed, however short it is."""
LONGEST_LINE = 2**24
"""Longest line, in characters."""
MOST_COLUMNS = 1000
"""Largest number of leads and other columns."""
PEEK = 4096
"""Characters at the start of a line by which separator and decimal mark are found."""
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "": "blanks"}
_NUMBER = {
    ".": re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?inf", re.IGNORECASE),
    ",": re.compile(r"[-+]?(?:\d+,?\d*|,\d+)(?:e[-+]?\d+)?|[-+]?inf", re.IGNORECASE),
}
_WHOLE = re.compile(r"(\d+)(?:[.,]0*)?")
_COMMENT = re.compile(r'\s*(?:%|//|#(?!N/A|[A-Z/0]+[!?]))|"?sep=."?\s*$', re.IGNORECASE)
"""A comment, or Excel's line that names the separator; `#N/A` and `#DIV/0!` are cells."""
_LEAD_KEYS, _UNIT_KEYS = ("lead", "ableitung"), ("unit", "units", "einheit")
_OTHER_UNITS = ("nu", "adu", "bpm", "mmhg", "pm", "%", "hh:mm:ss.mmm", *SECONDS)


@dataclass(frozen=True, eq=False)
class Grid:
    """Columns of a text file, and what the file says about them."""

    columns: list[pd.Series]
    """Columns of numbers, NaN where a sample is missing; or of text where a cell is no number."""
    names: list[str] | None
    """Name of each column; None if the file has none."""
    units: list[str]
    """Unit of each column as the file gives it in a row of units; empty where it gives none."""
    comments: str
    """Comment lines, and lines above the names of the columns."""
    notes: list[str]
    """What was assumed or left out."""


@dataclass(frozen=True)
class _Dialect:
    """How the cells of a file are written."""

    separator: str
    """`,`, `;`, a tab, or an empty text for blanks."""
    decimal: str
    quote: str

    def split(self, line: str) -> list[str]:
        """Splits a line into its cells."""
        if not self.separator:
            return line.replace(self.quote, "").split()
        row = csv.reader([line], delimiter=self.separator, quotechar=self.quote, skipinitialspace=True)
        return [cell.strip() for cell in next(row, [])]

    def names(self, line: str, columns: int) -> list[str]:
        """Splits a line above the samples; a name may contain single blanks."""
        cells = self.split(line)
        return cells if self.separator or len(cells) == columns else re.split(r"\s{2,}", line.strip())

    def is_number(self, cell: str) -> bool:
        return bool(_NUMBER[self.decimal].fullmatch(cell))

    def judge(self, line: str) -> tuple[int, int]:
        """Counts the cells that are numbers or times, and the others that are not empty."""
        cells = [cell for cell in self.split(line) if cell.casefold() not in MISSING]
        fit = sum(self.is_number(cell) or bool(CLOCK.fullmatch(cell)) for cell in cells)
        return fit, len(cells) - fit

    def count(self, line: str) -> int:
        """Counts the cells of a line, also those between quotes."""
        if self.quote in line:
            return len(self.split(line))
        return line.count(self.separator) + 1 if self.separator else len(line.split())


def read_grid(text: str, rows_by_lead: int) -> Grid:
    """Parses the text of a file.

    Args:
      text: the text; lines that begin with `#`, `%` or `//` are comments.
      rows_by_lead: number of leads; a file without names that has as many rows, and more columns, has one row a lead.

    Raises:
      ValueError: the rows hold no numbers, or differ in length; or there are too many, or too long ones.
    """
    if max(text.count("\n"), text.count("\r")) > MOST_LINES:
        raise ValueError(f"it has more than {MOST_LINES:,} lines; cut it, or convert it to WFDB")
    lines = [line for line in re.split(r"\r\n|\r|\n", text.replace("−", "-")) if line.strip()]  # noqa: RUF001 - a minus sign
    comments = [line for line in lines if _COMMENT.match(line)]
    lines = [line for line in lines if not _COMMENT.match(line)]
    while lines and not lines[-1].strip("\t ;,"):
        lines.pop()
    if not lines:
        raise ValueError("it holds no row of numbers")
    if max(map(len, lines)) > LONGEST_LINE:
        raise ValueError(f"it has a line of more than {LONGEST_LINE:,} characters; cut it, or convert it to WFDB")
    dialect = _dialect(lines)
    alone = dialect.count(lines[-1]) == 1
    notes = [f"separated by {SEPARATORS[dialect.separator]}"] * (dialect.separator != "," and not alone)
    notes += ["decimal comma"] * (dialect.decimal == ",") + ["comment lines skipped"] * bool(comments)
    below = lines[1:] if _counts_columns(dialect.split(lines[0])) else lines
    if _is_by_row(below, dialect, rows_by_lead):
        notes.append("one row for each lead")
        columns = zip_longest(*map(dialect.split, below), fillvalue="")
        dialect = _Dialect(";", dialect.decimal, dialect.quote)
        lines = [";".join(column) for column in columns if any(column)]
    start = _first_row(lines, dialect)
    usual = dialect.count(lines[-1])
    if start and lines[start - 1].count(dialect.quote) % 2:
        raise ValueError("a name of its columns has a line break; write the names in one line")
    head = [dialect.names(line, usual) for line in lines[:start]]
    if not head and comments:  # numpy.savetxt writes the names as a comment
        named = dialect.names(comments[-1].strip("#%/ "), usual)
        head = [named] * (len(named) == usual and any(leads_of(named)))
    names, units, above = _header(head, usual)
    if start + 1 < len(lines) and _counts_columns(dialect.split(lines[start])):
        start += 1
    notes += ["lines above the column names skipped"] * bool(above)
    columns = _columns(lines[start:], dialect)
    of_numbers = [column for column in columns if column.dtype.kind in "iuf" and not steps_evenly(column)]
    if _repeats_one_number(of_numbers):
        notes.append(
            f"the first sample is {of_numbers[0].iloc[0]:g} in all columns; if these are gains, remove the row"
        )
    if names is not None:
        names, columns = _named(names, columns)
    units += [""] * (len(columns) - len(units))
    return Grid(columns, names, units, "\n".join([*comments, *map(" ".join, above)]), notes)


def _dialect(lines: Sequence[str]) -> _Dialect:
    """Finds the separator and the decimal mark by which the largest share of cells are numbers."""
    quote = "'" if lines[0].lstrip().startswith("'") else '"'
    middle = len(lines) // 2
    sample = [line[:PEEK] for line in (*lines[middle : middle + 100], *lines[-20:])]
    found: list[tuple[float, int, _Dialect]] = []
    for separator in SEPARATORS:
        for decimal in ".,":
            dialect = _Dialect(separator, decimal, quote)
            fit, unfit = np.sum([dialect.judge(line) for line in sample], axis=0).tolist()
            found.append((unfit / max(fit + unfit, 1), -fit, dialect))
    unfit, _, best = min(found, key=lambda each: each[:2])  # of equals the first: points before commas
    if best.separator == "," and best.decimal == "." and "," not in lines[0] and best.judge(lines[0])[1]:
        # Below a single name, `0,5` is one number with a decimal comma, not two numbers.
        return next((each for bad, _, each in found if each.decimal == "," != each.separator and bad == unfit), best)
    return best


def _is_by_row(lines: Sequence[str], dialect: _Dialect, leads: int) -> bool:
    """Whether there is one row for each lead: the rows begin with names, or are as many as the leads."""
    if len(lines) > FEW_ROWS or max(map(dialect.count, lines)) <= len(lines):
        return False
    names = [dialect.split(line)[0] for line in lines]
    named = [lead for name, lead in zip(names, leads_of(names), strict=True) if not dialect.is_number(name)]
    if len(named) < len(lines) - 1:
        return not named and len(lines) == leads and all(dialect.judge(line)[1] == 0 for line in lines)
    return any(named) and all(dialect.judge(line)[0] > 1 for line in lines[1:])


def _first_row(lines: Sequence[str], dialect: _Dialect) -> int:
    """Returns the number of the first line with samples: as many cells as usual, most of them numbers."""
    usual = Counter(map(dialect.count, lines[-100:])).most_common(1)[0][0]
    for number, line in enumerate(lines):
        fit, unfit = dialect.judge(line)
        if fit > unfit and dialect.count(line) >= usual - 1:
            return number
    raise ValueError("it holds no row of numbers")


def _counts_columns(cells: Sequence[str]) -> bool:
    """Whether a row numbers the columns from 0 or 1, as pandas writes columns that have no names.

    The first cell may name a column of times.
    """
    whole = [_WHOLE.fullmatch(cell) for cell in cells]
    numbers = [int(match[1]) if match else None for match in (whole if whole and whole[0] else whole[1:])]
    return len(numbers) > 1 and numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _repeats_one_number(columns: Sequence[pd.Series]) -> bool:
    """Whether the first row has one whole number in all of several columns that differ below, as no ECG has."""
    first = {column.iloc[0] for column in columns}
    differ = len(columns) > 2 and any(not column.equals(columns[0]) for column in columns)
    return differ and len(first) == 1 and all(number != 0 and number % 1 == 0 for number in first)


def _header(rows: list[list[str]], columns: int) -> tuple[list[str] | None, list[str], list[list[str]]]:
    """Returns the names of the columns, their units, and the rows above both."""
    rows = [[cell.strip("\"' ") for cell in row] for row in rows]
    units: list[str] = []
    if rows and _are_units(rows[-1]):
        units = [cell.strip("()[] ") for cell in rows.pop()]
    if not rows:
        return None, units, []
    if columns == 1 and len(rows[-1]) == 2:  # as smartwatches write: keys and values above a single column
        values = {row[0].casefold(): row[1] for row in rows if len(row) == 2}
        lead, unit = (next((values[key] for key in keys if key in values), "") for keys in (_LEAD_KEYS, _UNIT_KEYS))
        return [lead] if lead else None, [unit], rows
    *above, names = rows
    while names and not names[-1]:
        names.pop()
    return names, units, above


def _are_units(cells: Sequence[str]) -> bool:
    """Whether all cells of a row are units, at least one of them a voltage."""
    bare = [cell.strip("()[] ").casefold() for cell in cells if cell]
    voltages = [unit_of(cell) is not None for cell in bare]
    return any(voltages) and all(voltage or cell in _OTHER_UNITS for voltage, cell in zip(voltages, bare, strict=True))


def _columns(lines: Sequence[str], dialect: _Dialect) -> list[pd.Series]:
    """Parses the rows of samples; columns at the end that are empty in all rows are dropped."""
    if not lines:
        raise ValueError("it holds no row of numbers")
    counts = [dialect.count(line) for line in lines]
    if max(counts) > MOST_COLUMNS:
        raise ValueError(f"its rows have {max(counts):,} values; at most {MOST_COLUMNS:,} leads are read")
    options: dict[str, Any] = {"sep": dialect.separator or r"\s+", "quotechar": dialect.quote}
    values = pd.read_csv(
        io.StringIO("\n".join(lines)),
        header=None,
        names=range(max(counts)),
        decimal=dialect.decimal,
        skipinitialspace=True,
        na_values=[*MISSING, *map(str.upper, MISSING)],
        skip_blank_lines=False,
        **options,
    )
    used = int(np.flatnonzero(values.notna().any(axis=0)).max(initial=-1)) + 1
    if min(counts) < used:
        usual = Counter(counts).most_common(1)[0][0]
        odd = next(number for number, count in enumerate(counts) if count != usual)
        raise ValueError(f"row {odd + 1} of the samples has {counts[odd]} values instead of {usual}")
    return [values[number] for number in range(min(counts) if used < min(counts) else used)]


def _named(names: list[str], columns: list[pd.Series]) -> tuple[list[str], list[pd.Series]]:
    """Returns the names and the columns that belong to them; raises ValueError if their numbers do not fit."""
    used = 1 + max((number for number, column in enumerate(columns) if column.notna().any()), default=-1)
    if len(names) == used - 1 and steps_evenly(columns[0]):
        names = ["", *names]  # R names no column of row numbers
    if not used <= len(names) <= len(columns):
        raise ValueError(f"its rows have {used} values for {len(names)} column names")
    return names, columns[: len(names)]
