"""Textbook criteria: the waveform features that a diagnostic statement makes likely, without a language model.

`criteria.tsv` holds the features, each with the codes it belongs to, a sentence, its measurable part, and its source.
Codes are SCP-ECG codes and finer ones of our own such as `LAD`. `statements.tsv` maps statements to codes.

A statement is looked up whole, then by its parts between commas. Parts are split further at `consistent with`,
`suggesting`, `and` and the like. Words of doubt or age ("possible", "old") are ignored, since a proposal must be
confirmed. A part must match an entry from its first to its last word. Statements that deny something are only looked
up whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources

from etp_jax.errors import EtpError
from etp_jax.waveform.features import Check, Feature
from etp_jax.waveform.source import Answers

BEFORE = re.compile(
    r"(?:(?:possibly|possible|probably|probable|suspected|suspect|definite|likely|apparent|borderline|minimal|mild|"
    r"moderate|marked|minor|slight|slightly|frequent|occasional|isolated|old|acute|recent|subacute|chronic|"
    r"consider|cannot rule out|cannot exclude|suggests|suggestive of|consistent with) )+"
)
AFTER = re.compile(
    r"(?: (?:cannot be excluded|cannot be entirely excluded|cannot be ruled out|is possible|is likely|is probable|"
    r"is present|of uncertain age))+"
)
JOINS = re.compile(r" (?:consistent with|suggesting|suggestive of|due to|and|with) ")
DENIALS = frozenset(("no", "not", "without", "nor", "neither", "excluded", "resolved", "unlikely", "rather", "except"))


class Criteria:
    """Source of features that uses the tables included in the package."""

    def __init__(self) -> None:
        """Reads the tables."""
        self.origin = {"source": "criteria", "features": len(_features()[0]), "statements": len(_codes())}

    def propose(self, statements: list[str]) -> Answers:
        """Returns the features of each statement, in the order of the table."""
        return Answers({statement: features_of(statement) for statement in statements})


def features_of(statement: str) -> tuple[Feature, ...]:
    """Returns the features that a statement makes likely, in the order of the table."""
    features, of_code = _features()
    return tuple(features[place] for place in sorted({p for code in codes_of(statement) for p in of_code[code]}))


def codes_of(statement: str) -> tuple[str, ...]:
    """Returns the distinct codes of a statement; an empty tuple if the tables do not contain it."""
    text = re.sub(r"\s+", " ", statement.lower()).strip(" .")
    if codes := _look_up(text):
        return codes
    # `cannot be excluded` is removed first because it contains `excluded` but is not a denial.
    if DENIALS & set(re.findall(r"[\w-]+", AFTER.sub("", text))):
        return ()
    return tuple(dict.fromkeys(code for part in _parts(text) for code in part))


def _parts(text: str) -> Iterator[tuple[str, ...]]:
    for part in text.split(", "):
        if codes := _look_up(part):
            yield codes
        else:
            yield from map(_look_up, JOINS.split(part))


def _look_up(phrase: str) -> tuple[str, ...]:
    """Returns the codes of a phrase, looked up unchanged and without words of doubt and age."""
    table = _codes()
    for shorter in (phrase, BEFORE.sub("", phrase, count=1) if BEFORE.match(phrase) else phrase):
        for text in (shorter, AFTER.sub("", shorter) if AFTER.search(shorter) else shorter):
            if text in table:
                return table[text]
    return ()


@cache
def _codes() -> dict[str, tuple[str, ...]]:
    """Reads the codes of each statement; raises EtpError if a code has no feature or a statement occurs twice."""
    table: dict[str, tuple[str, ...]] = {}
    for number, row in _rows("statements.tsv"):
        codes = tuple(row["codes"].split())
        unknown = [code for code in codes if code not in _features()[1]]
        if not codes or unknown or row["statement"] in table:
            raise EtpError(
                f"statements.tsv, line {number}: {row['statement']!r} occurs twice or {unknown} has no feature"
            )
        table[row["statement"]] = codes
    return table


@cache
def _features() -> tuple[tuple[Feature, ...], dict[str, list[int]]]:
    """Reads all features, and the positions of each code; raises EtpError on an invalid check or repeated sentence."""
    features: list[Feature] = []
    of_code: dict[str, list[int]] = {}
    for number, row in _rows("criteria.tsv"):
        check = _check(row)
        flaw = check.flaw() if check else ""
        if flaw or any(feature.sentence == row["sentence"] for feature in features):
            raise EtpError(f"criteria.tsv, line {number}: {flaw or 'the sentence occurs twice'}")
        for code in row["codes"].split():
            of_code.setdefault(code, []).append(len(features))
        features.append(Feature(row["sentence"], check, row["source"]))
    return tuple(features), of_code


def _check(row: dict[str, str]) -> Check | None:
    if not row["quantity"]:
        return None
    low, high = (float(row[bound]) if row[bound] else None for bound in ("low", "high"))
    return Check(row["quantity"], low, high, tuple(row["leads"].split()), int(row["at_least"] or 0))


def _rows(name: str) -> Iterator[tuple[int, dict[str, str]]]:
    text = resources.files("etp_jax.waveform").joinpath(name).read_text(encoding="utf-8")
    yield from enumerate(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE), start=2)
