"""Reading of CSV tables: those of published archives, and a user's own."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from io import StringIO
from operator import itemgetter
from pathlib import Path

import pandas as pd

from etp_jax.ecg.text import decode, encoding_of
from etp_jax.errors import EtpError
from etp_jax.paths import regular

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


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
    return _parsed(path, text, ",", columns, "download it again"), hashlib.sha256(data).hexdigest()


def read_own_table(path: Path, columns: tuple[str, ...]) -> tuple[pd.DataFrame, str, list[str]]:
    """Reads a user's table with every cell as text; also returns the SHA-256 of the file and what was assumed.

    Args:
      path: CSV file in UTF-8, UTF-16 or Windows-1252, separated by commas, semicolons or tabs.
      columns: required columns.

    Raises:
      EtpError: the file is missing, is not a CSV table, or lacks a column.
    """
    data = _bytes(path)
    try:
        text, encoding = decode(data)
    except UnicodeDecodeError as error:
        raise EtpError(f"{path}: not UTF-8 (byte {error.start}); save it as CSV in UTF-8") from None
    head = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(SEPARATORS, key=lambda each: sum(column in _cells(head, each) for column in columns))
    notes = [f"table in {encoding}"] * (encoding != "utf-8")
    notes += [f"table separated by {SEPARATORS[separator]}"] * (separator != ",")
    table = _parsed(path, text, separator, columns, "save it as CSV")
    return table, hashlib.sha256(data).hexdigest(), notes


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


def _parsed(path: Path, text: str, separator: str, columns: tuple[str, ...], advice: str) -> pd.DataFrame:
    """Parses a table; raises EtpError if it is none, or lacks a column."""
    try:
        table = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise EtpError(f"{path}: not a CSV table ({str(error).strip()}); {advice}") from None
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise EtpError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(table.columns[:10])}")
    return table
