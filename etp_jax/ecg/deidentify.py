"""What of a person leaves a hospital file: age, sex and statements without names and dates. Does not import jax."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

OLDEST = 120
"""Ages beyond this, in years, are placeholders."""
BLANK = "___"
"""What replaces a name or a date."""
_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"\b(?:\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}|\d{{1,2}}[- .]*{_MONTH}[- .,]*\d{{2,4}}"
    rf"|{_MONTH}[- .]*\d{{1,2}}[- ,.]+\d{{2,4}}|(?:19|20)\d{{6}}(?:\d{{4,6}})?)"
    r"(?:[ T,]+\d{1,2}:\d{2}(?::\d{2})?)?|\b\d{1,2}:\d{2}(?::\d{2})?\b",
    re.IGNORECASE,
)
_SIGNED = re.compile(
    r"\b(?:confirmed|reviewed|signed|over-?read|interpreted|edited|referred|ordered|requested|validated|verified|read)"
    r"\s*(?:by|:)|\b(?:dr|md|phd|physician|technician|operator|dob)\b|electronically|\b(?:name|id)\s*:|date of birth",
    re.IGNORECASE,
)


def statements(texts: Iterable[str], *private: str) -> str:
    """Joins the statements of a file to a report, each once.

    A statement that names who signed it is left out. Dates, times and the given private texts are replaced.

    Args:
      texts: statements of the file.
      private: names and ids of persons, of which each word of three or more letters is replaced.
    """
    words = {word for text in private for word in re.findall(r"\w{3,}", text)}
    names = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(words)))})\b", re.IGNORECASE) if words else None
    kept = []
    for text in texts:
        line = " ".join(text.split())
        if not line or _SIGNED.search(line):
            continue
        line = _DATE.sub(BLANK, line)
        kept.append((names.sub(BLANK, line) if names else line).rstrip(" ."))
    return ". ".join(filter(None, dict.fromkeys(kept)))


def age_in_years(text: str) -> float:
    """Parses an age of DICOM, such as `061Y` or `018M`; NaN if it is none."""
    match = re.fullmatch(r"\s*(\d{1,3})([YMWD])\s*", text)
    return plausible(float(match[1]) / _PER_YEAR[match[2]]) if match else math.nan


def plausible(years: float | None) -> float:
    """Returns an age; NaN if there is none or it is a placeholder."""
    return float(years) if years is not None and 0 <= years <= OLDEST else math.nan


def sex_word(code: str) -> str:
    """Returns `male`, `female`, or an empty text for any other code than M and F."""
    return {"m": "male", "male": "male", "f": "female", "female": "female"}.get(code.strip().casefold(), "")
