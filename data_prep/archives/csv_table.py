"""Reading of CSV tables."""

from __future__ import annotations

import hashlib
from io import StringIO
from pathlib import Path

import pandas as pd

from etp_jax.errors import EtpError


def read_table(path: Path, columns: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    """Reads a CSV table with every cell as text; also returns the SHA-256 of the file.

    Args:
      path: CSV file in UTF-8.
      columns: required columns.

    Raises:
      EtpError: the file is missing, is not UTF-8, is not a CSV table, or lacks a column.
    """
    try:
        data = path.read_bytes()
        table = pd.read_csv(StringIO(data.decode("utf-8-sig")), dtype=str, keep_default_na=False).fillna("")
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror}; name the file, or the folder that holds it") from None
    except UnicodeDecodeError as error:
        raise EtpError(f"{path}: not UTF-8 (byte {error.start}); download it again or convert it to UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise EtpError(f"{path}: not a CSV table ({str(error).strip()}); download it again") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise EtpError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(map(str, table.columns[:10]))}")
    return table, hashlib.sha256(data).hexdigest()
