"""Occlusion map: the decrease of a score when a lead or a second of the ECG is hidden, and which decreases stand out.

Hiding any part of an ECG changes a score. A decrease stands out if it exceeds two comparisons: every decrease by hiding
as much of the signal in random places; and, in units of their spread, what hiding the same part does to an encoder with
shuffled weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Highlight

MOST = 3
"""Maximum number of leads, and of seconds, that are marked."""
SHARE = 0.5
"""Minimum decrease of the score to be marked, as a share of the greatest decrease."""
RANDOM = 32
"""Number of variants with random stretches hidden."""


@dataclass(frozen=True)
class Occlusion:
    """Decreases of a score; negative where it increases."""

    by_lead: Mapping[str, float]
    """Decrease when a lead is masked, by usable lead; empty if there is only one."""
    by_second: tuple[float, ...]
    """Decrease when a second is made flat, by second."""
    by_chance: float
    """Greatest decrease when random stretches are made flat."""
    highlight: Highlight
    """Leads and seconds whose decrease stands out and is among the greatest; empty if none does."""


def hidden(
    ecg_TL: NDArray[np.int16], lead_mask_L: NDArray[np.bool_], fs: int
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Creates variants of an ECG.

    These are, in order: the ECG unchanged; with each lead masked; with each second flat at its lead's median; and
    `RANDOM` variants with as many flat lead-seconds as there are usable leads, at random times in random leads.

    Returns:
      Signals [1 + L + S + RANDOM, T, L] and lead masks [1 + L + S + RANDOM, L], for L leads and S seconds; the last
      second may be shorter.
    """
    samples, leads = ecg_TL.shape
    seconds = -(-samples // fs)
    ecg_NTL = np.repeat(ecg_TL[None], 1 + leads + seconds + RANDOM, axis=0)
    mask_NL = np.repeat(lead_mask_L[None], len(ecg_NTL), axis=0)
    for lead in range(leads):
        ecg_NTL[1 + lead, :, lead] = 0
        mask_NL[1 + lead, lead] = False
    median_L = np.median(ecg_TL, axis=0).astype(np.int16)
    for second in range(seconds):
        ecg_NTL[1 + leads + second, second * fs : (second + 1) * fs] = median_L
    rng, usable = np.random.default_rng(0), np.flatnonzero(lead_mask_L)
    for ecg_VL in ecg_NTL[1 + leads + seconds :]:
        for lead in rng.choice(usable, len(usable)).tolist():
            start = int(rng.integers(0, max(samples - fs, 0) + 1))
            ecg_VL[start : start + fs, lead] = median_L[lead]
    return ecg_NTL, mask_NL


def occlusion(
    score_N: NDArray[np.floating],
    untrained_N: NDArray[np.floating],
    lead_mask_L: NDArray[np.bool_],
    leads: Sequence[str],
) -> Occlusion:
    """Computes the occlusion map.

    Args:
      score_N: scores of the ECGs made by `hidden`.
      untrained_N: scores of the same ECGs by an encoder with shuffled weights.
      lead_mask_L: usable leads.
      leads: names of the leads.
    """
    fall_N, chance_R = _falls(score_N)
    untrained_fall_N, untrained_R = _falls(untrained_N)
    beyond = (fall_N - chance_R.mean()) / _spread(chance_R)
    beyond_untrained = (untrained_fall_N - untrained_R.mean()) / _spread(untrained_R)
    stands_out = ((fall_N > max(chance_R.max(), 0)) & (beyond > beyond_untrained)).tolist()
    falls = fall_N.tolist()
    usable = [place for place in range(len(leads)) if lead_mask_L[place]] if lead_mask_L.sum() > 1 else []
    by_lead = {leads[place]: falls[place] for place in usable}
    marked = _greatest({leads[place]: falls[place] for place in usable if stands_out[place]})
    seconds = {place: falls[place] for place in range(len(leads), len(falls)) if stands_out[place]}
    highlight = Highlight(tuple(map(str, marked)), tuple(sorted(int(s) - len(leads) for s in _greatest(seconds))))
    return Occlusion(by_lead, tuple(falls[len(leads) :]), float(chance_R.max()), highlight)


def _falls(score_N: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Decreases of a score by leads and seconds [L + S], and by random stretches [RANDOM]."""
    falls = score_N[0] - score_N[1:]
    return falls[:-RANDOM], falls[-RANDOM:]


def _spread(values: NDArray[np.floating]) -> float:
    return float(values.std()) or 1e-9


def _greatest(falls: Mapping[str, float] | Mapping[int, float]) -> list[str | int]:
    """Returns the names of the greatest decreases, see `MOST` and `SHARE`."""
    ranked = sorted(falls.items(), key=lambda item: -item[1])[:MOST]
    return [name for name, fall in ranked if fall >= SHARE * ranked[0][1]]
