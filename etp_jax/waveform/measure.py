"""Measurements on a 12-lead ECG: rate, rhythm, intervals, axis, and amplitudes of every lead.

R peaks are detected over all leads together. Similar beats are combined into a median beat, on which the waves of all
leads are delineated at once, by the length of the vector of all leads. So intervals are global, as those of
electrocardiographs (AHA/ACCF/HRS 2007, part I). The QRS begins and ends where the slope exceeds a fraction of its
maximum. P and T begin and end where the tangent to the steepest flank meets the baseline (Lepeschkin and Surawicz 1952,
Circulation 6:378). A T wave's tangent ends before the wave has vanished: QT is some 15 ms shorter than to that moment.
`results/measurements.csv` has the errors. neurokit2, which delineates one lead beat by beat, takes some 200 ms per
record; this module takes a twentieth of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import gcd
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, resample_poly, sosfiltfilt

from etp_jax.ecg.leads import LEADS
from etp_jax.waveform.delineate import AFTER, BEFORE, FS, IRREGULAR, Array, Waves, delineate, possible

ALIKE = 0.85
"""Minimum correlation, over all leads, of beats that are combined into one median beat."""
SHARE_ALIKE = 1 / 3
"""Minimum share of the beats that are alike; with less, what was found are no heart beats but noise. In PTB-XL's fold 9
the smallest share is 0.36."""
STANDS_OUT = 3.5
"""Minimum energy of irregular QRS complexes, as a multiple of the lower quartile of the whole signal's; with less, they
are waves of noise in a narrow band, which are all alike. In PTB-XL's fold 9 the smallest multiple is 4.3. Regular
complexes may be so fast or wide that the signal is never quiet between them."""
ABERRANT = 0.7
"""Correlation with the median beat below which a beat counts as aberrant."""
PREMATURE = 0.8
"""Fraction of the usual RR interval below which a beat is premature."""
WAVE_UV = 40.0
"""Smallest amplitude of a QRS deflection, in microvolts."""


class Signal(Protocol):
    """A signal to measure, such as a record of a shard or a prepared recording."""

    @property
    def ecg(self) -> NDArray[np.int16]:
        """[T, leads] samples in microvolts."""
        ...

    @property
    def lead_mask(self) -> NDArray[np.bool_]:
        """[leads] whether each lead is usable."""
        ...


Measures = Mapping[str, "float | Array"]
"""Value of each quantity, or its values [leads]; NaN where it could not be measured."""


def measure(record: Signal, fs: int, leads: tuple[str, ...] = LEADS) -> Measures:
    """Measures one ECG.

    Args:
      record: record that holds the signal and the lead mask.
      fs: sampling rate of the signal, in Hz.
      leads: names of the signal's leads; axis and voltage criteria need the standard twelve.

    Returns:
      The quantities of `features.QUANTITIES`, and the numbers of beats that they rest on: `beats` for the rhythm,
      `median_beats` for all others. Only those of the rhythm if fewer than two beats are complete, or if the QRS
      lasts impossibly long. None if there are fewer than three beats, or if they are unlike each other or no steeper
      than the signal between them, as in noise. No P wave at 125 beats per minute or more, see `SHORTEST_RR`.
    """
    if not record.lead_mask.any():
        return {}
    x = _steady(record.ecg[:, record.lead_mask], fs)
    peaks = r_peaks(x, fs)
    if len(peaks) < 3:
        return {}
    divisor = gcd(FS, fs)
    peaks = peaks * FS // fs
    beats, places, peaks = _align(resample_poly(x, FS // divisor, fs // divisor, axis=0), peaks)
    template, likeness = _dominant(beats)
    rhythm = _rhythm(peaks, places, likeness)
    alike = likeness >= ALIKE
    if len(places) < 2:
        return rhythm
    if alike.sum() < max(2, SHARE_ALIKE * len(places)):
        return {}
    gaps, found = np.diff(peaks), places[alike]
    before, after = np.median(gaps[found[found > 0] - 1]), np.median(gaps[found[found < len(gaps)]])
    waves = delineate(template, beats[alike], float(before), float(after), rhythm["rr_irregularity"])
    if waves is None:
        return {}
    if not possible("qrs_ms", waves.qrs_off - waves.qrs_on):  # then nothing that begins or ends there is right
        return rhythm
    measured: dict[str, float | Array] = {
        **rhythm,
        "median_beats": float(alike.sum()),
        **_intervals(waves, rhythm["rr_ms"]),
    }
    for name, values in _amplitudes(template, waves).items():
        whole = np.full(len(leads), np.nan)
        whole[record.lead_mask] = values
        measured[name] = whole
    return {**measured, **_combinations(measured, leads)}


def _steady(ecg: NDArray[np.int16], fs: int) -> Array:
    """Removes frequencies below 0.5 Hz; the result is in microvolts."""
    x = ecg.astype(np.float64)
    return sosfiltfilt(_filter("high", fs, 0.5), x - np.median(x, axis=0), axis=0)


def r_peaks(x: Array, fs: int) -> NDArray[np.int64]:
    """Finds the QRS complexes of a signal [T, leads], as peaks of the energy between 8 and 22 Hz over all leads.

    Returns:
      Positions of the QRS complexes, in samples; none if they neither stand out, see `STANDS_OUT`, nor are regular.
    """
    band = sosfiltfilt(_filter("band", fs, 8, 22), x, axis=0)
    energy = np.sqrt(np.square(band).sum(axis=1))
    energy = np.convolve(energy, np.full(fs // 10, 10 / fs), "same")
    found = find_peaks(energy, height=0.3 * np.percentile(energy, 98), distance=fs // 4)[0]
    if len(found) < 3:
        return found
    found = found[energy[found] > 0.4 * np.median(energy[found])]
    stand_out = np.median(energy[found]) > STANDS_OUT * np.percentile(energy, 25)
    return found if stand_out or _irregularity(np.diff(found)) < IRREGULAR else found[:0]


def _irregularity(rr: Array | NDArray[np.int64]) -> float:
    """Computes the median change from one RR interval to the next, as a share of the median interval."""
    return float(np.median(np.abs(np.diff(rr))) / np.median(rr)) if len(rr) > 1 else 0.0


@cache
def _filter(kind: str, fs: int, *edges: float) -> Array:
    return np.asarray(butter(2, np.squeeze(edges), kind, fs=fs, output="sos"))


def _align(x: Array, peaks: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Cuts out the complete beats and aligns their QRS complexes.

    Returns:
      Aligned beats [N, T, leads]; the number of each beat's peak; and all peaks, shifted in the same way.
    """
    reach = int(0.04 * FS)
    places = np.flatnonzero((peaks >= BEFORE + reach) & (peaks + AFTER + reach <= len(x)))
    core = np.arange(-int(0.08 * FS), int(0.08 * FS))
    shifts = np.arange(-reach, reach + 1)[::2]
    found: NDArray[np.int64] = peaks[places]
    centres = found
    for _ in range(2):
        model = np.median(x[centres[:, None] + core], axis=0) if len(places) else np.zeros((len(core), x.shape[1]))
        # [N, shifts, T, leads] against [T, leads]
        match: Array = np.einsum("nstl,tl->ns", x[centres[:, None, None] + shifts[:, None] + core], model)
        moved: NDArray[np.int64] = centres + shifts[match.argmax(axis=1)]
        centres = np.clip(moved, found - reach, found + reach)
    shifted = peaks + (int(np.median(centres - found)) if len(places) else 0)
    shifted[places] = centres
    return x[centres[:, None] + np.arange(-BEFORE, AFTER)], places, shifted


def _dominant(beats: Array) -> tuple[Array, Array]:
    """Returns the median beat [T, leads] of the most common shape, and each beat's QRS correlation [N] with it."""
    if not len(beats):
        return np.zeros(beats.shape[1:]), np.zeros(0)
    core = beats[:, BEFORE - int(0.1 * FS) : BEFORE + int(0.12 * FS)]
    flat = (core - core.mean(axis=1, keepdims=True)).reshape(len(beats), -1)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    likeness = unit @ unit.T
    alike = likeness[np.argmax((likeness >= ALIKE).sum(axis=1) + likeness.mean(axis=1))] >= ALIKE
    template = np.median(beats[alike], axis=0)
    model = np.median(flat[alike], axis=0)
    return template, unit @ (model / max(float(np.linalg.norm(model)), 1e-9))


def _rhythm(peaks: NDArray[np.int64], places: NDArray[np.int64], likeness: Array) -> dict[str, float]:
    rr_ms = np.diff(peaks) / FS * 1000
    usual = float(np.median(rr_ms))
    return {
        "beats": float(len(peaks)),
        "rr_ms": usual,
        "rate_bpm": 60_000 / usual,
        "rr_irregularity": _irregularity(rr_ms),
        "rr_range_ms": float(np.ptp(rr_ms)),
        "premature_beats": float((rr_ms < PREMATURE * usual).sum()),
        "aberrant_beats": float((likeness < ABERRANT).sum()) if len(places) else np.nan,
    }


def _intervals(waves: Waves, rr_ms: float) -> dict[str, float]:
    ms = 1000 / FS
    qt = (waves.t_end - waves.qrs_on) * ms
    return {
        "p_likeness": waves.p_likeness,
        "p_ms": (waves.p_off - waves.p_on) * ms,
        "pr_ms": (waves.qrs_on - waves.p_on) * ms,
        "qrs_ms": (waves.qrs_off - waves.qrs_on) * ms,
        "qt_ms": qt,
        "qtc_ms": qt / (rr_ms / 1000) ** (1 / 3),
    }


def _amplitudes(beat: Array, waves: Waves) -> dict[str, Array]:
    """Measures amplitudes of every lead from the isoelectric level, in microvolts; depths are positive."""
    flat = beat - waves.level
    qrs = flat[waves.qrs_on : waves.qrs_off + 1]
    r_uv = np.maximum(qrs.max(axis=0), 0)
    q_uv, q_ms = _q_waves(qrs)
    st = flat[waves.qrs_off + int(0.056 * FS) : waves.qrs_off + int(0.064 * FS) + 1]
    none = np.full(flat.shape[1], np.nan)
    end = int(waves.t_end) + 10 if np.isfinite(waves.t_end) else 0
    t = flat[waves.qrs_off + int(0.1 * FS) : end]
    p = flat[int(waves.p_on) : int(waves.p_off) + 1] if np.isfinite(waves.p_on + waves.p_off) else flat[:0]
    return {
        "r_uv": r_uv,
        "s_uv": np.maximum(-qrs.min(axis=0), 0),
        "net_uv": qrs.max(axis=0) + qrs.min(axis=0),
        "area_uv": qrs.mean(axis=0),
        "span_uv": np.ptp(qrs, axis=0),
        "terminal_uv": qrs[-max(int(0.3 * len(qrs)), 1) :].mean(axis=0),
        "q_uv": q_uv,
        "q_ms": q_ms,
        "st_uv": st.mean(axis=0) if len(st) else none,
        "t_uv": _extreme(t) if len(t) else none,
        "p_uv": _extreme(p) if len(p) else none,
    }


def _extreme(part: Array) -> Array:
    """Returns the value [leads] that is farthest from zero."""
    return part[np.abs(part).argmax(axis=0), np.arange(part.shape[1])]


def _q_waves(qrs: Array) -> tuple[Array, Array]:
    """Measures depth and duration [leads] of Q: the negative part before the first positive deflection, or a QS."""
    depth, duration = np.zeros(qrs.shape[1]), np.zeros(qrs.shape[1])
    for lead in range(qrs.shape[1]):
        wave = qrs[:, lead]
        up = np.flatnonzero(wave > WAVE_UV)
        first = wave[: up[0]] if len(up) else wave
        depth[lead] = max(-first.min(initial=0), 0)
        duration[lead] = (first < -WAVE_UV).sum() * 1000 / FS
    return depth, duration


def _combinations(measured: Measures, leads: tuple[str, ...]) -> dict[str, float]:
    """Computes axis and voltage criteria from the amplitudes of several leads."""
    place = {lead: number for number, lead in enumerate(leads)}
    if not set(LEADS) <= set(place):
        return {}

    def of(quantity: str, lead: str) -> float:
        return float(np.asarray(measured[quantity])[place[lead]])

    # The augmented leads have √3/2 of the scale of the bipolar leads (Goldberger), hence the factor 2/√3.
    axis = np.degrees(np.arctan2(2 / np.sqrt(3) * of("area_uv", "aVF"), of("area_uv", "I")))
    return {
        "axis_deg": float(axis),
        "sokolow_uv": of("s_uv", "V1") + max(of("r_uv", "V5"), of("r_uv", "V6")),
        "cornell_uv": of("r_uv", "aVL") + of("s_uv", "V3"),
        "sokolow_right_uv": of("r_uv", "V1") + max(of("s_uv", "V5"), of("s_uv", "V6")),
    }
