"""Leads, units and recordings: the types that all signal readers return. Does not import jax."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError, option

RATES = (1.0, 1e6)
"""Lowest and highest sampling rate that is accepted, in Hz."""
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass(frozen=True)
class Filters:
    """Optional filters of `etp prep`, applied forwards and backwards so that no wave is delayed."""

    bandpass: tuple[float, float] | None = None
    """Lower and upper edge of the band-pass filter, in Hz."""
    notch: float | None = None
    """Mains frequency that the notch filter removes, in Hz."""


def applied(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the filters that were applied from those that a file names, which has None for the others."""
    return {name: value for name, value in filters.items() if value is not None}


@dataclass(frozen=True)
class Layout:
    """Sampling rate, unit and leads of signal files that do not state them; WFDB states all, EDF all but some units."""

    fs: float | None = None
    """Sampling rate of the signal files, in Hz."""
    unit: str | None = None
    """Unit of the samples: mV, uV or V. Default: mV, if the voltages are then those of an ECG."""
    leads: tuple[str, ...] = ()
    """Leads of the signal files, in order; a CSV file may name its own. Default: the twelve standard leads."""

    @property
    def named(self) -> tuple[str, ...]:
        """The leads in order, which are the twelve standard leads unless others are given."""
        return self.leads or LEADS

    @property
    def scale(self) -> float:
        """Microvolts per unit of the samples; raises EtpError if the unit is unknown."""
        if self.unit is not None and unit_of(self.unit) is None:
            raise EtpError(f"unit: {self.unit!r} is not one of {', '.join(MICROVOLT)}")
        return MICROVOLT[unit_of(self.unit or "mV") or "mV"]

    def check(self) -> None:
        """Raises EtpError if the sampling rate or the unit is impossible, before any file is read."""
        if self.fs is not None and not 0 < self.fs < math.inf:
            raise EtpError(f"sampling rate: {option('fs')} is {self.fs:g}; it must be a positive number of Hz")
        _ = self.scale


MICROVOLT = {"mV": 1e3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "V": 1e6, "nV": 1e-3}
"""Microvolts per unit (µ and μ are two different characters; both are accepted)."""
_PREFIXES = {"": "V", "m": "mV", "milli": "mV", "u": "uV", "micro": "uV", "n": "nV", "nano": "nV"}
_UNIT = re.compile(r"(?P<prefix>|m|milli|u|micro|n|nano)(?:v|volts?)")
_UNIT_AFTER_NAME = re.compile(
    r"(?P<name>.*?\S)\s*(?:[(\[]\s*(?P<boxed>[^()\[\]]+)[)\]]|[\s_/,:.-]+(?:in[\s.]+)?(?P<bare>[a-zµμ]+v)[._]*)", re.I
)


@dataclass(frozen=True, eq=False)
class Recording:
    """A signal as recorded, with its sampling rate and channel names."""

    signal: NDArray[np.float64]
    """[T, channels] samples in microvolts; NaN where a sample is missing."""
    fs: float
    """Sampling rate, in Hz."""
    channels: tuple[str, ...]
    """Channel names, spelled as in the source."""
    notes: tuple[str, ...] = ()
    """What the reader assumed or left out, such as `channel PLETH (NU) left out`."""
    unit: str = ""
    """Unit that the user gave, or the reader assumed, for numbers without one; empty if the file states its units."""
    age: float = math.nan
    """Age of the person in years; NaN if the source does not have it."""
    sex: str = ""
    """Sex of the person: `male`, `female`, or empty if the source does not have it."""
    report: str = ""
    """Statements in the file, without names and dates; empty if the source does not have any."""


def unit_of(text: str) -> str | None:
    """Returns the voltage unit that a text denotes (`mV`, `uV`, `V` or `nV`), in any usual spelling, or None."""
    match = _UNIT.fullmatch(_plain(text).replace("μ", "u"))
    return match and _PREFIXES[match["prefix"]]


def _plain(text: str) -> str:
    """Returns a text in lower case, with plain letters for Roman numerals, full-width letters and signs of units."""
    return unicodedata.normalize("NFKC", text.strip()).casefold()


def split_unit(channel: str) -> tuple[str, str | None]:
    """Splits `I (mV)`, `I [µV]` or `I_uV` into name and unit; the unit is None if the name contains none."""
    match = _UNIT_AFTER_NAME.fullmatch(channel.strip())
    unit = match and unit_of(match["boxed"] or match["bare"])
    return (match["name"], unit) if match and unit else (channel.strip(), None)


_WORD = r"(?:ecg|ekg|lead|ableitung|abl\.|derivation|einthoven|goldberger|wilson|rhythm(?:[ _-]*strip)?)"
_NAME = re.compile(
    rf"""
    (?: mdc_ecg_lead_ | (?: {_WORD} (?: - | \s+-\s+ | [ _:.]* ) )* )
    (?: (?: d[ _-]? | ml )? (?P<limb> i{{1,3}} )
      | (?: d[ _-]? | (?<=lead) | (?<=lead[ _-]) | (?<=ableitung[ _-]) ) (?P<number> [123] )
      | (?: a[ _-]? )? v[ _-]? (?P<augmented> [rlf] )
      | [vc][ _-]? 0? (?P<chest> [1-6] )
    )
    (?: [ _-]* ref(?:erence)? )? (?: [ ]?\+ )? (?P<copy> [ _-]* rhythm(?:[ _-]*strip)? | [ ]?\(\d\) | [._]\d )?
    """,
    re.VERBOSE,
)
_NUMBERED = re.compile(r"lead[ _-]*(?:0|[4-9]|\d\d)", re.IGNORECASE)
_ECG = re.compile(r"e[ck]g", re.IGNORECASE)
_EEG = re.compile(r"(?:e[eo]g.*|fp[12z]|f[3478z]|cz|p[34z]|o[12z]|t[3-6]|[am][12])(?:[ -].*)?", re.IGNORECASE)


@lru_cache(maxsize=4096)
def lead_of(channel: str) -> str | None:
    """Returns the standard lead that a channel name denotes (`AVR`, `Lead II`, `C1`, `I (mV)`, ...), or None.

    A copy (`II (2)`, `Rhythm II`) denotes its lead. An inverted lead (`-aVR`) denotes none.
    """
    match = _NAME.fullmatch(_plain(split_unit(channel)[0].strip("\"' ")))
    if match is None:
        return None
    if match["limb"] or match["number"]:
        return (match["limb"] or "i" * int(match["number"])).upper()
    return f"aV{match['augmented'].upper()}" if match["augmented"] else f"V{match['chest']}"


def is_copy(channel: str, first: str) -> bool:
    """Whether a channel's name says that it is another recording of the lead that `first` denotes (`II_rhythm`)."""
    names = [_NAME.fullmatch(_plain(split_unit(name)[0].strip("\"' "))) for name in (channel, first)]
    return channel.casefold() == first.casefold() or any(m and (m["copy"] or "rhythm" in m[0]) for m in names)


def leads_of(channels: Sequence[str]) -> list[str | None]:
    """Returns the standard lead of each channel of a file, or None for what is no lead.

    The names of a file decide together: next to EEG electrodes, or channels that are called ECG, `C3` is an electrode
    of the head; and so are `C3` and `C4` without other chest leads.

    Raises:
      EtpError: the channels are numbered (`Lead 1` to `Lead 12`), so that the number names no lead.
    """
    if any(_NUMBERED.fullmatch(channel.strip()) for channel in channels):
        raise EtpError(
            f"lead names: {' '.join(channels)} are numbers of channels; name the leads with {option('leads')}"
        )
    eeg = any(_EEG.fullmatch(channel.strip()) or _ECG.match(channel.strip()) for channel in channels)
    eeg |= {channel.strip().upper() for channel in channels if re.match("[cC]", channel.strip())} == {"C3", "C4"}
    return [None if eeg and re.match("[cC]", channel.strip()) else lead_of(channel) for channel in channels]


@dataclass(frozen=True)
class Highlight:
    """The leads and seconds that support a finding, marked in the drawing of the ECG."""

    leads: tuple[str, ...] = ()
    seconds: tuple[int, ...] = ()
    """Start of each highlighted interval, in seconds; every interval lasts one second."""
