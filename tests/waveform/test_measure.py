from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from etp_jax.ecg.leads import LEADS
from etp_jax.waveform.agreement import measure_split
from etp_jax.waveform.features import QUANTITIES, Check
from etp_jax.waveform.judge import judge
from etp_jax.waveform.measure import measure
from tests.helpers import analytic_ecg
from tests.helpers.analytic_ecg import Known
from tests.helpers.drawn_ecg import FS, draw


def test_the_table_may_be_written_to_a_new_folder(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "measured.csv"
    assert measure_split(shards, "validation", out).records == len(out.read_text().splitlines()) - 1 == 60


def lead(measures, quantity: str, name: str) -> float:
    return float(measures[quantity][LEADS.index(name)])


@pytest.mark.parametrize("rate", [40, 60, 75, 110, 150, 200, 220])
def test_rate(rate):
    assert measure(draw(rate=rate, qrs=80), FS)["rate_bpm"] == pytest.approx(rate, abs=1)


@pytest.mark.parametrize(("pr", "qrs"), [(120, 80), (160, 100), (220, 100), (160, 140), (280, 160)])
def test_intervals(pr, qrs):
    measures = measure(draw(rate=60, pr=pr, qrs=qrs), FS)
    assert measures["qrs_ms"] == pytest.approx(qrs, abs=10)
    # The tangent to the rise of P, a raised cosine of 45 ms, meets zero after 8 ms.
    assert measures["pr_ms"] == pytest.approx(pr - 8, abs=12)


@pytest.mark.parametrize("qrs", [90, 120])
def test_qt(qrs):
    measures = measure(draw(rate=60, qrs=qrs), FS)
    assert measures["qt_ms"] == pytest.approx(qrs + 285, abs=15)
    faster = measure(draw(rate=90, qrs=qrs), FS)
    assert faster["qtc_ms"] == pytest.approx((qrs + 285) / (60 / 90) ** (1 / 3), abs=20)


@pytest.mark.parametrize("axis", [-150, -60, -20, 0, 45, 80, 120, 170])
def test_axis(axis):
    assert measure(draw(axis=axis), FS)["axis_deg"] == pytest.approx(axis, abs=5)


def test_amplitudes():
    record = draw(chest={"V1": -1800, "V5": 2100, "V6": 1500}, st={"V2": 200, "II": -150}, t={"V4": -400})
    measures = measure(record, FS)
    assert lead(measures, "s_uv", "V1") == pytest.approx(1800, rel=0.05)
    assert lead(measures, "r_uv", "V5") == pytest.approx(2100, rel=0.05)
    assert measures["sokolow_uv"] == pytest.approx(3900, rel=0.05)
    assert lead(measures, "st_uv", "V2") == pytest.approx(200, abs=40)
    assert lead(measures, "st_uv", "II") == pytest.approx(-150, abs=40)
    assert lead(measures, "st_uv", "V5") == pytest.approx(0, abs=40)
    assert lead(measures, "t_uv", "V4") == pytest.approx(-400, rel=0.15)
    assert lead(measures, "t_uv", "V3") == pytest.approx(250, rel=0.2)
    assert lead(measures, "p_uv", "II") == pytest.approx(120, rel=0.35)


def test_rhythm():
    regular, beats = measure(draw(), FS), np.cumsum(np.random.default_rng(1).uniform(0.45, 1.1, 13)) + 0.2
    irregular = measure(draw(times=beats[beats < 9.4].tolist(), with_p=False), FS)
    assert regular["rr_irregularity"] < 0.02 and regular["premature_beats"] == 0  # pyright: ignore[reportOperatorIssue]
    assert irregular["rr_irregularity"] > 0.1  # pyright: ignore[reportOperatorIssue]
    early = measure(draw(times=[0.6, 1.4, 2.2, 3.0, 3.5, 4.6, 5.4, 6.2, 7.0, 7.8]), FS)
    assert early["premature_beats"] == 1
    assert regular["p_likeness"] > 0.8 and irregular["p_likeness"] < 0.4  # pyright: ignore[reportOperatorIssue]
    assert np.isnan(irregular["pr_ms"])


def test_another_shape_is_counted_and_kept_out_of_the_median_beat():
    usual, wide = draw(rate=60, qrs=90), draw(rate=60, qrs=180, axis=-120, r=2500)
    ecg = usual.ecg.copy()
    strange = slice(int(3.25 * FS), int(4.2 * FS))
    ecg[strange] = wide.ecg[strange]
    measures = measure(replace(usual, ecg=ecg), FS)
    assert measures["aberrant_beats"] == 1
    assert measures["qrs_ms"] == pytest.approx(90, abs=10)


def test_rate_of_sampling_matters_little():
    record = draw(rate=70, pr=180, qrs=110, axis=30)
    slow = replace(record, ecg=record.ecg.reshape(-1, 5, 12).mean(axis=1).round().astype(np.int16))
    fine, coarse = measure(record, FS), measure(slow, 100)
    for name, error in (("rate_bpm", 1.5), ("pr_ms", 20), ("qrs_ms", 24), ("qt_ms", 20), ("axis_deg", 5)):
        assert coarse[name] == pytest.approx(fine[name], abs=error), name


def test_offset_and_size_do_not_change_intervals():
    record = draw()
    other = replace(record, ecg=(record.ecg // 2 + 700).astype(np.int16))
    for name in ("rate_bpm", "pr_ms", "qrs_ms", "axis_deg"):
        assert measure(other, FS)[name] == pytest.approx(measure(record, FS)[name], abs=6), name


def test_missing_leads_are_not_measured():
    record = draw()
    mask = np.ones(12, bool)
    mask[LEADS.index("V2")] = False
    measures = measure(replace(record, lead_mask=mask), FS)
    assert np.isnan(lead(measures, "r_uv", "V2")) and lead(measures, "r_uv", "V3") > 800
    assert measures["qrs_ms"] == pytest.approx(100, abs=10)
    assert measure(replace(record, lead_mask=np.zeros(12, bool)), FS) == {}


TIME = np.arange(5000)[:, None] / FS
NOISE = np.random.default_rng(0).normal(0, 1, (5000, 12))


@pytest.mark.parametrize(
    "ecg",
    [
        np.zeros((5000, 12)),
        5 * NOISE,
        200 * NOISE,
        10 * np.cumsum(NOISE, axis=0),
        np.eye(5000, 12),
        300 * np.sin(2 * np.pi * 50 * TIME) * np.ones(12),
        100 * TIME * np.ones(12),
    ],
    ids=["flat", "slight noise", "noise", "wander", "one sample", "mains hum", "ramp"],
)
def test_nothing_is_measured_where_no_heart_beats(ecg):
    assert measure(replace(draw(), ecg=ecg.astype(np.int16)), FS) == {}


@pytest.mark.parametrize("band", [(1, 4), (5, 15), (8, 12)], ids=str)
def test_noise_of_one_lead_in_a_narrow_band_is_no_heart_beat(band):
    """Its waves are alike, and were taken for beats in up to 15 of 20 such signals."""
    one = np.arange(12) == LEADS.index("II")
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 300, 5000)
        ecg = np.outer(sosfiltfilt(butter(2, band, "band", fs=FS, output="sos"), noise), one)
        assert measure(replace(draw(), ecg=ecg.astype(np.int16), lead_mask=one), FS) == {}, seed


@pytest.mark.parametrize("frequency", [0.3, 0.7, 1.2, 2, 5])
def test_a_sine_is_no_heart_beat(frequency):
    ecg = 500 * np.sin(2 * np.pi * frequency * TIME) * np.ones(12)
    assert measure(replace(draw(), ecg=ecg.astype(np.int16)), FS) == {}


def test_a_fast_regular_rhythm_has_no_pr():
    """Every second wave of atrial flutter is in the place of a P wave."""
    slower, faster = measure(draw(rate=120, pr=120, qrs=80), FS), measure(draw(rate=130, pr=120, qrs=80), FS)
    assert np.isfinite(slower["pr_ms"]) and np.isnan(faster["pr_ms"]) and np.isfinite(faster["qrs_ms"])


def test_an_early_t_wave_is_not_passed_over_for_the_next_p_wave():
    known = Known(rate_bpm=113, p_ms=89, pr_ms=206, qrs_ms=140, qt_ms=316, t_fall_ms=100, axis_deg=9)
    ecg = analytic_ecg.draw(known, FS, 0, np.random.default_rng(0))
    assert measure(replace(draw(), ecg=ecg), FS)["qt_ms"] == pytest.approx(316 - 18, abs=10)  # by the tangent


@pytest.mark.parametrize(("rate", "pr"), [(95, 200), (105, 180), (120, 150)])
def test_a_tall_p_wave_is_not_taken_for_the_t_wave_before_it(rate, pr):
    low = {name: 60.0 if name != "aVR" else -60.0 for name in LEADS}  # half as high as P
    assert measure(draw(rate=rate, pr=pr, t=low), FS)["qt_ms"] == pytest.approx(385, abs=15)


def test_the_next_premature_beat_is_no_t_wave():
    sinus = np.arange(0.6, 9, 1.74)
    usual, wide = draw(times=sinus.tolist()), draw(times=(sinus + 0.54)[1:].tolist(), qrs=180, axis=-120, r=2500)
    premature = ((sinus[1:] + 0.42 <= TIME) & (sinus[1:] + 1.2 > TIME)).any(axis=1, keepdims=True)
    measures = measure(replace(usual, ecg=np.where(premature, wide.ecg, usual.ecg)), FS)
    assert measures["qt_ms"] == pytest.approx(385, abs=25) and measures["median_beats"] == len(sinus)


def test_an_irregular_rhythm_needs_clearer_p_waves():
    """Fibrillation waves are alike by chance in some beats; the P waves of sinus arrhythmia are alike in all."""
    beats = np.cumsum(np.random.default_rng(1).uniform(0.6, 1.1, 10))
    arrhythmia, without = draw(times=beats.tolist()), draw(times=beats.tolist(), with_p=False)
    assert np.isfinite(measure(arrhythmia, FS)["pr_ms"])
    ecg = arrhythmia.ecg.copy()
    for beat in beats[::3]:
        part = slice(int((beat - 0.3) * FS), int((beat - 0.06) * FS))
        ecg[part] = without.ecg[part]
    measures = measure(replace(arrhythmia, ecg=ecg), FS)
    assert 0.4 < measures["p_likeness"] < 0.6 and np.isnan(measures["pr_ms"])  # pyright: ignore[reportOperatorIssue]


def test_an_impossible_qrs_leaves_only_the_rhythm():
    after = (TIME - 0.5) % 1.0
    ecg = 1000 * np.minimum(after / 0.1, 1 - (after - 0.1) / 0.19).clip(0) * np.ones(12)
    measures = measure(replace(draw(), ecg=ecg.astype(np.int16)), FS)
    assert measures["rate_bpm"] == pytest.approx(60, abs=1) and not {"qrs_ms", "qt_ms", "axis_deg"} & set(measures)


def test_every_quantity_is_measured():
    assert set(QUANTITIES) <= set(measure(draw(), FS))


MEASURES = {
    "qrs_ms": 112.0,
    "axis_deg": -178.0,
    "st_uv": np.array([-60.0, -40, 10, np.nan] + [0.0] * 8),
    "pr_ms": float("nan"),
}


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (Check("qrs_ms", low=110), "agrees"),
        (Check("qrs_ms", low=120), "open"),  # 8 ms is within the error
        (Check("qrs_ms", low=130), "contradicts"),
        (Check("qrs_ms", low=90, high=112), "agrees"),
        (Check("axis_deg", low=90, high=180), "open"),  # 2 degrees beyond, on the circle
        (Check("axis_deg", low=-30, high=90), "contradicts"),
        (Check("pr_ms", low=200), "open"),
        (Check("qt_ms", low=200), "open"),
        (Check("st_uv", high=-50, leads=("I", "II"), at_least=1), "agrees"),
        (Check("st_uv", high=-50, leads=("I", "II"), at_least=2), "open"),
        (Check("st_uv", high=-50, leads=("I", "II", "III"), at_least=3), "contradicts"),
        (Check("st_uv", high=-50, leads=("I", "aVR"), at_least=2), "open"),
        (None, "open"),
    ],
)
def test_judge(check, verdict):
    assert judge(check, MEASURES, LEADS).verdict == verdict


def test_evidence_names_what_was_measured():
    assert judge(Check("qrs_ms", low=110), MEASURES, LEADS).evidence == "qrs_ms=112"
    check = Check("st_uv", high=-50, leads=("I", "II"), at_least=1)
    assert judge(check, MEASURES, LEADS).evidence == "st_uv I=-60 II=-40"
