"""Leads, units and recordings: the types that all signal readers return. Does not import jax."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass(frozen=True)
class Filters:
    """Optional filters of `etp prep`, applied forwards and backwards so that no wave is delayed."""

    bandpass: tuple[float, float] | None = None
    """Lower and upper edge of the band-pass filter, in Hz."""
    notch: float | None = None
    """Mains frequency that the notch filter removes, in Hz."""


@dataclass(frozen=True)
class Layout:
    """Sampling rate, unit and leads of signal files without a header: MATLAB, NumPy, CSV (not WFDB or EDF)."""

    fs: float | None = None
    """Sampling rate of the signal files, in Hz."""
    unit: str = "mV"
    """Unit of the samples: mV, uV or V."""
    leads: tuple[str, ...] = LEADS
    """Leads of the signal files, in order; a CSV file names its leads in the first line."""


MICROVOLT = {"mV": 1e3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "V": 1e6}
"""Microvolts per unit (µ and μ are two different characters; both are accepted)."""
_SYNONYMS = {lead.casefold(): lead for lead in LEADS}
_SYNONYMS |= {f"{prefix}{lead}".casefold(): lead for lead in ("I", "II", "III") for prefix in ("ML", "D")}
_LEAD_NAME = re.compile(r"(?:e[ck]g[ _]*)?(?:lead[ _]*)?(\w+)")


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
    age: float = math.nan
    """Age of the person in years; NaN if the source does not have it."""
    sex: str = ""
    """Sex of the person: `male`, `female`, or empty if the source does not have it."""


def lead_of(channel: str) -> str | None:
    """Returns the standard lead that a channel name denotes (`AVR`, `Lead II`, `MLII`, ...), or None."""
    name = _LEAD_NAME.fullmatch(channel.strip().casefold())
    return name and _SYNONYMS.get(name[1])


@dataclass(frozen=True)
class Highlight:
    """The leads and seconds that support a finding, marked in the drawing of the ECG."""

    leads: tuple[str, ...] = ()
    seconds: tuple[int, ...] = ()
    """Start of each highlighted interval, in seconds; every interval lasts one second."""
