"""Conversion of a recorded ECG into the array that the model reads, shared by `etp prep` and `etp predict`.

Does not import jax.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, resample_poly, sosfiltfilt, tf2sos

from etp_jax.ecg.leads import LEADS, MICROVOLT, Filters, Recording, is_copy, leads_of
from etp_jax.ecg.missing import FLAT_UV
from etp_jax.errors import EtpError, option

MIN_SECONDS = 2.5
"""Shortest accepted record, in seconds. A paper ECG shows 2.5 s per lead; at 50 beats a minute that holds two beats."""
FLAT_SHARE = 0.75
"""A lead is also flat if it stays at one value for more than this share of the record. Of ten seconds, less than
`MIN_SECONDS` are then left."""
RAIL_SECONDS = 0.5
"""A lead is saturated, and masked, if it stays at its own highest or lowest value for longer than this, in seconds: it
has reached the limit of the amplifier's range. The longest plateau of a natural ECG in PTB-XL lasts 0.27 s."""
MAX_MISSING = 0.05
"""Largest share of missing (NaN) samples at which a lead is repaired; with more the lead is masked."""
MAX_GAP_SECONDS = 0.2
"""Longest gap that is repaired, in seconds: one cardiac cycle at 300 beats a minute, so no whole beat is invented."""
BANDPASS_ORDER = 3
"""Order of the Butterworth band-pass filter; applying it forwards and backwards doubles the order."""
NOTCH_Q = 30.0
"""Quality factor of the notch filter: mains frequency divided by the notch's width (at -3 dB, one pass)."""
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
"""All constants above, and that of flat leads, recorded in `build.json`."""
LOWEST_UV, HIGHEST_UV = 20.0, 20_000.0
"""Range of plausible voltages, in microvolts. A record whose largest lead spans less, or half of whose leads span
more, has a wrong unit or gain. In all of PTB-XL, the largest lead spans 740 µV or more; the median lead spans 9,500 µV
or less."""
LENGTH_POLICY = "a longer record keeps its first samples, a shorter one gets zeros at the end"

NO_FILTERS = Filters()

_FROM_LIMBS = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""Weights of I and II that give each other limb lead, by Einthoven's and Goldberger's definitions."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A signal in the form that the model reads."""

    ecg: NDArray[np.int16]
    """[T, leads] samples, 1 µV per unit; zero in masked leads."""
    lead_mask: NDArray[np.bool_]
    """[leads] whether each lead is usable: recorded, not flat, not saturated, without too many missing samples."""
    verdicts: tuple[str, ...]
    """Defects and corrections, of the record (`cropped`) or of one lead (`flat lead V5`, `absent lead V1`)."""
    notes: tuple[str, ...] = ()
    """What was assumed or left out: notes of the reader, and channels that are not used."""

    @property
    def kinds(self) -> frozenset[str]:
        """The verdicts without lead names; `good signal` if there are no verdicts."""
        return frozenset(re.sub(r"(?<= lead) .*", "", verdict) for verdict in self.verdicts or ["good signal"])

    @property
    def lines(self) -> list[str]:
        """One line for each note and each kind of verdict on leads, such as `absent leads V1, V2`."""
        leads: dict[str, list[str]] = {}
        for verdict in self.verdicts:
            kind, found, lead = verdict.partition(" lead ")
            if found:
                leads.setdefault(kind, []).append(lead)
        return [*self.notes, *(f"{kind} leads {', '.join(names)}" for kind, names in leads.items())]


def choose(recording: Recording, leads: Sequence[str] = LEADS) -> tuple[dict[str, int], list[str]]:
    """Finds the channel of each requested lead by name.

    A second channel of the same lead, such as a rhythm strip, is left out.

    Returns:
      The number of the channel of each lead that is present; and a note for each channel that is left out.

    Raises:
      EtpError: two channels of different names and values denote one lead, or no channel denotes a requested lead.
    """
    places: dict[str, int] = {}
    renamed, notes = [], []
    channels = " ".join(recording.channels)
    for number, (channel, lead) in enumerate(zip(recording.channels, leads_of(recording.channels), strict=True)):
        if lead is None:
            notes.append(f"channel {channel} is no lead that is read; left out")
        elif lead not in leads:
            notes.append(f"channel {channel} is not one of the leads {' '.join(leads)}; left out")
        elif lead not in places:
            places[lead] = number
            if not re.search(rf"(?<![a-z]){lead}(?![a-z0-9])", channel, re.IGNORECASE):
                renamed.append(f"{channel} as {lead}")
        else:
            first = recording.channels[places[lead]]
            if np.array_equal(*recording.signal[:, [places[lead], number]].T, equal_nan=True):
                notes.append(f"channel {channel} repeats {first}; left out")
            elif is_copy(channel, first):
                notes.append(f"channel {channel} differs from {first}, which is kept; left out")
            else:
                raise EtpError(f"lead names: {lead} appears twice in {channels}")
    if not places:
        raise EtpError(f"lead names: none of {' '.join(leads)} among {channels}")
    return places, [f"read {', '.join(renamed)}"] * bool(renamed) + notes


def arrange(recording: Recording, leads: Sequence[str] = LEADS) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Selects the requested leads by name, in the requested order.

    Returns:
      [T, leads] signal in microvolts, zero where the lead is absent; and [leads] whether the lead is present.

    Raises:
      EtpError: as for `choose`.
    """
    return _arrange(recording, choose(recording, leads)[0], leads)


def _arrange(
    recording: Recording, places: dict[str, int], leads: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    signal = np.zeros((len(leads), len(recording.signal))).T  # each lead contiguous in memory: later steps are faster
    for place, lead in enumerate(leads):
        if lead in places:
            signal[:, place] = recording.signal[:, places[lead]]
    return signal, np.array([lead in places for lead in leads])


def check_voltage(signal: NDArray[np.float64], unit: str = "") -> None:
    """Checks that the voltages [T, leads], in microvolts, are those of an ECG.

    Args:
      signal: the leads that are present.
      unit: unit that was given or assumed; empty if the file states its own.

    Raises:
      EtpError: they are not; the message names what the values may be.
    """
    finite = np.where(np.isfinite(signal), signal, np.nan)
    spans = np.fmax.reduce(finite, axis=0) - np.fmin.reduce(finite, axis=0)
    spans = spans[spans > 0]
    if not len(spans) or (spans.max() >= LOWEST_UV and np.median(spans) <= HIGHEST_UV):
        return
    span = spans.max()
    if span >= LOWEST_UV:
        # A few artifacts do not count: the span is that of 99 % of the samples.
        span = np.median(np.subtract(*np.nanpercentile(finite[:, ~np.isnan(finite).all(axis=0)], (99.5, 0.5), axis=0)))
        if span <= HIGHEST_UV:
            return
    fitting = [
        name
        for name in ("mV", "uV", "V", "nV")
        if unit and LOWEST_UV <= span / MICROVOLT[unit] * MICROVOLT[name] <= HIGHEST_UV
    ]
    likely = "its unit or gain is wrong"
    if fitting and fitting[0] == "uV":  # units of a converter, such as 200 per millivolt, are of the same size
        given = option("unit", "uV")
        likely = f"if the values are uV, give {given}; if they are units of a converter, divide them by its gain"
    elif fitting:
        likely = f"the values look like {fitting[0]}, not {unit}; give {option('unit', fitting[0])}"
    raise EtpError(f"voltage: the leads span {span / 1000:,.4g} mV, which no ECG does; {likely}")


def repair(values: NDArray[np.float64], fs: float) -> str:
    """Fills short gaps of one lead in place, by linear interpolation, and judges the lead.

    Returns:
      `repaired` if gaps were filled; an empty text if nothing is wrong; otherwise why the lead cannot be used.
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
    """Whether more than `length` consecutive flags are set."""
    if np.count_nonzero(flags) <= length:
        return False
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return bool((edges[1::2] - edges[::2]).max() > length)


def filtered(signal: NDArray[np.float64], fs: float, filters: Filters) -> NDArray[np.float64]:
    """Filters [T, leads] forwards and backwards, so that no wave is delayed.

    Raises:
      EtpError: a filter frequency is not between 0 and half of `fs`.
    """
    sections = _sections(fs, filters)
    if not len(sections):
        return signal
    # Two seconds of mirrored signal at both ends let the filter settle at its lower edge. Filtered windows of longer
    # ECGs then differ half as much from the filtered whole as with scipy's default, which inverts the mirrored ends.
    return sosfiltfilt(sections, signal, axis=0, padtype="even", padlen=min(len(signal) - 1, round(2 * fs)))


@lru_cache(maxsize=16)
def _sections(fs: float, filters: Filters) -> NDArray[np.float64]:
    """Designs all filters as second-order sections [n, 6]."""
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
    """Resamples [T, leads] from `fs` Hz to `target` Hz, with scipy's polyphase anti-aliasing filter."""
    if fs == target:
        return signal
    ratio = Fraction(target).limit_denominator(10_000) / Fraction(fs).limit_denominator(10_000)
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype="line")


def fit(signal: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Crops or pads [T, leads] to [samples, leads], by `LENGTH_POLICY`."""
    kept = signal[:samples]
    return np.pad(kept, ((0, samples - len(kept)), (0, 0)))


def prepare(
    recording: Recording, fs: float, samples: int, leads: Sequence[str] = LEADS, filters: Filters = NO_FILTERS
) -> Prepared:
    """Crops, arranges, judges, repairs, filters, resamples, pads, and rounds a recording to int16 microvolts.

    Only the kept part of the signal is examined. Limb leads that were not recorded are computed if I and II are usable,
    whether these are requested or not.

    Args:
      recording: the signal as recorded.
      fs: target sampling rate, in Hz.
      samples: target length, in samples at `fs`.
      leads: requested leads, in order.
      filters: filters, applied at the recording's own sampling rate.

    Raises:
      EtpError: lead names or filters do not fit, the record is too short, the voltages are not those of an ECG, or no
        lead is usable. The message is `kind: detail`.
    """
    length = len(recording.signal)
    if length == 0 or not 0 < recording.fs < np.inf:
        raise EtpError(f"empty signal: {length} samples at {recording.fs:g} Hz")
    if length / recording.fs < min(MIN_SECONDS, samples / fs):
        raise EtpError(f"too short: {length / recording.fs:.2f} s, less than {min(MIN_SECONDS, samples / fs):g} s")
    window = int(-(-samples * recording.fs // fs))
    kept = replace(recording, signal=recording.signal[:window])
    limbs = () if _FROM_LIMBS.keys().isdisjoint(leads) else ("I", "II")
    asked, leads = len(leads), (*leads, *(lead for lead in limbs if lead not in leads))
    places, notes = choose(kept, leads)
    signal, mask = _arrange(kept, places, leads)
    check_voltage(signal[:, mask], recording.unit)
    verdicts, absent = [], [lead for lead in leads if lead not in places]
    for place in np.flatnonzero(mask).tolist():
        if verdict := repair(signal[:, place], recording.fs):
            verdicts.append(f"{verdict} lead {leads[place]}")
            mask[place] = verdict == "repaired"
    if not mask.any():
        raise EtpError(f"no usable lead: {', '.join(verdicts)}")
    signal[:, ~mask] = 0
    usable = {lead: signal[:, place] for place, lead in enumerate(leads) if mask[place]}
    for lead in absent:
        if lead in _FROM_LIMBS and {"I", "II"} <= usable.keys():
            of_i, of_ii = _FROM_LIMBS[lead]
            signal[:, leads.index(lead)] = of_i * usable["I"] + of_ii * usable["II"]
            mask[leads.index(lead)] = True
            verdicts.append(f"derived lead {lead}")
        else:
            verdicts.append(f"absent lead {lead}")
    verdicts = [verdict for verdict in verdicts if verdict.rpartition(" lead ")[2] in leads[:asked]]
    signal, mask, leads = signal[:, :asked], mask[:asked], leads[:asked]
    if not mask.any():
        raise EtpError(f"no usable lead: {', '.join(verdicts)}")
    signal = np.rint(resample(filtered(signal, recording.fs, filters), recording.fs, fs))
    verdicts += ["cropped"] * (length > window) + ["padded"] * (len(signal) < samples)
    signal = fit(signal, samples)
    limits = np.iinfo(np.int16)
    clipped = (signal < limits.min) | (signal > limits.max)
    verdicts += [f"clipped lead {leads[place]}" for place in np.flatnonzero(clipped.any(axis=0)).tolist()]
    ecg = np.clip(signal, limits.min, limits.max).astype(np.int16)
    return Prepared(ecg, mask, tuple(verdicts), (*recording.notes, *notes))
