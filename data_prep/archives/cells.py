"""What the cells of a table mean: labels, ages, sexes, ids and reports as people write them."""

from __future__ import annotations

import ast
import html
import json
import math
import re
from functools import lru_cache
from typing import Any

from etp_jax.errors import EtpError

OLDEST = 120
"""Highest valid age, in years; a higher one counts as unknown."""
NO_VALUE = ("", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "?", "#n/a", "#ref!", "#value!", "set()")
"""Cells that hold no value, in lower case."""
SEXES = {
    **dict.fromkeys(("male", "m", "man", "mann", "männlich", "maennlich"), "male"),
    **dict.fromkeys(("female", "f", "w", "woman", "frau", "weiblich"), "female"),
}
FLAGS = {
    **dict.fromkeys(("true", "t", "1", "yes", "y"), True),
    **dict.fromkeys(("false", "f", "0", "no", "n"), False),
}
_PART = re.compile(r"(?:[^;,|(]|\([^()]*\)|\()+")
"""A label between separators, which do not separate within parentheses."""
_PAIR = re.compile(
    r"(?!.*\b\d:\d$)(?P<label>.*[^\s<>:=])\s*[:=]\s*"
    r"(?:(?P<number>[+-]?\d{1,3}(?:\.\d+)?(?:e[+-]?\d+)?)\s*%?|(?P<yes>true|yes)|false|no)",
    re.IGNORECASE,
)
"""A label with its likelihood: `AF:100`, `AF=true`; neither a ratio (`flutter 2:1`) nor a code (`SNOMED:164889003`)."""
_CALL = re.compile(r"[A-Za-z_][\w.]*\(\s*(?=[\[{(])")
"""Start of a collection as its type writes it: `Index([...], dtype='object')`, `set([...])`."""
_SCALAR = re.compile(r"\b(?:np|numpy)\.\w+\(([^()]*)\)")
"""An element as numpy writes it: `np.str_('AF')`."""
_KEY = re.compile(r"""[{,]\s*(?:'[^']*'|"[^"]*"|[\w.]+)\s*:""")
"""Start of an entry of a dictionary of Python or JSON."""
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")
_AGE = re.compile(r"(\d+(?:[.,]\d+)?)(?:([mwd])|\s*(?:y|yr|yrs|year|years|yo|a|j|jahre)?\.?(?:\s*old)?)", re.IGNORECASE)
_LINE_TAGS = r"br|p|div|li|ul|ol|table|tr|td|th|h[1-6]|pre|html|body"
_TAG = re.compile(
    rf"</?(?:(?P<line>{_LINE_TAGS})|b|em|font|i|small|span|strong|sub|sup|u)"
    r"""(?:\s+[\w-]+=(?:"[^"]*"|'[^']*'|[^\s<>"']+))*\s*/?>""",
    re.IGNORECASE,
)
"""A tag of HTML; anything else between angle brackets may be words of a report."""
_PER_YEAR = {"m": 12.0, "w": 52.18, "d": 365.25}
"""Units of DICOM's ages (`018M`), per year."""


def is_empty(cell: str) -> bool:
    """Whether a cell holds no value: it is empty, or a program's word for nothing, such as `NaN`."""
    return cell.strip().casefold() in NO_VALUE


def labels_of(cell: str) -> dict[str, float]:
    """Parses the labels of a record, each with its likelihood in percent, which is -1 where none is given.

    A cell holds labels separated by `;`, `,` or `|`, except between parentheses; or a label in each line, which may
    contain commas; a list, tuple or set of Python, JSON, numpy, pandas or SQL; or a dictionary of labels and
    likelihoods in percent, or of labels and true or false, also without brackets (`AF:100;SR:0`). As in PTB-XL, a label
    with likelihood 0 is present.

    Raises:
      EtpError: the cell is a list or a dictionary of another kind, or a list of flags or rounded numbers.
    """
    text = cell.strip()
    if text[:1] in ("'", '"') and text[-1] == text[0] and text[1:].lstrip()[:1] in ("[", "{"):  # quoted twice
        text = text[1:-1].replace(2 * text[0], text[0]).strip()
    if is_empty(text):
        return {}
    if (inner := _unwrapped(text))[0] in "[{(" and inner[-1] in "]})":
        found = _collection(inner, text)
        if isinstance(found, dict):
            return found
    else:
        # LUDB ends each label with a line break.
        found = text.splitlines() if re.search(r"[\r\n]", cell) else _PART.findall(text)
        found = [re.sub(r"^b(?=['\"])", "", part.strip()).strip("\"'").strip() for part in found]
        if any(part[:1] in ("[", "{") or _unbalanced(part) for part in found):
            raise EtpError(f"labels: {_short(text)} has brackets that are not understood")
    if any(pairs := [_PAIR.fullmatch(part) for part in found if not is_empty(part)]):
        return _likelihoods(_pairs(pairs, text), text)
    labels = [whole_number(label) for label in found if not is_empty(label)]
    if rounded := next(filter(_ROUNDED.fullmatch, labels), None):
        raise EtpError(f"labels: {rounded!r} is a rounded number; save the codes as text")
    if len(labels) > 1 and all(label.casefold() in ("0", "1", "false", "true") for label in labels):
        raise EtpError(f"labels: {_short(text)} are flags whose labels the cell does not name; use --label-columns")
    return dict.fromkeys(labels, -1.0)


def _unwrapped(text: str) -> str:
    """Returns a collection without its type and what follows it: `[...]` of `array([...], dtype=object)`."""
    call = _CALL.match(text)
    if call is None or text[-1] != ")":
        return text
    end = max(text.rfind(bracket, 0, -1) for bracket in "]})") + 1
    return text[call.end() : end] if re.fullmatch(r"\s*(?:,.*)?\)", text[end:], re.DOTALL) else text


def _unbalanced(text: str) -> bool:
    return any(text.count(start) != text.count(end) for start, end in ("[]", "{}", "()"))


def _collection(inner: str, text: str) -> list[str] | dict[str, float]:
    """Parses labels that a program wrote as a list, tuple, set or dictionary; `text` is the whole cell."""
    # numpy writes no commas: ['AF' 'LBBB']; Python would join the two words.
    inner = re.sub(r"(['\"])\s+(?=['\"])", r"\1, ", _SCALAR.sub(r"\1", inner))
    found = _literal(inner)
    if isinstance(found, dict):
        return _likelihoods(found, text)
    if found is None and inner[0] + inner[-1] in ("[]", "{}") and not re.search(r"[\[\](){}:'\"]", inner[1:-1]):
        found = _PART.findall(inner[1:-1])  # words without quotes: [AF, LBBB]
        if all(re.fullmatch(r"[\d.e+]+|nan", word) for word in inner[1:-1].split()):  # numpy again: [1. 0.]
            found = inner[1:-1].split()
    if not isinstance(found, (list, tuple, set)) or any(isinstance(each, (list, tuple, set, dict)) for each in found):
        raise EtpError(f"labels: {_short(text)} is no list of labels and no dictionary of labels and likelihoods")
    return [_word(each) for each in found]


def _word(element: Any) -> str:
    return (element.decode(errors="replace") if isinstance(element, bytes) else str(element)).strip()


def _literal(text: str) -> Any:
    """Evaluates a literal of Python or JSON, where `nan` is None; returns None if it is neither."""
    text = re.sub(r"(?<=[\[(,{:\s])nan(?=[\]),\s}:])", "None", text)
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        # Deeply nested or overlong text exhausts the parsers.
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def _pairs(pairs: list[re.Match[str] | None], text: str) -> dict[str, float | bool]:
    """Returns the dictionary that labels with likelihoods make; raises EtpError if they make none."""
    named = {
        pair["label"].strip("\"'"): float(pair["number"]) if pair["number"] else bool(pair["yes"])
        for pair in pairs
        if pair
    }
    if len(named) < len(pairs):
        raise EtpError(f"labels: {_short(text)} has a label without likelihood, or one twice; list the labels only")
    return named


def _likelihoods(found: dict[Any, Any], text: str) -> dict[str, float]:
    """Converts a dictionary of labels; raises EtpError if its values are no likelihoods, or a label is in it twice."""
    if has_key_twice(text, len({whole_number(_word(label)) for label in found})):
        raise EtpError(f"labels: {_short(text)} has a label twice")
    named = {whole_number(_word(label)): value for label, value in found.items() if not is_empty(_word(label))}
    if named and all(isinstance(value, bool) for value in named.values()):
        return {label: -1.0 for label, value in named.items() if value}
    numbers = {}
    for label, value in named.items():
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 100):
            raise EtpError(f"labels: {_short(text)} has a likelihood that is no number from 0 to 100")
        numbers[label] = -1.0 if value is None else float(value)
    if 0 < max(numbers.values(), default=0.0) <= 1:
        raise EtpError(f"labels: {_short(text)} may mean shares or percent; list the labels that are present")
    return numbers


def has_key_twice(text: str, distinct: int) -> bool:
    """Whether the text of a dictionary has more keys than it has distinct ones; Python keeps the last of each."""
    return len(_KEY.findall(text)) > distinct


def whole_number(text: str) -> str:
    """Removes the `.0` that spreadsheets and pandas add to whole numbers, and the `.` that numpy adds."""
    return text.partition(".")[0] if re.fullmatch(r"\d+\.0*", text) else text


def numeric_id(cell: str) -> str:
    """Returns a numeric id without leading zeros and `.0`; an empty text if the cell holds none."""
    match = re.fullmatch(r"0*(\d{1,18})(?:\.0*)?", cell.strip(), re.ASCII)
    return match[1] if match else ""


def patient_of(cell: str) -> str:
    """Returns the id by which a patient's records are kept together: `00123`, `123.0` and `123` are one.

    Raises:
      EtpError: the cell is empty or holds a rounded number, such as `1.2E+11`.
    """
    if is_empty(cell):
        raise EtpError("patient: the cell is empty")
    text = whole_number(cell.strip())
    if _ROUNDED.fullmatch(text):
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


def not_understood(age: float | None, sex: str | None) -> list[str]:
    """Returns what is noted of a record whose age or sex is None."""
    age_note, sex_note = "age is not possible or not understood", "sex is not understood"
    return [f"{note}; stored as unknown" for note, value in ((age_note, age), (sex_note, sex)) if value is None]


def report_of(cell: str) -> str:
    """Returns a report without HTML; an empty text if the cell holds no value.

    A list of Python or JSON holds the statements of the report. HTML tags end a statement, except inline ones.
    """
    found = _literal(cell.strip()) if cell.strip().startswith("[") else None
    if isinstance(found, list):
        return "\n".join(filter(None, (report_of(str(each)) for each in found)))
    text = html.unescape(html.unescape(cell))  # escaped twice: &amp;lt;
    text = _TAG.sub(lambda tag: "\n" if tag["line"] else "", text)
    return "" if is_empty(text) else text.strip()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
