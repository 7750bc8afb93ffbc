"""Reading of CSV tables: those of published archives, and a user's own."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from operator import itemgetter
from pathlib import Path

from etp_jax.ecg.text import decode, encoding_of
from etp_jax.errors import EtpError
from etp_jax.paths import regular

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEP = re.compile(r'"?sep=([^\r\n"])"?(?:\r\n|\r|\n)', re.IGNORECASE)
"""First line of a table for Excel, which names the separator."""
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of `.xlsx`, `.ods` and `.xls`."""
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


def read_table(path: Path, columns: tuple[str, ...]) -> tuple[list[dict[str, str]], str]:
    """Reads all rows of a published CSV table with every cell as text; also returns the SHA-256 of the file.

    Args:
      path: CSV file in UTF-8, with or without a byte order mark, or in UTF-16 with one.
      columns: required columns.

    Raises:
      EtpError: the file is missing, is in another encoding, is not a CSV table, lacks a column or has it twice, or has
        a row with other cells than the header.
    """
    data = _bytes(path)
    try:
        text = data.decode(encoding_of(data[:4]) or "utf-8")
    except UnicodeDecodeError as error:
        raise EtpError(f"{path}: not UTF-8 (byte {error.start}); download it again or convert it to UTF-8") from None
    header, *rows = _rows(path, StringIO(text, newline=""), columns)
    return [dict(zip(header, row, strict=True)) for row in rows], hashlib.sha256(data).hexdigest()


def read_own_table(path: Path, columns: tuple[str, ...]) -> OwnTable:
    """Reads a user's table with every cell as text.

    Args:
      path: CSV file in UTF-8, UTF-16 or Windows-1252, separated by commas, semicolons, tabs or bars, or by what its
        first line says (`sep=;`).
      columns: required columns.

    Raises:
      EtpError: the file is missing, is not a CSV table, or lacks a column or has it twice.
    """
    data = _bytes(path)
    if data.startswith(_WORKBOOKS):
        raise EtpError(f"{path}: a workbook, such as .xlsx; save its sheet as CSV")
    try:
        text, encoding = decode(data)
    except UnicodeDecodeError as error:
        if _BINARY.search(data.decode("latin-1")):
            raise _no_text(path) from None
        raise EtpError(f"{path}: not UTF-8 (byte {error.start}); save it as CSV in UTF-8") from None
    text = text.lstrip("\ufeff\r\n")
    stated = _SEP.match(text)
    text = text[stated.end() :] if stated else text
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    if _BINARY.search(head):
        raise _no_text(path)
    likely = max(SEPARATORS, key=lambda each: sum(column in _cells(head, each) for column in columns))
    separator = stated[1] if stated else likely
    notes = [f"table in {encoding}"] * (encoding != "utf-8")
    notes += [f"table separated by {_name(separator)}"] * (separator != ",")
    try:
        rows, faults = _own_rows(path, text, separator, columns)
    except csv.Error as error:
        rows, faults = _unescaped(path, text, separator, columns, error)
        notes.append("quotes in cells are escaped by backslashes")
    return OwnTable(rows, faults, hashlib.sha256(data).hexdigest(), notes)


def _no_text(path: Path) -> EtpError:
    return EtpError(f"{path}: not a CSV table (it holds binary data); save it as CSV")


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
            rows = _rows(path, file, columns)
            yield from map(itemgetter(*map(next(rows).index, columns)), rows)
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror}; {advice}") from None
    except UnicodeDecodeError as error:
        raise EtpError(f"{path}: not a CSV table in UTF-8 ({error}); download it again") from None


def _rows(path: Path, lines: Iterable[str], columns: tuple[str, ...]) -> Iterator[list[str]]:
    """Yields the header of a published table, then its rows, which all have as many cells."""
    reader = csv.reader(lines, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_columns(path, header, columns)
        yield header
        for row in filter(None, reader):
            if len(row) != len(header):
                raise EtpError(
                    f"{path}: line {reader.line_num} has {len(row)} cells instead of {len(header)}; download it again"
                )
            yield row
    except csv.Error as error:
        raise EtpError(f"{path}: not a CSV table (line {reader.line_num}: {error}); download it again") from None


def _bytes(path: Path) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror}; name the file, or the folder that holds it") from None


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _name(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _unescaped(
    path: Path, text: str, separator: str, columns: tuple[str, ...], error: csv.Error
) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """Divides a table whose quotes in cells follow a backslash, as in R and MySQL, if this explains all of it."""
    with suppress(csv.Error):
        rows, faults = _own_rows(path, text.replace('\\"', '""'), separator, columns)
        if not faults:
            return rows, faults
    raise EtpError(f"{path}: not a CSV table ({error}); save it as CSV, with quotes in a cell doubled") from None


def _own_rows(
    path: Path, text: str, separator: str, columns: tuple[str, ...]
) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """Divides a user's table into rows; a row that has other cells than the header is a fault, and never shifted.

    Raises:
      EtpError: the table lacks a column or has it twice, or every row has a cell more than the header.
      csv.Error: the quotes of the table are not those of CSV; names the line.
    """
    rows, faults, longer = [], [], True
    advice = f"quote cells that contain {_name(separator)}"
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    longest = csv.field_size_limit(len(text) + 1)
    try:
        lines = (row for row in reader if row)
        header = [cell.strip() for cell in next(lines, [])]
        _check_columns(path, header, columns)
        pick = [header.index(column) for column in columns]
        for row in lines:
            longer &= len(row) == len(header) + 1
            while len(row) > len(header) and not row[-1].strip():  # a separator at the end of the line
                row.pop()
            if len(row) != len(header):
                faults.append((f"line {reader.line_num}", f"row: {len(row)} cells instead of {len(header)}; {advice}"))
            elif [cell.strip() for cell in row] == header:
                faults.append((f"line {reader.line_num}", "row: repeats the names of the columns"))
            else:
                rows.append({column: row[place] for column, place in zip(columns, pick, strict=True)})
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(longest)
    if longer and faults and len(faults) + len(rows) > 1:
        raise EtpError(
            f"{path}: every row has {len(header) + 1} cells, the header {len(header)}; name the first column too, "
            f"or leave it out (in R: row.names=FALSE), and {advice}"
        )
    return rows, faults


def _check_columns(path: Path, header: list[str], columns: tuple[str, ...]) -> None:
    """Raises EtpError if a table lacks a required column, or has it twice."""
    missing = [column for column in columns if column not in header]
    if missing:
        raise EtpError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(header[:10]) or 'no columns'}")
    twice = [column for column in columns if header.count(column) > 1]
    if twice:
        raise EtpError(f"{path}: column {twice[0]!r} appears twice; rename one of the two")
