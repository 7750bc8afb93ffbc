"""The heart model: what can be measured on its signals is what the findings say."""

from __future__ import annotations

import numpy as np
import pytest

from etp_jax.data_prep.synthetic import heart
from tests.helpers.ecg_measures import FS, lead, mean_beat, ms, qrs_ms, rr


def record(*codes: str, seed: int, rate: float = 70.0, delay: float = 0.0, strength: float = 1.0) -> np.ndarray:
    """One patient's ECG at 500 Hz in mV with these findings and everybody's own heart, chest and noise."""
    rng = np.random.default_rng(seed)
    field = heart.body(rng, turn=rng.normal(0, 12))
    beat = heart.individual(heart.shape(codes, strength), rng)
    return heart.record(beat, codes, field, rng, rate=rate, delay=delay, fs=FS) / 1000


def beats(*codes: str, n: int = 12, rate: float = 70.0, delay: float = 0.0, strength: float = 1.0) -> list[np.ndarray]:
    seeds = range(n)
    return [mean_beat(record(*codes, seed=seed, rate=rate, delay=delay, strength=strength)) for seed in seeds]


# ---------------------------------------------------------------- rhythm


@pytest.mark.parametrize(("code", "rate"), [("SBRAD", 48), ("SR", 72), ("STACH", 125), ("SVTAC", 180), ("PACE", 70)])
def test_heart_rate(code: str, rate: float) -> None:
    for seed in range(6):
        assert 60 / rr(record(code, seed=seed, rate=rate)).mean() == pytest.approx(rate, rel=0.05)


def test_heart_rate_variability() -> None:
    def spread(*codes: str, rate: float = 75) -> np.ndarray:
        intervals = [rr(record(*codes, seed=seed, rate=rate)) for seed in range(12)]
        return np.array([i.std() / i.mean() for i in intervals])

    sinus, arrhythmia, fibrillation = spread("SR"), spread("SARRH"), spread("AFIB")
    assert 0.008 < np.median(sinus) < 0.035 and sinus.max() < 0.05
    assert np.median(arrhythmia) > 0.06
    assert np.median(fibrillation) > 0.15 and fibrillation.min() > 0.10
    assert np.median(spread("PACE")) < 0.005


def test_fibrillation_and_breathing_differ() -> None:
    """In sinus arrhythmia the intervals swing slowly; in fibrillation the next one does not follow from the last."""

    def memory(code: str) -> float:
        intervals = [rr(record(code, seed=seed, rate=80)) for seed in range(20)]
        return float(np.median([np.corrcoef(i[:-1], i[1:])[0, 1] for i in intervals]))

    assert memory("SARRH") > 0.2 > abs(memory("AFIB"))


def test_tachogram_power_lies_at_low_and_breathing_frequency() -> None:
    power = np.zeros(201)
    for seed in range(40):
        vary = heart.tachogram(np.random.default_rng(seed), spread=0.03, breath=0.25)
        series = np.array([vary(t) for t in np.arange(0, 200, 0.5)])
        assert series.std() == pytest.approx(0.03, rel=0.05)
        power = power + np.square(np.abs(np.fft.rfft(series)))
    frequency = np.fft.rfftfreq(400, 0.5)
    low, high = (power[(frequency > a) & (frequency < b)].sum() for a, b in ((0.04, 0.16), (0.19, 0.31)))
    assert low + high > 0.98 * power.sum()
    assert low / high == pytest.approx(0.5, rel=0.1)


def test_p_waves() -> None:
    def p_height(code: str) -> np.ndarray:
        parts = [lead(beat, "II")[ms(-230, -110)] for beat in beats(code)]
        return np.array([part.max() - part[:5].mean() for part in parts])

    assert np.median(p_height("SR")) > 0.06
    assert heart.shape(["PACE"]).p.size == 0
    for code in ("AFIB", "SVTAC"):
        assert np.median(p_height(code)) < 0.03, code


def test_fibrillatory_waves_lie_at_5_to_8_hertz() -> None:
    def atrial_share(code: str) -> float:
        shares = []
        for seed in range(10):
            field, rng = heart.LEAD_FIELD, np.random.default_rng(seed)
            v1 = (heart.atria([code], 0.0, 70.0, FS, rng) @ field.T)[:, 2]
            power = np.square(np.abs(np.fft.rfft(v1)))
            frequency = np.fft.rfftfreq(v1.size, 1 / FS)
            shares.append(power[(frequency > 4) & (frequency < 9)].sum() / max(power.sum(), 1e-12))
        return float(np.min(shares))

    assert atrial_share("AFIB") > 0.7
    assert atrial_share("AFLT") > 0.7
    assert atrial_share("SR") == 0


def test_flutter_conducts_whole_cycles() -> None:
    cycle = heart.flutter_cycle(75)
    assert 60 / cycle == pytest.approx(290, abs=20)
    ratios = np.concatenate([rr(record("AFLT", seed=seed, rate=75)) for seed in range(6)]) / cycle
    assert np.abs(ratios - np.rint(ratios)).max() < 0.08
    assert {3, 4, 5} >= set(np.rint(ratios).astype(int)) and len(set(np.rint(ratios))) > 1


def test_first_degree_av_block() -> None:
    def pr(delay: float) -> np.ndarray:
        return np.array([-(-230 + 2 * np.argmax(lead(b, "II")[ms(-330, -80)])) + 100 for b in beats("SR", delay=delay)])

    normal, blocked = pr(0.0), pr(0.1)
    assert np.median(blocked - normal) == pytest.approx(100, abs=12)


@pytest.mark.parametrize("code", ["PVC", "PAC"])
@pytest.mark.parametrize(("pattern", "every"), [("BIGU", 2), ("TRIGU", 3)])
def test_premature_beats_come_early_and_in_pattern(code: str, pattern: str, every: int) -> None:
    timed = heart.rhythm(["SR", code, pattern], 70, np.random.default_rng(3))
    kinds = [kind for _, _, kind in timed]
    early = [i for i, kind in enumerate(kinds) if kind != heart.REGULAR]
    assert {kinds[i] for i in early} == {heart.VENTRICULAR if code == "PVC" else heart.ATRIAL}
    assert set(np.diff(early)) == {every}
    assert all(timed[i][1] < 0.75 * 60 / 70 for i in early)
    assert [rr for _, rr, _ in timed[1:]] == pytest.approx(list(np.diff([t for t, _, _ in timed])))


def test_single_premature_beats() -> None:
    for seed in range(10):
        ecg = record("SR", "PVC", seed=seed)
        intervals = rr(ecg) / np.median(rr(ecg))
        at = int(np.argmin(intervals))
        assert intervals[at] < 0.8
        # Full compensatory pause: the two intervals around the ectopic beat make two normal ones.
        if 0 < at < len(intervals) - 1:
            assert intervals[at] + intervals[at + 1] == pytest.approx(2, abs=0.15)


# ---------------------------------------------------------------- shape


def test_qrs_width() -> None:
    width = {code: np.array([qrs_ms(b) for b in beats("SR", code)]) for code in ("", "CRBBB", "IRBBB", "IVCD")}
    assert 70 < np.median(width[""]) < 100 and width[""].max() < 110
    # Its ST segment slopes at more than a tenth of the speed of so broad a QRS.
    left = np.array([qrs_ms(b, part=0.2) for b in beats("SR", "CLBBB")])
    assert left.min() > 125 and left.max() < 160
    assert width["CRBBB"].min() > 115 and np.median(width["CRBBB"]) > 120
    assert np.median(width[""]) + 5 < np.median(width["IRBBB"]) < 115
    assert 105 < np.median(width["IVCD"]) < 130


def test_bundle_branch_blocks_in_v1_and_v6() -> None:
    for beat in beats("SR", "CLBBB"):
        assert lead(beat, "V1")[ms(-60, 80)].min() < -0.8 and lead(beat, "V1")[ms(-60, 40)].max() < 0.3
        assert lead(beat, "V6")[ms(-60, 80)].max() > 0.4
        assert lead(beat, "V1")[ms(180, 320)].max() > 0.15  # discordant T wave
    for beat in beats("SR", "CRBBB"):
        assert lead(beat, "V1")[ms(20, 90)].max() > 0.3  # R'
        assert lead(beat, "I")[ms(20, 90)].min() < -0.1  # slurred S
        assert lead(beat, "V1")[ms(180, 320)].min() < -0.03


@pytest.mark.parametrize(("code", "low", "high"), [("", 0, 90), ("LAFB", -90, -30), ("LPFB", 90, 160)])
def test_frontal_axis(code: str, low: float, high: float) -> None:
    beat = heart.shape(["SR", code])
    degrees = heart.axis(beat, heart.LEAD_FIELD)
    assert low < degrees < high
    for measured in beats("SR", code, n=6):
        one, avf = (lead(measured, name)[ms(-60, 60)].sum() for name in ("I", "AVF"))
        assert np.degrees(np.arctan2(2 / np.sqrt(3) * avf, one)) == pytest.approx(degrees, abs=45)


def test_hypertrophy_voltage() -> None:
    """Sokolow-Lyon: S in V1 and the higher R of V5, V6 make 3.5 mV."""

    def sokolow(*codes: str) -> np.ndarray:
        found = []
        for strength in (0.75, 1.0, 1.3):
            for b in beats("SR", *codes, strength=strength):
                r = max(lead(b, v)[ms(-60, 60)].max() for v in ("V5", "V6"))
                found.append(r - lead(b, "V1")[ms(-60, 60)].min())
        return np.array(found)

    assert np.mean(sokolow("LVH") > 3.5) > 0.7
    assert np.mean(sokolow() > 3.5) < 0.1


def test_infarction_q_waves() -> None:
    """An inferior infarct leaves a Q of 0.1 mV or more and an inverted T below, an anteroseptal one no r in V2."""
    for beat in beats("SR", "IMI"):
        assert lead(beat, "AVF")[ms(-45, 0)].min() < -0.1
        assert lead(beat, "III")[ms(190, 330)].min() < -0.03
    assert np.median([lead(b, "AVF")[ms(-45, 0)].min() for b in beats("SR")]) > -0.1
    for beat in beats("SR", "ASMI"):
        assert lead(beat, "V2")[ms(-50, 40)].max() < 0.15
    assert np.median([lead(b, "V2")[ms(-50, 40)].max() for b in beats("SR")]) > 0.2
    for beat in beats("SR", "ALMI"):
        assert lead(beat, "V5")[ms(-45, -5)].min() < -0.1 and lead(beat, "I")[ms(190, 330)].min() < 0


def test_st_level() -> None:
    def st(code: str, name: str = "V5") -> np.ndarray:
        return np.array([lead(beat, name)[ms(90, 120)].mean() for beat in beats("SR", code)])

    assert np.median(st("")) > -0.03
    assert st("STD_").max() < -0.04 and np.median(st("STD_")) < -0.1
    assert np.median(st("ISC_")) < -0.08
    assert np.median(st("ISCIN", "AVF")) < -0.08 < np.median(st("ISCIN", "V2"))


def test_repolarisation() -> None:
    def t_wave(code: str, name: str) -> float:
        parts = [lead(beat, name)[ms(170, 360)] for beat in beats("SR", code)]
        return float(np.median([part[np.abs(part).argmax()] for part in parts]))

    assert t_wave("", "V5") > 0.2
    assert t_wave("LOWT", "V5") < 0.35 * t_wave("", "V5")
    assert t_wave("ISCAL", "V6") < -0.08 and t_wave("ISCAS", "V2") < -0.1 and t_wave("ISCIN", "III") < -0.08
    peaks = {code: np.argmax(np.median(beats("SR", code), axis=0)[ms(150, 500), 10]) for code in ("", "LNGQT")}
    assert (peaks["LNGQT"] - peaks[""]) / FS > 0.05


def test_normal_beat_looks_like_ptbxl() -> None:
    """Median amplitudes in mV beside those of normal ECGs in PTB-XL (R or S of the median beat)."""
    typical = np.median(beats("SR", n=20), axis=0)
    for name, r, s in (
        ("I", 0.64, -0.09),
        ("II", 0.82, -0.11),
        ("V1", 0.14, -0.76),
        ("V2", 0.41, -1.04),
        ("V5", 1.33, -0.20),
    ):
        part = lead(typical, name)[ms(-60, 60)]
        assert part.max() == pytest.approx(r, abs=0.3) and part.min() == pytest.approx(s, abs=0.3), name


def test_einthoven_and_goldberger() -> None:
    rng = np.random.default_rng(0)
    ecg = heart.record(heart.shape(["SR"]), ["SR"], heart.LEAD_FIELD, rng, fs=100).astype(int)
    one, two, three, avr, avl, avf = ecg[:, :6].T
    assert np.array_equal(three, two - one)
    for derived, twice in ((avr, -(one + two)), (avl, 2 * one - two), (avf, 2 * two - one)):
        assert np.abs(2 * derived - twice).max() <= 1


def test_rates_show_the_same_beats() -> None:
    """The rate changes how finely a record is sampled, not what the heart does."""
    beat = heart.shape(["SR"])
    low, high = (heart.record(beat, ["SR"], heart.LEAD_FIELD, np.random.default_rng(5), fs=fs) for fs in (100, 500))
    assert low.shape == (1000, 12) and high.shape == (5000, 12) and low.dtype == np.int16
    assert np.corrcoef(low[:, 10], high[::5, 10])[0, 1] > 0.99
