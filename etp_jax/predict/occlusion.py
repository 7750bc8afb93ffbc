"""What a score rests on: how far does it fall when a lead or a second of the ECG is hidden?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Highlight

MOST = 3
"""Leads, and seconds, that are marked at most."""
SHARE = 0.5
"""Of the greatest fall; what falls less is not marked."""


@dataclass(frozen=True)
class Occlusion:
    """Falls of a score; negative where it rises."""

    by_lead: dict[str, float]
    """Usable leads only; empty if there is but one."""
    by_second: tuple[float, ...]

    @property
    def highlight(self) -> Highlight:
        """Leads and seconds whose loss lowers the score most."""
        seconds = sorted(map(int, _greatest(dict(enumerate(self.by_second)))))
        return Highlight(tuple(map(str, _greatest(self.by_lead))), tuple(seconds))


def _greatest(falls: dict[str, float] | dict[int, float]) -> list[str | int]:
    """Names of the greatest falls."""
    ranked = sorted(falls.items(), key=lambda item: -item[1])[:MOST]
    return [name for name, fall in ranked if fall > 0 and fall >= SHARE * ranked[0][1]]


def hidden(
    ecg_TL: NDArray[np.int16], lead_mask_L: NDArray[np.bool_], fs: int
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """An ECG as it is, without each of its leads, and with each of its seconds flat at the median of its lead.

    Returns:
      Signals [1 + L + S, T, L] and lead masks [1 + L + S, L], S seconds, the last one perhaps not whole.
    """
    samples, leads = ecg_TL.shape
    seconds = -(-samples // fs)
    ecg_NTL = np.repeat(ecg_TL[None], 1 + leads + seconds, axis=0)
    mask_NL = np.repeat(lead_mask_L[None], len(ecg_NTL), axis=0)
    for lead in range(leads):
        ecg_NTL[1 + lead, :, lead] = 0
        mask_NL[1 + lead, lead] = False
    median_L = np.median(ecg_TL, axis=0).astype(np.int16)
    for second in range(seconds):
        ecg_NTL[1 + leads + second, second * fs : (second + 1) * fs] = median_L
    return ecg_NTL, mask_NL


def occlusion(score_N: NDArray[np.floating], lead_mask_L: NDArray[np.bool_], leads: Sequence[str]) -> Occlusion:
    """From the scores of what `hidden` gave."""
    falls = (score_N[0] - score_N[1:]).tolist()
    usable = [(lead, falls[place]) for place, lead in enumerate(leads) if lead_mask_L[place]]
    return Occlusion(dict(usable) if len(usable) > 1 else {}, tuple(falls[len(leads) :]))
