"""Clinical ECG reports in German, Swedish or English -> clean English statements.

PTB-XL's reports were typed and machine-made in three languages, lower-cased, with broken umlauts and with tails that
say nothing about the heart or give the labels away. `clean_report` removes those, then translates by the longest
matching phrase of `glossary.tsv`. No model takes part, so equal findings get equal English words whatever their
language.

A line of the glossary is `language, source, english`:

* `source` is matched by whole tokens. Hyphens and the spelling of umlauts do not matter; a full stop is a token.
* `english` replaces it; `|` in it begins or ends a statement; it may be empty for words that say nothing.
* `language` is `de`, `sv` or `en`. `en` lines are the English vocabulary: a word that stands in no line is unknown,
  whichever language it belongs to.

Every source occurs in PTB-XL's folds 1-8.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from etp_jax.errors import EtpError


@dataclass(frozen=True)
class CleanReport:
    """A report as a cardiologist would write it in English.

    `report` is `statements` joined by ". ", or "" where nothing is said about the heart ("trace only requested").
    `tokens` counts the words of the original (not numbers, leads or punctuation); `unknown` holds those without an
    entry, which stay untranslated.
    """

    report: str
    statements: tuple[str, ...]
    tokens: int
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """How much of a set of reports the glossary translates."""

    reports: int
    """Distinct reports."""
    tokens: int
    """Words over all reports, each report as often as it occurs."""
    token_share: float
    """Share of the words that have an entry."""
    report_share: float
    """Share of the distinct reports whose every word has an entry."""


def clean_report(text: str) -> CleanReport:
    """Cleans one report and translates it into English statements, in their order."""
    glossary = load_glossary()
    stripped, cut = strip_tails(text)
    tokens = tokenize(stripped)
    pieces: list[str] = []
    unknown: list[str] = []
    words = 0
    position = 0
    while position < len(tokens):
        token = tokens[position]
        length, english = glossary.longest_match(tokens, position)
        words += sum(_is_word(t) for t in tokens[position : position + length])
        if english is None:
            if _is_word(token):
                unknown.append(token)
            english = LEADS.get(token, "|" if token in (".", ";") else token)
        pieces.append(english)
        position += length
    # What a cut-off statement would have gone on to say may have been "cannot be excluded".
    english = " ".join(pieces)
    statements = _split_statements(english[: english.rfind("|") + 1] if cut else english)
    return CleanReport(". ".join(statements), statements, words, tuple(unknown))


def split_english(text: str) -> tuple[str, ...]:
    """The statements of an English report: its lines, sentences and parts between `;` or `|`, each once, unchanged."""
    parts = re.split(r"[\n;|]|\.(?=\s|$)", text)
    return tuple(dict.fromkeys(filter(None, (re.sub(r"\s+", " ", part).strip(" ,:-*") for part in parts))))


def coverage(reports: Iterable[str]) -> Coverage:
    """Token and report coverage of the glossary over `reports` (originals)."""
    reports = list(reports)
    cleaned = {report: clean_report(report) for report in dict.fromkeys(reports)}
    tokens = sum(cleaned[report].tokens for report in reports)
    unknown = sum(len(cleaned[report].unknown) for report in reports)
    whole = sum(not clean.unknown for clean in cleaned.values())
    return Coverage(
        reports=len(cleaned),
        tokens=tokens,
        token_share=1 - unknown / tokens if tokens else 1.0,
        report_share=whole / len(cleaned) if cleaned else 1.0,
    )


# --- Cleaning --------------------------------------------------------------------------------------------------------

# What follows these was added when the labels were reviewed: it names them.
_LABEL_TAIL = re.compile(r" ?(?:consensus label derived from|edit:).*", re.IGNORECASE | re.DOTALL)
# "4.46   unbestätigter bericht": version of the device's program, unconfirmed report.
_DEVICE_TAIL = re.compile(r"\s4\.4\d(?:\s+u[a-z]*(?:\s+b[a-z]*)?)?\s*$")
_CUT_DEVICE_TAIL = re.compile(r"\s4(?:\.4?)?$")
# The archive's field held so many characters; a longer report lost its end.
_FIELD_LENGTH = 255

# The patient's form that some Swedish reports begin with ("nr: 030315 ... med: ").
_FORM = re.compile(r"^nr: .*? med: ")

_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "#": "ue"})


def strip_tails(text: str) -> tuple[str, bool]:
    """The folded report without label and device tails, and whether the archive had cut off its end.

    A cut-off report also loses its last word, which may be half a word.
    """
    text = _LABEL_TAIL.sub("", unicodedata.normalize("NFC", text))
    full = len(text) >= _FIELD_LENGTH
    text = _FORM.sub("", fold(text))
    stripped = _DEVICE_TAIL.sub("", text)
    if full:
        stripped = _CUT_DEVICE_TAIL.sub("", stripped)
    cut = full and stripped == text and not text.rstrip().endswith(".")
    return (re.sub(r"[^\s.,]*$", "", text) if cut else stripped), cut


def fold(text: str) -> str:
    """Lower case with umlauts spelled out: the form in which reports and glossary meet."""
    return text.lower().translate(_UMLAUTS)


# --- Tokens ----------------------------------------------------------------------------------------------------------

LEADS = {"i": "I", "ii": "II", "iii": "III", "avr": "aVR", "avl": "aVL", "avf": "aVF"}

_CHEST_LEADS = re.compile(r"\bv ?[1-6](?:(?: ?[-,+/&] ?(?:in )?v?| ?(?:und|and|bis|to) v)[1-6](?![\d:]))*(?!\d)")
_LIMB_LEADS = re.compile(r"\bi ?- ?iii\b")
_TOKEN = re.compile(
    r"""V[1-6](?:-V[1-6])?                      # chest leads, from _CHEST_LEADS
    |   [^\W\d_]\w*(?:'[a-z]+)?                # word
    |   \d+(?:[.,:]\d+)*(?:-\d+(?:[.,]\d+)*)?   # number, ratio, range
    |   [^\s\w-]                                # punctuation; hyphens only join words
    """,
    re.VERBOSE,
)


def tokenize(folded: str) -> list[str]:
    """Words, numbers, leads and punctuation; chest leads in one spelling (`v4,5 +v6` -> `V4-V6`)."""
    return _TOKEN.findall(_CHEST_LEADS.sub(_chest_leads, _LIMB_LEADS.sub("i, ii, iii", folded)))


def _chest_leads(match: re.Match[str]) -> str:
    """`v2, v4-6` -> `V2, V4-V6`: runs of three leads or more become a range."""
    numbers: list[int] = []
    through = False
    for sign in re.findall(r"[1-6]|-|bis|to", match[0]):
        if not sign.isdigit():
            through = True
            continue
        first = numbers[-1] + 1 if through and numbers and numbers[-1] < int(sign) else int(sign)
        numbers += range(first, int(sign) + 1)
        through = False
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    names = [f"V{r[0]}-V{r[-1]}" if len(r) > 2 else ", ".join(f"V{n}" for n in r) for r in runs]
    return " " + ", ".join(names) + " "


def _is_word(token: str) -> bool:
    """True for what could need translation: neither number, nor lead, nor punctuation."""
    return token[0].islower() and token not in LEADS


# --- Glossary --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Glossary:
    """Phrases as tuples of tokens, and how long those are that begin with a token, longest first."""

    english: dict[tuple[str, ...], str]
    lengths: dict[str, list[int]]

    def longest_match(self, tokens: list[str], position: int) -> tuple[int, str | None]:
        """Length and English of the longest phrase that begins here; (1, None) where there is none."""
        for length in self.lengths.get(tokens[position], ()):
            english = self.english.get(tuple(tokens[position : position + length]))
            if english is not None:
                return length, english
        return 1, None


@cache
def load_glossary() -> Glossary:
    """The glossary, read once. Raises EtpError on a malformed or doubled line."""
    english: dict[tuple[str, ...], str] = {}
    for number, (_, source, target) in enumerate(read_glossary(), start=2):
        phrase = tuple(tokenize(fold(source)))
        if not phrase or phrase in english:
            raise EtpError(f"glossary.tsv, line {number}: {source!r} is {'a second time' if phrase else 'no phrase'}")
        english[phrase] = target
    lengths: dict[str, set[int]] = {}
    for phrase in english:
        lengths.setdefault(phrase[0], set()).add(len(phrase))
    return Glossary(english, {first: sorted(found, reverse=True) for first, found in lengths.items()})


def read_glossary() -> list[tuple[str, str, str]]:
    """The lines of `glossary.tsv` as (language, source, english). Raises EtpError on a malformed line."""
    text = resources.files("etp_jax.data_prep").joinpath("glossary.tsv").read_text(encoding="utf-8")
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate(text.splitlines()[1:], start=2):
        fields = line.split("\t")
        if len(fields) != 3 or fields[0] not in ("de", "sv", "en"):
            raise EtpError(f"glossary.tsv, line {number}: want language (de, sv, en), source, english between tabs")
        rows.append((fields[0], fields[1], fields[2]))
    return rows


# --- Statements ------------------------------------------------------------------------------------------------------


def _split_statements(text: str) -> tuple[str, ...]:
    """Splits at `|`, puts punctuation where it belongs, drops empty and repeated statements."""
    text = re.sub(r"\bin in\b", "in", text)
    text = re.sub(r"\s+(?=[,:!?)\]])|(?<=[(\[])\s+|\s*(?=/)|(?<=/)\s*", "", text)
    statements: dict[str, None] = {}
    for part in text.split("|"):
        statement = re.sub(r"\s+", " ", re.sub(r",+", ",", part)).strip(" ,:!?/+*&\"'`\\").removesuffix(" in")
        if re.search(r"\w", statement):
            statements[statement] = None
    return tuple(statements)
