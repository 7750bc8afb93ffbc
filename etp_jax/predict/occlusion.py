"""Occlusion map: the decrease of a score when a lead or a second of the ECG is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Highlight

MOST = 3
"""Maximum number of leads, and of seconds, that are marked."""
SHARE = 0.5
"""Minimum decrease of the score to be marked, as a share of the greatest decrease."""


@dataclass(frozen=True)
class Occlusion:
    """Decreases of a score; negative where it increases."""

    by_lead: dict[str, float]
    """Decrease when a lead is masked, by usable lead; empty if there is only one."""
    by_second: tuple[float, ...]
    """Decrease when a second is made flat, by second."""

    @property
    def highlight(self) -> Highlight:
        """Leads and seconds whose removal decreases the score most."""
        seconds = sorted(map(int, _greatest(dict(enumerate(self.by_second)))))
        return Highlight(tuple(map(str, _greatest(self.by_lead))), tuple(seconds))


def _greatest(falls: dict[str, float] | dict[int, float]) -> list[str | int]:
    """Returns the names of the greatest decreases, see `MOST` and `SHARE`."""
    ranked = sorted(falls.items(), key=lambda item: -item[1])[:MOST]
    return [name for name, fall in ranked if fall > 0 and fall >= SHARE * ranked[0][1]]


def hidden(
    ecg_TL: NDArray[np.int16], lead_mask_L: NDArray[np.bool_], fs: int
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Creates variants of an ECG: unchanged, with each lead masked, and with each second flat at its lead's median.

    Returns:
      Signals [1 + L + S, T, L] and lead masks [1 + L + S, L], for L leads and S seconds; the last may be shorter.
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
    """Computes the occlusion map from the scores of the ECGs made by `hidden`."""
    falls = (score_N[0] - score_N[1:]).tolist()
    usable = [(lead, falls[place]) for place, lead in enumerate(leads) if lead_mask_L[place]]
    return Occlusion(dict(usable) if len(usable) > 1 else {}, tuple(falls[len(leads) :]))
