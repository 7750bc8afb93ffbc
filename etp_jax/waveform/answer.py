"""Parsing of a language model's answer: JSON with a list of features, of which only the well-formed are accepted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from etp_jax.errors import EtpError
from etp_jax.json_text import parse_json
from etp_jax.waveform.features import Check, Feature

WORDS = range(3, 26)
"""Allowed number of words of a sentence."""
MOST = 12
"""Maximum number of features of one statement; a model that lists more is rambling."""
ABOUT = re.compile(
    r"(?<!')\b(?:p|pr|q|qr|qs|qrs|qtc?|r|rs|rsr|s|st|t|u|j|rr|pp|waves?|complex|complexes|intervals?|segments?|rate|rhythm|axis|"
    r"voltages?|amplitudes?|beats?|baseline|pauses?|pacing|spikes?|delta)\b(?!')",
    re.IGNORECASE,
)
"""Words of which a sentence must contain at least one; otherwise it is not about the tracing."""
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z0-9 ,.;:()'/%<>=≥≤°+µ-]*[A-Za-z0-9)%°]")


@dataclass(frozen=True)
class Answer:
    """Content of a parsed answer."""

    usable: bool
    """Whether the answer is JSON of the requested form, even if all its features were rejected."""
    features: tuple[Feature, ...] = ()
    flaws: tuple[str, ...] = ()
    """Kind of flaw of each rejected item."""


def read_answer(text: str, source: str) -> Answer:
    """Extracts the well-formed features of an answer.

    Args:
      text: the model's answer; reasoning and code fences around the JSON are ignored.
      source: source to be stored in each feature.
    """
    answer = text.rpartition("</think>")[2]
    try:
        # No regular expression: one takes hours for a megabyte of opening braces.
        listed = parse_json(answer[answer.index("{") : answer.rindex("}") + 1], {"features": list})["features"]
    except ValueError:
        listed = None
    if not isinstance(listed, list):
        return Answer(False, flaws=("no JSON of features",))
    features: list[Feature] = []
    flaws = ["too many features"] * max(len(listed) - MOST, 0)
    for entry in listed[:MOST]:
        try:
            features.append(_feature(entry, source))
        except EtpError as error:
            flaws.append(str(error).partition(":")[0])
    once: dict[str, Feature] = {}
    for feature in features:
        once.setdefault(feature.sentence, feature)
    return Answer(True, tuple(once.values()), tuple(flaws))


def _feature(entry: Any, source: str) -> Feature:
    """Converts one list entry into a feature; raises EtpError, `kind: detail`, if it is not well-formed."""
    if not isinstance(entry, dict) or not isinstance(entry.get("sentence"), str):
        raise EtpError(f"form: {entry!r} is not a feature")
    sentence = re.sub(r"\s+", " ", entry["sentence"]).strip(" .")
    if not _SENTENCE.fullmatch(sentence) or ". " in sentence or len(sentence.split()) not in WORDS:
        raise EtpError(f"sentence: {sentence[:80]!r} is not one short sentence")
    if not ABOUT.search(sentence):
        raise EtpError(f"sentence not about the tracing: {sentence!r}")
    return Feature(sentence, _check(entry), source)


def _check(entry: dict[str, Any]) -> Check | None:
    if entry.get("quantity") is None:
        return None
    quantity, leads, at_least = entry["quantity"], entry.get("leads") or [], entry.get("at_least") or 0
    low, high = entry.get("low"), entry.get("high")
    numbers = [bound for bound in (low, high) if bound is not None]
    if not isinstance(leads, list) or not all(isinstance(text, str) for text in (quantity, *leads)):
        raise EtpError("form: quantity and leads are not texts")
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers) or type(at_least) is not int:
        raise EtpError("form: bounds and number of leads are not numbers")
    low, high = (None if bound is None else float(bound) for bound in (low, high))
    check = Check(quantity, low, high, tuple(leads), at_least or len(leads))
    if flaw := check.flaw():
        raise EtpError(flaw)
    return check
