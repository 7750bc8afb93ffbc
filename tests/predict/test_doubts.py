"""Tests what `etp predict` says of findings, measurements and signals that cannot be right."""

from __future__ import annotations

import numpy as np
import pytest

from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.prepare import Prepared
from etp_jax.encoder.calibration import Threshold
from etp_jax.predict.doubts import contradictions, inverted, unreadable, withheld
from etp_jax.predict.finding import Finding
from etp_jax.waveform.measure import measure
from tests.helpers.analytic_ecg import Known, draw

ABOVE, OPEN, BELOW = (0.9, 0.9), (0.2, 0.3), (0.05, 0.9)
"""Probability, and precision of a threshold of 0.1, for each verdict."""


def finding(code: str, state: tuple[float, float], *codes: str) -> Finding:
    probability, precision = state
    return Finding("t", code, code.lower(), 0.0, probability, Threshold(0.1, precision, 0.5), None, frozenset(codes))


def test_a_normal_ecg_beside_an_abnormal_one_is_named():
    normal, infarct = finding("NORM", ABOVE, "NORM"), finding("IMI", ABOVE, "IMI")
    assert contradictions({"Diagnosis": [normal, infarct]}) == ["norm is above the threshold beside imi"]
    assert contradictions({"Diagnosis": [normal], "Rhythm": [finding("SR", ABOVE, "SR")]}) == []
    assert contradictions({"Diagnosis": [normal, finding("IMI", OPEN, "IMI")]}) == []


def test_two_rhythms_are_named():
    sinus, fibrillation = finding("SR", ABOVE, "SR"), finding("AFIB", ABOVE, "AFIB")
    assert contradictions({"Rhythm": [sinus, fibrillation]}) == ["sr is above the threshold beside afib"]
    assert contradictions({"Rhythm": [sinus, finding("PACE", ABOVE, "PACE")]}) == []


@pytest.mark.parametrize(
    ("state", "place"), [(OPEN, "not decided"), (BELOW, "below its threshold"), (ABOVE, "")], ids=str
)
def test_a_finding_above_what_it_is_a_kind_of_is_named(state: tuple[float, float], place: str):
    groups = {"Diagnosis": [finding("HYP", state, "LVH", "RVH"), finding("LVH", ABOVE, "LVH")]}
    assert contradictions(groups) == [f"lvh is a kind of hyp, which is {place}"] * bool(place)


def test_measurements_are_withheld_beside_findings_that_they_do_not_fit():
    assert set(withheld({"rate_bpm": 70.0}, [finding("PACE", ABOVE)])) == {"pr_ms", "qrs_ms", "qt_ms", "qtc_ms"}
    assert set(withheld({"rate_bpm": 70.0}, [finding("AFIB", ABOVE)])) == {"pr_ms"}
    assert "125/min" in withheld({"rate_bpm": 150.0}, [])["pr_ms"] and withheld({"rate_bpm": 70.0}, []) == {}


def test_reversed_arms_and_an_inverted_signal_are_noticed():
    known = Known(rate_bpm=72, p_ms=100, pr_ms=160, qrs_ms=96, qt_ms=400, t_fall_ms=90, axis_deg=40)
    ecg = draw(known, 500, 5, np.random.default_rng(0))
    reversed_arms = ecg[:, [0, 2, 1, 4, 3, *range(5, 12)]] * np.array([-1, *[1] * 11], np.int16)
    seen = [
        inverted(measure(Prepared(x, np.ones(12, bool), ()), 500), LEADS) for x in (ecg, reversed_arms, -ecg, 0 * ecg)
    ]
    assert seen == [False, True, True, False]


def test_a_short_signal_may_hold_too_few_beats():
    assert unreadable({}, 10) and not unreadable({}, 2.5) and not unreadable({"rate_bpm": 70.0}, 10)
