"""An ECG in memory, given as numbers, with what the caller states about it. Does not import jax."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from etp_jax.ecg.leads import LEADS, MICROVOLT, RATES, Recording, lead_of, leads_of, split_unit, unit_of
from etp_jax.ecg.missing import without_marks
from etp_jax.errors import EtpError, one_line
from etp_jax.plain import plain_line

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
    signal, names, notes = _without_text(signal, names)
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
    samples = _numbers(signal, len(channels)) * scales
    return without_marks(Recording(samples, rate, tuple(channels), notes, (unit or "mV") * assumed))


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
    if not RATES[0] <= rate <= RATES[1]:
        raise EtpError(f"fs is {fs!r}; no ECG is sampled at {rate:g} Hz")
    return rate


def _named(signal: Any) -> list[str]:
    """Returns the column names of a DataFrame; none if they are numbers, or if the signal is none."""
    if not isinstance(signal, pd.DataFrame) or all(isinstance(column, (int, np.integer)) for column in signal.columns):
        return []
    names = [str(column) for column in signal.columns]
    if not any(leads_of(names)):
        raise EtpError(f"lead names: none of {' '.join(LEADS)} among {' '.join(names)}")
    return names


def _without_text(signal: Any, names: list[str]) -> tuple[Any, list[str], tuple[str, ...]]:
    """Leaves out the columns of a DataFrame that are no leads and hold no numbers, such as dates; a note names each."""
    if not isinstance(signal, pd.DataFrame) or not names:
        return signal, names, ()
    kept = [
        bool(lead) or pd.api.types.is_numeric_dtype(kind)
        for lead, kind in zip(leads_of(names), signal.dtypes, strict=True)
    ]
    notes = tuple(
        f"column {name} holds no numbers; left out" for name, keep in zip(names, kept, strict=True) if not keep
    )
    return signal.loc[:, kept], list(compress(names, kept)), notes


def _leads(leads: Any) -> list[str]:
    """Checks a list of leads; raises EtpError if a name is unknown or given twice."""
    if isinstance(leads, (str, bytes)):
        raise EtpError(f"leads is one string, {leads!r}; give a list of names, such as ['I', 'II']")
    is_list = isinstance(leads, (Sequence, np.ndarray, pd.Index, pd.Series)) and len(leads)
    if not is_list or not all(isinstance(lead, str) for lead in leads):
        raise EtpError(plain_line(f"leads is {leads!r}; give a list of names, such as ['I', 'II']"))
    leads = list(leads)
    found = [lead_of(lead) for lead in leads]
    if None in found:
        raise EtpError(f"lead names: {leads[found.index(None)]!r} is no lead that is read; these are {' '.join(LEADS)}")
    twice = [lead for lead, count in Counter(found).items() if count > 1]
    if twice:
        raise EtpError(f"lead names: {twice[0]} appears twice in {' '.join(leads)}")
    return [str(lead) for lead in leads]


def _numbers(signal: Any, leads: int) -> NDArray[np.float64]:
    """Returns the signal as [time, leads], NaN where it is masked; raises EtpError if it is something else."""
    try:
        values = signal.to_numpy(na_value=np.nan) if isinstance(signal, pd.DataFrame) else signal
        masked = np.ma.asarray(values)
        if masked.dtype.kind in "bcmM":
            raise TypeError(f"{masked.dtype} is no real number")
        array = np.asarray(np.ma.filled(masked.astype(np.float64, copy=False), np.nan))
    except Exception as error:  # noqa: BLE001 - the conversions of other libraries raise anything
        raise EtpError(f"signal is not numeric ({one_line(error)}); it must be [time, {leads} leads]") from None
    if array.ndim != 2 or array.shape[1] != leads:
        raise EtpError(f"signal has shape {array.shape}; it must be [time, {leads} leads]")
    return array
