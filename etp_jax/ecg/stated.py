"""What a file of arrays states beside its samples: leads, sampling rate, unit. Does not import jax."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etp_jax.ecg.csv_time import RATES_AGREE, is_time, rate_of
from etp_jax.ecg.leads import Layout, lead_of, unit_of
from etp_jax.errors import EtpError, option

FEW = 64
"""Largest number of texts that are looked at: a file has more ids of ECGs than names of leads."""
_RATE = re.compile(r"(?:fs|sfreq|srate|samp\w*?[ _]*(?:rate|freq\w*))(?:[ _]*hz)?", re.IGNORECASE)
_UNIT = re.compile(r"(?:\w+_)?units?", re.IGNORECASE)
_SCALE = re.compile(
    r"(?:(?:adc|amp|amplitude|voltage|ecg|signal|sample|unit)s?[ _]?(?:per[ _])?)?"
    r"(?:(?P<zero>zero|offset|baseline|add_offset)|"
    r"gain|scale|scal(?:e|ing)[ _]?factor|scaling|resolution|lsb|multiplier|conversion(?:[ _]?factor)?|calibration)s?",
    re.IGNORECASE,
)
_LEADS = re.compile(r".*(?:lead|channel|signal|sig_).*", re.IGNORECASE)


@dataclass(frozen=True)
class Stated:
    """The layout with what the file states, and what it states besides."""

    layout: Layout
    channels: tuple[str, ...] = ()
    """Names of the channels; empty if the file has none."""
    notes: tuple[str, ...] = ()


def field_of(name: str) -> str:
    """Returns the last part of an array's name: `fs` of `ECG.fs` or `ECG/fs`."""
    return re.split(r"[./]", name)[-1]


def is_rate(name: str) -> bool:
    """Whether an array's name says that it holds the sampling rate."""
    return bool(_RATE.fullmatch(field_of(name)))


def is_per_row(name: str) -> bool:
    """Whether an array's name says that it may hold a sampling rate, a unit or a scale for each ECG of a stack."""
    return any(pattern.fullmatch(field_of(name)) for pattern in (_RATE, _UNIT, _SCALE))


def check_scale(arrays: Mapping[str, Any], samples: NDArray[Any], path: Path) -> None:
    """Refuses whole numbers beside a gain, scale or offset of their own: the formula is not known for sure."""
    for name, array in arrays.items():
        match, values = _SCALE.fullmatch(field_of(name)), np.ravel(array)
        neutral = 0 if match and match["zero"] else 1
        if not match or values.dtype.kind not in "iuf" or not 0 < values.size <= FEW or (values == neutral).all():
            continue
        if samples.dtype.kind in "iu" or np.array_equal(samples, np.rint(samples), equal_nan=True):
            found = f"{path.name} holds whole numbers and {name} ({values[0]:g})"
            raise EtpError(f"unit: {found}; save the samples in mV or uV, without it")


def is_times(name: str, array: Any, shape: Sequence[int]) -> bool:
    """Whether an array holds the times of the samples of a signal of this shape."""
    return array.dtype.kind in "iuf" and 2 < array.size in shape and is_time(field_of(name))


def stated(arrays: Mapping[str, Any], shape: Sequence[int], layout: Layout, path: Path) -> Stated:
    """Reads what a file states beside its samples.

    Args:
      arrays: arrays of numbers or texts beside the signal, by name.
      shape: shape of the signal.
      layout: sampling rate, unit and leads that the user gave.
      path: the file.

    Raises:
      EtpError: the file contradicts the layout or itself.
      ValueError: the times of the samples do not rise by equal steps.
    """
    rates = [(option("fs"), layout.fs)] if layout.fs else []
    units = [(option("unit"), layout.unit)] if layout.unit else []
    channels: tuple[str, ...] = ()
    notes: list[str] = []
    for name, array in arrays.items():
        values = np.ravel(array)
        if is_times(name, values, shape):
            rate = rate_of(pd.Series(values.astype(np.float64)), field_of(name), "")
            rates += [(name, rate)] if rate else []
        elif values.dtype.kind in "iuf" and values.size == 1 and is_rate(name):
            rates += [(name, float(values[0]))] if values[0] > 0 else []
        elif values.dtype.kind in "USO" and values.size <= FEW:
            texts = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)
            if len(texts) == 1:  # `I, II, III` or `["I", "II", "III"]`
                texts = tuple(filter(None, re.split(r"[^\w.+-]+", texts[0]))) or texts
            if _are_channels(name, texts, shape):
                channels = texts
            elif _UNIT.fullmatch(field_of(name)):
                voltages = [(name, text) for text in texts if unit_of(text)]
                notes += [f"{name} {' '.join(texts)} is no voltage"] * (not voltages and any(texts))
                units += voltages
    for source, rate in rates[1:]:
        if abs(rate - rates[0][1]) > RATES_AGREE * rates[0][1]:
            first = f"{rates[0][1]:g} Hz by {rates[0][0]}"
            raise EtpError(f"sampling rate: {path.name} has {rate:g} Hz by {source}, but {first}")
    for source, unit in units[1:]:
        if unit_of(unit) != unit_of(units[0][1]):
            raise EtpError(f"unit: {path.name} is in {unit} by {source}, but in {units[0][1]} by {units[0][0]}")
    notes += [f"sampling rate {rate:g} Hz by {source}" for source, rate in rates[:1] if layout.fs is None]
    notes += [f"unit {unit} by {source}" for source, unit in units[:1] if layout.unit is None]
    fs, unit = rates[0][1] if rates else None, units[0][1] if units else None
    return Stated(replace(layout, fs=fs, unit=unit), channels, tuple(notes))


def _are_channels(name: str, texts: Sequence[str], shape: Sequence[int]) -> bool:
    """Whether texts name the channels of a signal: as many as one axis has, half of them leads."""
    if len(texts) == 1:  # a single `II` may be anything
        return len(shape) == 1 and bool(_LEADS.fullmatch(field_of(name)))
    return len(texts) in shape and 2 * sum(map(bool, map(lead_of, texts))) >= len(texts)
