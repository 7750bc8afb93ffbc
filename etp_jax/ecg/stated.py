"""What a file of arrays states beside its samples: leads, sampling rate, unit. Does not import jax."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from etp_jax.ecg.csv_time import RATES_AGREE, is_time, rate_of
from etp_jax.ecg.leads import Layout, lead_of, unit_of
from etp_jax.errors import EtpError, option

FEW = 64
"""Largest number of texts that are looked at: a file has more ids of ECGs than names of leads."""
_RATE = re.compile(r"(?:fs|sfreq|srate|samp\w*?[ _]*(?:rate|freq\w*))(?:[ _]*hz)?", re.IGNORECASE)
_UNIT = re.compile(r"(?:\w+_)?units?", re.IGNORECASE)
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
