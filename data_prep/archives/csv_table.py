"""Reading of CSV tables: those of published archives, and a user's own."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from operator import itemgetter
from pathlib import Path

import pandas as pd

from etp_jax.ecg.text import decode, encoding_of
from etp_jax.errors import EtpError
from etp_jax.paths import regular

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class OwnTable:
    """A user's table."""

    rows: list[dict[str, str]]
    """The required cells of each row, by column."""
    faults: list[tuple[str, str]]
    """Line and fault of each row that cannot be divided into the columns of the header."""
    sha: str
    """SHA-256 of the file."""
    notes: list[str]
    """What was assumed."""


def read_table(path: Path, columns: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    """Reads a published CSV table with every cell as text; also returns the SHA-256 of the file.

    Args:
      path: CSV file in UTF-8, with or without a byte order mark, or in UTF-16 with one.
      columns: required columns.

    Raises:
      EtpError: the file is missing, is in another encoding, is not a CSV table, or lacks a column.
    """
    data = _bytes(path)
    try:
        text = data.decode(encoding_of(data[:4]) or "utf-8")
    except UnicodeDecodeError as error:
        raise EtpError(f"{path}: not UTF-8 (byte {error.start}); download it again or convert it to UTF-8") from None
    try:
        table = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False, index_col=False).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise EtpError(f"{path}: not a CSV table ({str(error).strip()}); download it again") from None
    table.columns = [str(column).strip() for column in table.columns]
    _check_columns(path, list(table.columns), columns)
    return table, hashlib.sha256(data).hexdigest()


def read_own_table(path: Path, columns: tuple[str, ...]) -> OwnTable:
    """Reads a user's table with every cell as text.

    Args:
      path: CSV file in UTF-8, UTF-16 or Windows-1252, separated by commas, semicolons or tabs.
      columns: required columns.

    Raises:
      EtpError: the file is missing, is not a CSV table, or lacks a column or has it twice.
    """
    data = _bytes(path)
    try:
        text, encoding = decode(data)
    except UnicodeDecodeError as error:
        raise EtpError(f"{path}: not UTF-8 (byte {error.start}); save it as CSV in UTF-8") from None
    text = text.lstrip("\ufeff\r\n")
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    if _BINARY.search(head):
        raise EtpError(f"{path}: not a CSV table (it holds binary data); save it as CSV")
    separator = max(SEPARATORS, key=lambda each: sum(column in _cells(head, each) for column in columns))
    notes = [f"table in {encoding}"] * (encoding != "utf-8")
    notes += [f"table separated by {SEPARATORS[separator]}"] * (separator != ",")
    return OwnTable(*_own_rows(path, text, separator, columns), hashlib.sha256(data).hexdigest(), notes)


def read_rows(path: Path, columns: tuple[str, ...], advice: str) -> Iterator[tuple[str, ...]]:
    """Yields the cells of the given columns of a large published table, row by row, without holding the table.

    Args:
      path: CSV file, as for `read_table`.
      columns: required columns.
      advice: what to do if the file is missing.

    Raises:
      EtpError: the table cannot be read to its end.
    """
    try:
        with regular(path).open("rb") as file:
            encoding = encoding_of(file.read(4)) or "utf-8"
        with path.open(newline="", encoding=encoding) as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise EtpError(f"{path}: column {missing[0]!r} is missing; download it again")
            pick = itemgetter(*map(header.index, columns))
            for row in reader:
                if row and len(row) != len(header):
                    raise EtpError(
                        f"{path}: line {reader.line_num} has {len(row)} cells instead of {len(header)}; "
                        "download it again"
                    )
                if row:
                    yield pick(row)
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror}; {advice}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise EtpError(f"{path}: not a CSV table in UTF-8 ({error}); download it again") from None


def _bytes(path: Path) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror}; name the file, or the folder that holds it") from None


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _own_rows(
    path: Path, text: str, separator: str, columns: tuple[str, ...]
) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """Divides a user's table into rows; a row that has other cells than the header is a fault, and never shifted."""
    rows, faults = [], []
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    longest = csv.field_size_limit(len(text) + 1)
    try:
        lines = (row for row in reader if row)
        header = [cell.strip() for cell in next(lines, [])]
        _check_columns(path, header, columns)
        pick = [header.index(column) for column in columns]
        for row in lines:
            while len(row) > len(header) and not row[-1].strip():  # a separator at the end of the line
                row.pop()
            if len(row) != len(header):
                advice = f"quote cells that contain {SEPARATORS[separator]}"
                faults.append((f"line {reader.line_num}", f"row: {len(row)} cells instead of {len(header)}; {advice}"))
            elif [cell.strip() for cell in row] == header:
                faults.append((f"line {reader.line_num}", "row: repeats the names of the columns"))
            else:
                rows.append({column: row[place] for column, place in zip(columns, pick, strict=True)})
    except csv.Error as error:
        raise EtpError(f"{path}: not a CSV table (line {reader.line_num}: {error}); save it as CSV") from None
    finally:
        csv.field_size_limit(longest)
    return rows, faults


def _check_columns(path: Path, header: list[str], columns: tuple[str, ...]) -> None:
    """Raises EtpError if a table lacks a required column, or has it twice."""
    missing = [column for column in columns if column not in header]
    if missing:
        raise EtpError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(header[:10]) or 'no columns'}")
    twice = [column for column in columns if header.count(column) > 1]
    if twice:
        raise EtpError(f"{path}: column {twice[0]!r} appears twice; rename one of the two")
