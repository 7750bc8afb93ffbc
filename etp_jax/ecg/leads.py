"""Leads, units and recordings: the words in which every reader of signals answers. No jax."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass(frozen=True)
class Filters:
    """Optional filters of `etp prep`, run forwards and backwards so that no wave is delayed."""

    bandpass: tuple[float, float] | None = None
    """Lower and upper edge, in Hz."""
    notch: float | None = None
    """Frequency of the mains, in Hz."""


@dataclass(frozen=True)
class Layout:
    """What signal files of bare numbers (MATLAB, NumPy, CSV) do not say themselves; WFDB and EDF files say it."""

    fs: float | None = None
    """Sampling rate of the files, in Hz."""
    unit: str = "mV"
    """Unit of the numbers: mV, uV or V."""
    leads: tuple[str, ...] = LEADS
    """Their leads, in order; a CSV file names them in its first line."""


MICROVOLT = {"mV": 1e3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "V": 1e6}
"""Microvolt in one unit (both ways of writing mu)."""
_SYNONYMS = {lead.casefold(): lead for lead in LEADS}
_SYNONYMS |= {f"{prefix}{lead}".casefold(): lead for lead in ("I", "II", "III") for prefix in ("ML", "D")}
_LEAD_NAME = re.compile(r"(?:e[ck]g[ _]*)?(?:lead[ _]*)?(\w+)")


@dataclass(frozen=True, eq=False)
class Recording:
    """A signal as an archive gives it."""

    signal: NDArray[np.float64]
    """[T, channels] in microvolt; NaN where a sample is missing."""
    fs: float
    """Hz."""
    channels: tuple[str, ...]
    """Lead names as the archive spells them."""


def lead_of(channel: str) -> str | None:
    """The standard lead that a channel name stands for (`AVR`, `Lead II`, `MLII`, ...); None if it is none."""
    name = _LEAD_NAME.fullmatch(channel.strip().casefold())
    return name and _SYNONYMS.get(name[1])


@dataclass(frozen=True)
class Highlight:
    """What a finding rests on, marked in the drawing."""

    leads: tuple[str, ...] = ()
    seconds: tuple[int, ...] = ()
    """Each from its beginning, which is given, to the next."""
