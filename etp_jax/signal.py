"""From a recorded ECG to the array the model reads; the same for `etp prep` and `etp predict`. No jax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from etp_jax.config import Filters
from etp_jax.errors import EtpError
from etp_jax.records import LEADS

MICROVOLT = {"mV": 1e3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "V": 1e6}
"""Microvolt in one unit (both ways of writing mu)."""
FLAT_UV = 5.0
"""A lead whose highest and lowest sample differ by no more than this was not connected, in microvolt."""
MAX_MISSING = 0.05
"""Greatest share of missing (NaN) samples of a lead that is repaired; with more the lead is masked."""

NO_FILTERS = Filters()

_SYNONYMS = {lead.casefold(): lead for lead in LEADS} | {"mli": "I", "mlii": "II", "mliii": "III"}


@dataclass(frozen=True, eq=False)
class Recording:
    """A signal as an archive gives it."""

    signal: NDArray[np.float64]
    """[T, channels] in microvolt; NaN where a sample is missing."""
    fs: float
    """Hz."""
    channels: tuple[str, ...]
    """Lead names as the archive spells them."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A signal as the model reads it."""

    ecg: NDArray[np.int16]
    """[T, leads], 1 µV a step; zero in masked leads."""
    lead_mask: NDArray[np.bool_]
    """[leads]; false: not recorded, flat, or too many samples missing."""
    verdicts: tuple[str, ...]
    """What was noticed and done, one entry for each lead concerned, such as `flat lead V5`."""


def lead_of(channel: str) -> str | None:
    """The standard lead that a channel name stands for (`AVR`, `Lead II`, `MLII`, ...); None if it is none."""
    name = channel.strip().casefold().removeprefix("lead").removeprefix("ecg").strip(" _-")
    return _SYNONYMS.get(name)


def arrange(recording: Recording, leads: Sequence[str] = LEADS) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Picks the wanted leads by name, in order.

    Returns:
      [T, leads] microvolt, zero where the lead is absent; and [leads] whether it is there.

    Raises:
      EtpError: two channels stand for the same lead, or no channel for a wanted one.
    """
    signal = np.zeros((len(recording.signal), len(leads)))
    mask = np.zeros(len(leads), bool)
    for number, channel in enumerate(recording.channels):
        lead = lead_of(channel)
        if lead is None or lead not in leads:
            continue
        place = leads.index(lead)
        if mask[place]:
            raise EtpError(f"lead names: {lead} appears twice in {' '.join(recording.channels)}")
        signal[:, place] = recording.signal[:, number]
        mask[place] = True
    if not mask.any():
        raise EtpError(f"lead names: none of {' '.join(leads)} among {' '.join(recording.channels)}")
    return signal, mask


def resample(signal: NDArray[np.float64], fs: float, target: float) -> NDArray[np.float64]:
    """[T, leads] at `fs` Hz → at `target` Hz, with scipy's polyphase anti-alias filter."""
    if fs == target:
        return signal
    ratio = Fraction(target).limit_denominator(10_000) / Fraction(fs).limit_denominator(10_000)
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype="line")


def fit(signal: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """[T, leads] → [samples, leads]: the first samples, or zeros added at the end."""
    kept = signal[:samples]
    return np.pad(kept, ((0, samples - len(kept)), (0, 0)))


def prepare(
    recording: Recording, fs: int, samples: int, leads: Sequence[str] = LEADS, filters: Filters = NO_FILTERS
) -> Prepared:
    """Arranges, repairs, filters, resamples, crops or pads, and rounds a recording to int16 microvolt.

    Args:
      recording: as read from the archive.
      fs: wanted sampling rate, Hz.
      samples: wanted length at that rate.
      leads: wanted leads, in order.
      filters: applied at the recording's own rate.

    Raises:
      EtpError: lead names do not fit, or no lead is usable; the text before the colon is the kind of trouble.
    """
    if len(recording.signal) == 0 or recording.fs <= 0:
        raise EtpError(f"empty signal: {len(recording.signal)} samples at {recording.fs:g} Hz")
    signal, mask = arrange(recording, leads)
    verdicts = []
    for place in np.flatnonzero(mask).tolist():
        lead, values = leads[place], signal[:, place]
        missing = ~np.isfinite(values)
        if missing.mean() > MAX_MISSING:
            verdict = "missing samples"
            mask[place] = False
        elif np.ptp(values[~missing]) <= FLAT_UV:
            verdict = "flat"
            mask[place] = False
        elif missing.any():
            verdict = "repaired"
            values[missing] = np.interp(np.flatnonzero(missing), np.flatnonzero(~missing), values[~missing])
        else:
            continue
        verdicts.append(f"{verdict} lead {lead}")
    if not mask.any():
        raise EtpError(f"no usable lead: {', '.join(verdicts)}")
    signal[:, ~mask] = 0
    signal = np.rint(fit(resample(signal, recording.fs, fs), samples))
    limits = np.iinfo(np.int16)
    clipped = (signal < limits.min) | (signal > limits.max)
    verdicts += [f"clipped lead {leads[place]}" for place in np.flatnonzero(clipped.any(axis=0)).tolist()]
    return Prepared(np.clip(signal, limits.min, limits.max).astype(np.int16), mask, tuple(verdicts))
