"""An ECG in memory, given as numbers, with what the caller states about it. Does not import jax."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from etp_jax.ecg.leads import LEADS, MICROVOLT, Recording, lead_of, leads_of, split_unit, unit_of
from etp_jax.errors import EtpError

Signal = ArrayLike | pd.DataFrame | Recording
"""One ECG: numbers [time, leads], a DataFrame whose column names are leads, or a recording."""


def as_recording(signal: Any, fs: Any = None, leads: Any = None, unit: Any = None) -> Recording:
    """Converts an ECG in memory to a recording.

    Args:
      signal: one ECG, as `Signal` describes.
      fs: sampling rate, in Hz; required unless the signal is a recording.
      leads: leads of the columns, in order; None: the column names of a DataFrame, or the twelve standard leads.
      unit: mV, uV or V; None: the unit in the column names of a DataFrame, or mV.

    Raises:
      EtpError: an argument is missing, impossible, or contradicts the signal.
    """
    if isinstance(signal, Recording):
        if any(argument is not None for argument in (fs, leads, unit)):
            raise EtpError("a recording has its own sampling rate, leads and unit; leave out fs, leads and unit")
        return signal
    rate, names = _rate(fs), _named(signal)
    if leads is not None:
        stated = _leads(leads)
        if names and leads_of(names) != leads_of(stated):
            raise EtpError(f"leads: {' '.join(stated)} differ from the column names {' '.join(names)}; leave out leads")
        names = names or stated
    channels, scales, assumed = [], [], False
    if unit is not None and (not isinstance(unit, str) or unit_of(unit) is None):
        raise EtpError(f"unit {unit!r} is not one of {', '.join(MICROVOLT)}")
    for name in names or LEADS:
        channel, stated = split_unit(name)
        if stated and unit and stated != unit_of(unit):
            raise EtpError(f"unit: column {name} is in {stated}, but unit is {unit!r}")
        channels.append(channel)
        scales.append(MICROVOLT[stated or unit_of(unit or "mV") or "mV"])
        assumed |= not stated
    return Recording(_numbers(signal, len(channels)) * scales, rate, tuple(channels), unit=(unit or "mV") * assumed)


def _rate(fs: Any) -> float:
    """Returns the sampling rate; raises EtpError if it is missing or no positive number."""
    if fs is None:
        raise EtpError("fs is missing; give the sampling rate of the signal in Hz, such as fs=500")
    if isinstance(fs, (bool, str, bytes)) or np.ndim(fs) != 0:
        raise EtpError(f"fs is {fs!r}; it must be a positive number of Hz")
    try:
        rate = float(fs)
    except (TypeError, ValueError, OverflowError):
        raise EtpError(f"fs is {fs!r}; it must be a positive number of Hz") from None
    if not 0 < rate < math.inf:
        raise EtpError(f"fs is {fs!r}; it must be a positive number of Hz")
    return rate


def _named(signal: Any) -> list[str]:
    """Returns the column names of a DataFrame; none if they are numbers, or if the signal is none."""
    if not isinstance(signal, pd.DataFrame) or all(isinstance(column, (int, np.integer)) for column in signal.columns):
        return []
    names = [str(column) for column in signal.columns]
    if not any(leads_of(names)):
        raise EtpError(f"lead names: none of {' '.join(LEADS)} among {' '.join(names)}")
    return names


def _leads(leads: Any) -> list[str]:
    """Checks a list of leads; raises EtpError if a name is unknown or given twice."""
    if isinstance(leads, (str, bytes)):
        raise EtpError(f"leads is one string, {leads!r}; give a list of names, such as ['I', 'II']")
    if not isinstance(leads, (Sequence, np.ndarray, pd.Index)) or not all(isinstance(lead, str) for lead in leads):
        raise EtpError(f"leads is {leads!r}; give a list of names, such as ['I', 'II']")
    found = [lead_of(lead) for lead in leads]
    if None in found:
        raise EtpError(f"lead names: {leads[found.index(None)]!r} is no lead that is read; these are {' '.join(LEADS)}")
    twice = [lead for lead, count in Counter(found).items() if count > 1]
    if twice:
        raise EtpError(f"lead names: {twice[0]} appears twice in {' '.join(leads)}")
    return [str(lead) for lead in leads]


def _numbers(signal: Any, leads: int) -> NDArray[np.float64]:
    """Returns the signal as [time, leads]; raises EtpError if it is something else."""
    try:
        array = np.asarray(signal, np.float64)
    except (ValueError, TypeError) as error:
        raise EtpError(f"signal is not numeric ({error}); it must be [time, {leads} leads]") from None
    if array.ndim != 2 or array.shape[1] != leads:
        raise EtpError(f"signal has shape {array.shape}; it must be [time, {leads} leads]")
    return array
