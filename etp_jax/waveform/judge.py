"""Comparison of a feature with the measurements of an ECG: they agree, contradict it, or leave the question open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etp_jax.waveform.features import QUANTITIES, Check
from etp_jax.waveform.measure import Measures


@dataclass(frozen=True)
class Judgement:
    """Result of comparing a feature with measurements."""

    verdict: Literal["agrees", "contradicts", "open"]
    """`open` if the quantity cannot be measured, or is outside the bounds by no more than the measurement error."""
    evidence: str
    """Measured values, such as `qrs_ms=152` or `q_ms II=10 III=44 aVF=38`."""


OPEN = Judgement("open", "")


def judge(check: Check | None, measures: Measures, leads: tuple[str, ...]) -> Judgement:
    """Compares a feature with measurements.

    For a feature of several leads, the measurements agree if enough leads are within the bounds. They contradict it if
    too few leads are within the bounds widened by the margin.

    Args:
      check: measurable form of the feature; None if it cannot be measured.
      measures: measurements of the ECG, from `measure`.
      leads: names of the leads that the measurements belong to.
    """
    if check is None or check.quantity not in measures:
        return OPEN
    values = np.atleast_1d(measures[check.quantity])
    if check.leads:
        if not set(check.leads) <= set(leads):
            return OPEN
        values = values[[leads.index(lead) for lead in check.leads]]
    low = -np.inf if check.low is None else check.low
    high = np.inf if check.high is None else check.high
    margin = QUANTITIES[check.quantity].margin
    needed = check.at_least or 1
    unknown = np.isnan(values)
    turns = np.array([0, 360, -360] if check.quantity == "axis_deg" else [0])[:, None]

    def inside(margin: float) -> NDArray[np.bool_]:
        return np.any((values + turns >= low - margin) & (values + turns <= high + margin), axis=0)

    within, near = inside(0), unknown | inside(margin)
    verdict = "agrees" if within.sum() >= needed else "open" if near.sum() >= needed else "contradicts"
    names = [f" {lead}=" for lead in check.leads] or ["="]
    shown = "".join(f"{name}{value:.4g}" for name, value in zip(names, values.tolist(), strict=True))
    return Judgement(verdict, check.quantity + shown)
