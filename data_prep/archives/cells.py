"""What the cells of a user's table mean: labels, ages, sexes, ids and reports as people write them."""

from __future__ import annotations

import ast
import html
import json
import math
import re
from functools import lru_cache
from typing import Any

from etp_jax.data_prep.archives.ptbxl import OLDEST
from etp_jax.errors import EtpError

NO_VALUE = ("", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "?")
"""Cells that hold no value, in lower case."""
SEXES = {
    **dict.fromkeys(("male", "m", "man", "mann", "männlich", "maennlich"), "male"),
    **dict.fromkeys(("female", "f", "w", "woman", "frau", "weiblich"), "female"),
}
FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SEPARATOR = re.compile(r"[;,|]")
_AGE = re.compile(r"(\d+(?:[.,]\d+)?)\s*(y|yr|yrs|year|years|yo|a|j|jahre|m|w|d)?\.?(?:\s*old)?", re.IGNORECASE)
_PER_YEAR = {"m": 12.0, "w": 52.18, "d": 365.25}
"""Units of DICOM's ages (`018M`), per year."""


def is_empty(cell: str) -> bool:
    """Whether a cell holds no value: it is empty, or a program's word for nothing, such as `NaN`."""
    return cell.strip().casefold() in NO_VALUE


def labels_of(cell: str) -> dict[str, float]:
    """Parses the labels of a record, each with its likelihood in percent, which is -1 where none is given.

    A cell holds labels separated by `;`, `,` or `|`; or a label in each line, which may contain commas; a list, tuple
    or set in Python or JSON; or a dictionary of labels and likelihoods in percent, or of labels and true or false. As
    in PTB-XL, a label with likelihood 0 is present.

    Raises:
      EtpError: the cell is a list or a dictionary of another kind.
    """
    text = cell.strip()
    if is_empty(text):
        return {}
    if text[0] in "[{" or (text[-1] == ")" and text.startswith(("(", "set(", "frozenset(", "array("))):
        return _collection(text)
    parts = text.splitlines() if "\n" in cell else _SEPARATOR.split(text)  # LUDB ends each label with a line break
    parts = [part.strip().strip("\"'").strip() for part in parts]
    return {whole_number(part): -1.0 for part in parts if not is_empty(part)}


def _collection(text: str) -> dict[str, float]:
    """Parses labels that a program wrote as a list, tuple, set or dictionary."""
    inner = re.sub(r"^(?:frozenset|set|array)\((.*?)(?:, dtype=.*)?\)$", r"\1", text, flags=re.DOTALL).strip()
    if not inner:
        return {}
    # numpy writes no commas: ['AF' 'LBBB']; Python would join the two words.
    inner = re.sub(r"(['\"])\s+(?=['\"])", r"\1, ", inner)
    found = _literal(re.sub(r"(?<=[\[(,:\s])nan(?=[\]),\s}])", "None", inner))
    if isinstance(found, dict):
        return _likelihoods(found, text)
    if found is None and inner[0] == "[" and inner[-1] == "]" and not re.search(r"[\[\](){}:'\"]", inner[1:-1]):
        found = _SEPARATOR.split(inner[1:-1])  # words without quotes: [AF, LBBB]
    if not isinstance(found, (list, tuple, set)) or any(isinstance(each, (list, tuple, set, dict)) for each in found):
        raise EtpError(f"labels: {_short(text)} is no list of labels and no dictionary of labels and likelihoods")
    words = [str(each).strip() for each in found if each is not None]
    return {whole_number(word): -1.0 for word in words if not is_empty(word)}


def _literal(text: str) -> Any:
    """Evaluates a literal of Python or JSON; returns None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        # Deeply nested or overlong text exhausts the parsers.
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def _likelihoods(found: dict[Any, Any], text: str) -> dict[str, float]:
    """Converts a dictionary of labels; raises EtpError if its values are no likelihoods."""
    if found and all(isinstance(value, bool) for value in found.values()):
        return {str(label): -1.0 for label, value in found.items() if value}
    numbers = {}
    for label, value in found.items():
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 100):
            raise EtpError(f"labels: {_short(text)} has a likelihood that is no number from 0 to 100")
        numbers[str(label).strip()] = -1.0 if value is None else float(value)
    if 0 < max(numbers.values(), default=0.0) <= 1:
        raise EtpError(f"labels: {_short(text)} may mean shares or percent; list the labels that are present")
    return numbers


def whole_number(text: str) -> str:
    """Removes the `.0` that spreadsheets and pandas add to whole numbers."""
    return re.sub(r"(?<=\d)\.0+$", "", text) if re.fullmatch(r"\d+\.0+", text) else text


def patient_of(cell: str) -> str:
    """Returns the id by which a patient's records are kept together: `00123`, `123.0` and `123` are one.

    Raises:
      EtpError: the cell is empty or holds a rounded number, such as `1.2E+11`.
    """
    if is_empty(cell):
        raise EtpError("patient: the cell is empty")
    text = whole_number(cell.strip())
    if re.fullmatch(r"\d(?:[.,]\d+)?[eE]\+?\d+", text):
        raise EtpError(f"patient: {text!r} is a rounded number; save the ids as text")
    return text.lstrip("0") or "0" if text.isascii() and text.isdecimal() else text


def age_of(cell: str) -> float | None:
    """Parses an age, such as `61`, `45Y` or `018M`, in years; NaN if the cell is empty, None if it is not valid."""
    if is_empty(cell):
        return math.nan
    match = _AGE.fullmatch(cell.strip())
    if match is None:
        return None
    age = float(match[1].replace(",", ".")) / _PER_YEAR.get((match[2] or "").casefold(), 1.0)
    return age if age <= OLDEST else None


@lru_cache(maxsize=256)
def flag_of(cell: str) -> bool | None:
    """Parses true or false, also as 1 or 0; returns None if the cell is neither."""
    return FLAGS.get(whole_number(cell.strip()).casefold())


def sex_of(cell: str, column: str = "") -> str | None:
    """Parses a sex; returns an empty text if the cell is empty, None if it is not understood.

    Args:
      cell: text of the cell.
      column: name of its column; true and false are understood in `is_male`, `male`, `is_female` and `female`.
    """
    asked = SEXES.get(column.casefold().removeprefix("is_"))
    if asked and (flag := flag_of(cell)) is not None:
        return asked if flag else {"male": "female", "female": "male"}[asked]
    return "" if is_empty(cell) else SEXES.get(cell.strip().casefold())


def report_of(cell: str) -> str:
    """Returns a report without HTML entities; an empty text if the cell holds no value."""
    return "" if is_empty(cell) else html.unescape(cell).strip()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
