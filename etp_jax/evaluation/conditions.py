"""Conditions under which ECGs are harder to read: fewer leads, a lower sampling rate, and added noise. No jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.prepare import fit, resample
from etp_jax.metrics.bootstrap import Floats
from etp_jax.shards.reader import Shards

LEAD_SETS = {
    "6 limb leads": LEADS[:6],
    "leads I and II": ("I", "II"),
    "lead I": ("I",),
    "lead II": ("II",),
}
"""Leads that stay, by the name of the condition; the others are masked as unrecorded leads are."""
COARSE_HZ = 100
"""Sampling rate to which faster records are reduced; records at this rate or below are reduced to half their rate."""
WHITE_SNR_DB = (20, 10)
WANDER_HZ, WANDER_MV = 0.3, 0.5
MAINS_HZ, MAINS_MV = 50.0, 0.1
RECORDER_HZ = 500
"""Rate at which mains are drawn before they are resampled: at 100 Hz, 50 Hz is the limit of what can be sampled."""

Change = Callable[[Floats, NDArray[np.bool_], np.random.Generator], tuple[Floats, NDArray[np.bool_]]]
"""Function of signals [b, T, leads] in µV, lead masks [b, leads] and a source of draws; returns both, changed."""


def about(fs: int) -> dict[str, str]:
    """Describes the conditions, for the result's protocol."""
    return {
        "leads": "others are masked, as unrecorded leads are",
        "rate": f"resampled from {fs} Hz to {coarse(fs):g} Hz and back, with an anti-aliasing filter",
        "white noise": "Gaussian, the same ratio to the variance of each lead",
        "baseline wander": f"a sine of {WANDER_HZ:g} Hz and {WANDER_MV:g} mV (amplitude), a random phase for each lead",
        "mains": f"a sine of {MAINS_HZ:g} Hz and {MAINS_MV:g} mV (amplitude), a random phase for each lead, drawn at "
        f"{RECORDER_HZ} Hz and resampled as `etp prep` does",
    }


def coarse(fs: float) -> float:
    """Returns the rate to which records of `fs` Hz are reduced."""
    return COARSE_HZ if fs > COARSE_HZ else fs / 2


def of(shards: Shards) -> Mapping[str, Change | None]:
    """Returns the change of each condition by name; None where the shards do not have its leads."""
    fs, leads = shards.fs, np.array(shards.leads)
    changes: dict[str, Change | None] = {
        name: partial(keep_leads, np.isin(leads, chosen)) if set(chosen) <= set(shards.leads) else None
        for name, chosen in LEAD_SETS.items()
    }
    changes[f"sampled at {coarse(fs):g} Hz"] = partial(reduce_rate, fs)
    changes |= {f"white noise, {snr} dB": partial(add_white, snr) for snr in WHITE_SNR_DB}
    changes[f"baseline wander, {WANDER_MV:g} mV"] = partial(add_sine, WANDER_HZ, WANDER_MV, fs)
    changes[f"mains, {MAINS_MV:g} mV"] = partial(add_sine, MAINS_HZ, MAINS_MV, fs)
    return changes


def keep_leads(
    kept_L: NDArray[np.bool_], ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], _: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Masks all leads but some."""
    return ecg_bTL, lead_mask_bL & kept_L


def reduce_rate(
    fs: float, ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], _: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Resamples to the coarse rate and back."""
    low = coarse(fs)
    back = [fit(resample(resample(ecg_TL, fs, low), low, fs), len(ecg_TL)) for ecg_TL in ecg_bTL]
    return np.stack(back), lead_mask_bL


def add_white(
    snr_db: float, ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], draws: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Adds Gaussian noise to each lead, at a ratio of the lead's variance to that of the noise."""
    deviation_b1L = ecg_bTL.std(axis=1, keepdims=True) * 10 ** (-snr_db / 20)
    return ecg_bTL + draws.normal(size=ecg_bTL.shape) * deviation_b1L, lead_mask_bL


def add_sine(
    hz: float, mv: float, fs: float, ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], draws: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Adds a sine to each lead, with a random phase; it is drawn at the rate of a recorder and then resampled."""
    samples = ecg_bTL.shape[1]
    turns_T = 2 * np.pi * hz * np.arange(-(-samples * RECORDER_HZ // fs)) / RECORDER_HZ
    # A sine of any phase is a sum of one sine and one cosine: only these two are resampled.
    waves_T2 = fit(resample(np.stack([np.sin(turns_T), np.cos(turns_T)], axis=1), RECORDER_HZ, fs), samples)
    phase_bL = draws.uniform(0, 2 * np.pi, lead_mask_bL.shape)
    share_b2L = np.stack([np.cos(phase_bL), np.sin(phase_bL)], axis=1)
    return ecg_bTL + 1000 * mv * (waves_T2 @ share_b2L), lead_mask_bL
