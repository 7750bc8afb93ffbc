"""From a recorded ECG to the array the model reads; the same for `etp prep` and `etp predict`. No jax."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, resample_poly, sosfiltfilt, tf2sos

from etp_jax.ecg.leads import LEADS, Filters, Recording, lead_of
from etp_jax.errors import EtpError

MIN_SECONDS = 2.5
"""A shorter record is refused: on paper a lead gets 2.5 s, and at 50 beats a minute that still holds two beats."""
FLAT_UV = 5.0
"""A lead whose highest and lowest sample differ by no more than this was not connected, in microvolt."""
FLAT_SHARE = 0.75
"""A lead that stands still at one value for more than this share of the record is flat too: of ten seconds, less than
`MIN_SECONDS` are left."""
RAIL_SECONDS = 0.5
"""A lead that stays at its own highest or lowest value for this long has hit the end of the amplifier's range and is
masked. The longest plateau of a natural ECG in PTB-XL lasts 0.27 s."""
MAX_MISSING = 0.05
"""Greatest share of missing (NaN) samples of a lead that is repaired; with more the lead is masked."""
MAX_GAP_SECONDS = 0.2
"""Longest gap that is repaired: a heart cycle at 300 beats a minute, so that no beat is ever drawn over."""
BANDPASS_ORDER = 3
"""Of the Butterworth band-pass; running forwards and backwards doubles it."""
NOTCH_Q = 30.0
"""Mains frequency over the width of the notch (at -3 dB, one way)."""
THRESHOLDS = {
    "min_seconds": MIN_SECONDS,
    "flat_uv": FLAT_UV,
    "flat_share": FLAT_SHARE,
    "rail_seconds": RAIL_SECONDS,
    "max_missing": MAX_MISSING,
    "max_gap_seconds": MAX_GAP_SECONDS,
    "bandpass_order": BANDPASS_ORDER,
    "notch_q": NOTCH_Q,
}
"""All of the above, for `build.json`."""
LENGTH_POLICY = "a longer record keeps its first samples, a shorter one gets zeros at the end"

NO_FILTERS = Filters()

_FROM_LIMBS = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""The other limb leads as sums of I and II: what Einthoven's and Goldberger's leads are by definition."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A signal as the model reads it."""

    ecg: NDArray[np.int16]
    """[T, leads], 1 µV a step; zero in masked leads."""
    lead_mask: NDArray[np.bool_]
    """[leads]; false: not recorded, flat, saturated, or too many samples missing."""
    verdicts: tuple[str, ...]
    """What was noticed and done, about the record (`cropped`) or one lead (`flat lead V5`)."""

    @property
    def kinds(self) -> frozenset[str]:
        """The verdicts without the names of the leads; `good signal` if there are none."""
        return frozenset(re.sub(r"(?<= lead) .*", "", verdict) for verdict in self.verdicts or ["good signal"])


def arrange(recording: Recording, leads: Sequence[str] = LEADS) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Picks the wanted leads by name, in order.

    Returns:
      [T, leads] microvolt, zero where the lead is absent; and [leads] whether it is there.

    Raises:
      EtpError: two channels stand for the same lead, or none for any wanted one.
    """
    signal = np.zeros((len(leads), len(recording.signal))).T  # a lead's samples lie side by side: faster from here on
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


def repair(values: NDArray[np.float64], fs: float) -> str:
    """Fills short gaps of one lead, in place, with straight lines, and judges the lead.

    Returns:
      `repaired`, or empty if nothing is wrong with it; otherwise why it cannot be used.
    """
    missing = ~np.isfinite(values)
    gaps = bool(missing.any())
    if gaps:
        if missing.mean() > MAX_MISSING or _holds_run(missing, MAX_GAP_SECONDS * fs):
            return "incomplete"
        values[missing] = np.interp(np.flatnonzero(missing), np.flatnonzero(~missing), values[~missing])
    low, high = values.min(), values.max()
    if high - low <= FLAT_UV or _holds_run(values[1:] == values[:-1], FLAT_SHARE * len(values)):
        return "flat"
    if any(_holds_run(values == rail, RAIL_SECONDS * fs) for rail in (low, high)):
        return "saturated"
    return "repaired" if gaps else ""


def _holds_run(flags: NDArray[np.bool_], length: float) -> bool:
    """Whether more than `length` flags in a row are set."""
    if np.count_nonzero(flags) <= length:
        return False
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return bool((edges[1::2] - edges[::2]).max() > length)


def filtered(signal: NDArray[np.float64], fs: float, filters: Filters) -> NDArray[np.float64]:
    """[T, leads] without what the filters take out; run forwards and backwards, so that no wave is delayed.

    Raises:
      EtpError: a frequency does not lie between 0 and half of `fs`.
    """
    sections = _sections(fs, filters)
    if not len(sections):
        return signal
    # Two seconds of mirror image at the ends let the slow edge settle. With them, windows of longer ECGs come out twice
    # as near to what filtering the whole gives as with scipy's default, which turns the ends upside down.
    return sosfiltfilt(sections, signal, axis=0, padtype="even", padlen=min(len(signal) - 1, round(2 * fs)))


@lru_cache(maxsize=16)
def _sections(fs: float, filters: Filters) -> NDArray[np.float64]:
    """[n, 6] second-order sections of all filters."""
    sections = [np.empty((0, 6))]
    if filters.bandpass is not None:
        low, high = filters.bandpass
        if not 0 < low < high < fs / 2:
            raise EtpError(
                f"filter: band {low:g}-{high:g} Hz is not between 0 and {fs / 2:g} Hz, half the sampling rate"
            )
        sections.append(np.asarray(butter(BANDPASS_ORDER, (low, high), "bandpass", fs=fs, output="sos")))
    if filters.notch is not None:
        if not 0 < filters.notch < fs / 2:
            raise EtpError(f"filter: {filters.notch:g} Hz is not between 0 and {fs / 2:g} Hz, half the sampling rate")
        sections.append(tf2sos(*iirnotch(filters.notch, NOTCH_Q, fs=fs)))
    return np.concatenate(sections)


def resample(signal: NDArray[np.float64], fs: float, target: float) -> NDArray[np.float64]:
    """[T, leads] at `fs` Hz → at `target` Hz, with scipy's polyphase anti-alias filter."""
    if fs == target:
        return signal
    ratio = Fraction(target).limit_denominator(10_000) / Fraction(fs).limit_denominator(10_000)
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype="line")


def fit(signal: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """[T, leads] → [samples, leads], by `LENGTH_POLICY`."""
    kept = signal[:samples]
    return np.pad(kept, ((0, samples - len(kept)), (0, 0)))


def prepare(
    recording: Recording, fs: int, samples: int, leads: Sequence[str] = LEADS, filters: Filters = NO_FILTERS
) -> Prepared:
    """Crops, arranges, judges, repairs, filters, resamples, pads, and rounds a recording to int16 microvolt.

    Only the part that is kept is looked at. Limb leads that were not recorded are computed where I and II are usable.

    Args:
      recording: as read from the archive.
      fs: wanted sampling rate, Hz.
      samples: wanted length at that rate.
      leads: wanted leads, in order.
      filters: applied at the recording's own rate.

    Raises:
      EtpError: lead names or filters do not fit, the record is too short, or no lead is usable; the text before the
        colon is the kind of trouble.
    """
    length = len(recording.signal)
    if length == 0 or not 0 < recording.fs < np.inf:
        raise EtpError(f"empty signal: {length} samples at {recording.fs:g} Hz")
    if length / recording.fs < min(MIN_SECONDS, samples / fs):
        raise EtpError(f"too short: {length / recording.fs:.2f} s, less than {min(MIN_SECONDS, samples / fs):g} s")
    window = int(-(-samples * recording.fs // fs))
    signal, mask = arrange(Recording(recording.signal[:window], recording.fs, recording.channels), leads)
    verdicts, absent = [], {lead for lead, there in zip(leads, mask, strict=True) if not there}
    for place in np.flatnonzero(mask).tolist():
        if verdict := repair(signal[:, place], recording.fs):
            verdicts.append(f"{verdict} lead {leads[place]}")
            mask[place] = verdict == "repaired"
    if not mask.any():
        raise EtpError(f"no usable lead: {', '.join(verdicts)}")
    signal[:, ~mask] = 0
    usable = {lead: signal[:, place] for place, lead in enumerate(leads) if mask[place]}
    for place, lead in enumerate(leads):
        if lead in absent and lead in _FROM_LIMBS and {"I", "II"} <= usable.keys():
            of_i, of_ii = _FROM_LIMBS[lead]
            signal[:, place] = of_i * usable["I"] + of_ii * usable["II"]
            mask[place] = True
            verdicts.append(f"derived lead {lead}")
    signal = np.rint(resample(filtered(signal, recording.fs, filters), recording.fs, fs))
    verdicts += ["cropped"] * (length > window) + ["padded"] * (len(signal) < samples)
    signal = fit(signal, samples)
    limits = np.iinfo(np.int16)
    clipped = (signal < limits.min) | (signal > limits.max)
    verdicts += [f"clipped lead {leads[place]}" for place in np.flatnonzero(clipped.any(axis=0)).tolist()]
    return Prepared(np.clip(signal, limits.min, limits.max).astype(np.int16), mask, tuple(verdicts))
