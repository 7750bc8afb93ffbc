"""The synthetic archive: what can be measured on its signals is what its labels say, and its files are PTB-XL's."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from scipy.signal import butter, find_peaks, sosfiltfilt

from data_prep.archives import heart, ptbxl
from data_prep.archives.phrases import LANGUAGES, write_report
from data_prep.archives.scp import STATEMENTS
from data_prep.archives.synthetic import LEADS, write_archive
from etp_jax.errors import EtpError

FS = 500
BEFORE, AFTER = int(0.4 * FS), int(0.6 * FS)
"""Samples of a mean beat before and after the R peak."""


def record(*codes: str, seed: int, rate: float = 70.0, delay: float = 0.0, strength: float = 1.0) -> np.ndarray:
    """One patient's ECG at 500 Hz in mV with these findings and everybody's own heart, chest and noise."""
    rng = np.random.default_rng(seed)
    field = heart.body(rng, turn=rng.normal(0, 12))
    beat = heart.individual(heart.shape(codes, strength), rng)
    return heart.record(beat, codes, field, rng, rate=rate, delay=delay, fs=FS) / 1000


def r_peaks(ecg: np.ndarray, fs: int = FS) -> np.ndarray:
    """Samples of the QRS complexes: peaks of the energy between 8 and 22 Hz over all leads."""
    energy = np.square(sosfiltfilt(butter(2, (8, 22), "band", fs=fs, output="sos"), ecg, axis=0)).sum(axis=1)
    energy = np.sqrt(np.convolve(energy, np.ones(int(0.12 * fs)), "same"))
    peaks = find_peaks(energy, height=0.35 * np.percentile(energy, 98), distance=int(0.25 * fs))[0]
    return peaks[(peaks > 0.12 * fs) & (peaks < len(ecg) - 0.12 * fs)]  # what the edge cuts has no middle


def rr(ecg: np.ndarray, fs: int = FS) -> np.ndarray:
    return np.diff(r_peaks(ecg, fs)) / fs


def mean_beat(ecg: np.ndarray) -> np.ndarray:
    """Median beat [T, 12], zero between P and QRS."""
    peaks = [p for p in r_peaks(ecg) if p > BEFORE and p < len(ecg) - AFTER]
    beat = np.median([ecg[p - BEFORE : p + AFTER] for p in peaks], axis=0)
    speed = np.linalg.norm(np.gradient(beat, axis=0), axis=1)
    centre = int(np.average(np.arange(-60, 61), weights=np.square(speed[BEFORE - 60 : BEFORE + 61])))
    beat = np.roll(beat, -centre, axis=0)
    return beat - beat[BEFORE - int(0.08 * FS) : BEFORE - int(0.06 * FS)].mean(axis=0)


def ms(start: float, stop: float) -> slice:
    """Part of a mean beat, in milliseconds from the middle of the QRS."""
    return slice(BEFORE + round(start * FS / 1000), BEFORE + round(stop * FS / 1000))


def lead(beat: np.ndarray, name: str) -> np.ndarray:
    return beat[:, LEADS.index(name)]


def qrs_ms(beat: np.ndarray) -> float:
    """Width of the QRS: from the first to the last time that any lead moves at a tenth of the greatest speed."""
    speed = np.linalg.norm(np.gradient(beat, axis=0), axis=1)[ms(-110, 130)]
    moving = np.flatnonzero(speed > 0.1 * speed.max())
    return (moving[-1] - moving[0]) / FS * 1000


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
    width = {code: np.array([qrs_ms(b) for b in beats("SR", code)]) for code in ("", "CLBBB", "CRBBB", "IRBBB", "IVCD")}
    assert 70 < np.median(width[""]) < 100 and width[""].max() < 110
    assert width["CLBBB"].min() > 130
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


def test_low_voltage_and_paced_beats_of_the_archive(archive: Path) -> None:
    signals = {int(row["ecg_id"]): row for row in rows(archive)}
    low = [i for i, row in signals.items() if "LVOLT" in codes(row) and "PACE" not in codes(row)]
    assert low
    for i in low:
        limb = read(archive, signals[i])[:, :6]
        assert np.median(np.percentile(limb, 99.5, axis=0) - np.percentile(limb, 0.5, axis=0)) < 0.8


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


# ---------------------------------------------------------------- archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "archive"
    write_archive(out, 400, seed=1)
    return out


def rows(archive: Path) -> list[dict[str, str]]:
    with (archive / "ptbxl_database.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def codes(row: dict[str, str]) -> dict[str, float]:
    return ast.literal_eval(row["scp_codes"])


def rdrecord(archive: Path, filename: str, physical: bool = True) -> Any:
    return wfdb.rdrecord(str(archive / filename), physical=physical)


def read(archive: Path, row: dict[str, str]) -> np.ndarray:
    return rdrecord(archive, row["filename_lr"]).p_signal


def test_wfdb_reads_it_back(archive: Path) -> None:
    for row in rows(archive)[:20]:
        record = rdrecord(archive, row["filename_lr"], physical=False)
        assert record.sig_name == list(LEADS) and record.fs == 100 and record.sig_len == 1000
        assert record.fmt == ["16"] * 12 and record.adc_gain == [1000.0] * 12 and record.units == ["mV"] * 12
        assert [s % 65536 for s in record.calc_checksum()] == record.checksum
        assert record.init_value == list(record.d_signal[0])
        assert np.abs(record.d_signal).max() < 10_000


def test_the_ptbxl_reader_accepts_it(archive: Path) -> None:
    found = ptbxl.open_archive(archive, rate=100)
    assert len(found.studies) == 400 and not found.rejects
    assert len(found.label_vocabulary) == 71
    assert {study.split for study in found.studies} == {"train", "validation", "test"}
    study = found.studies[0]
    expected = read(archive, rows(archive)[0])
    np.testing.assert_allclose(study.read().signal, expected * 1000, atol=1e-6)


def test_database_is_like_ptbxl(archive: Path) -> None:
    table = rows(archive)
    assert [int(row["ecg_id"]) for row in table] == list(range(1, 401))
    known = {statement.code: statement for statement in STATEMENTS}
    folds: dict[str, set[str]] = {}
    for row in table:
        folds.setdefault(row["patient_id"], set()).add(row["strat_fold"])
        labels = codes(row)
        assert set(labels) <= set(known) and set(labels.values()) <= {0.0, 15.0, 35.0, 50.0, 80.0, 100.0}
        assert sum(known[code].kinds == "rhythm" and code not in ("BIGU", "TRIGU") for code in labels) == 1
        assert row["report"] and row["sex"] in ("0", "1")
        assert row["age"] == "300.0" or 17 <= float(row["age"]) <= 89
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    assert len(folds) < 380
    assert set(Counter(row["strat_fold"] for row in table)) == {str(fold) for fold in range(1, 11)}
    assert any(row["age"] == "300.0" for row in table)
    assert {likelihood for row in table for likelihood in codes(row).values()} >= {0.0, 50.0, 100.0}


def test_no_class_is_too_rare(archive: Path) -> None:
    table = rows(archive)
    superclass = {s.code: s.diagnostic_class for s in STATEMENTS if s.diagnostic_class}
    counts = Counter(c for row in table for c in {superclass[k] for k in codes(row) if k in superclass})
    assert set(counts) == {"NORM", "MI", "STTC", "CD", "HYP"} and min(counts.values()) > 0.08 * len(table)
    assert 0.3 < counts["NORM"] / len(table) < 0.5


def test_labels_are_in_the_signal(archive: Path) -> None:
    """Rates and irregularity, measured on the stored records, are what the rhythm label says."""
    bounds = {"SR": (57, 100), "SBRAD": (35, 61), "STACH": (98, 150), "SVTAC": (145, 210)}
    checked = Counter()
    for row in rows(archive):
        labels = codes(row)
        if {"PVC", "PAC", "LVOLT"} & set(labels):
            continue
        intervals = rr(read(archive, row), fs=100)
        for code in bounds.keys() & labels.keys():
            low, high = bounds[code]
            assert low < 60 / np.median(intervals) < high, row["ecg_id"]
            checked[code] += 1
        if "AFIB" in labels:
            assert intervals.std() / intervals.mean() > 0.1, row["ecg_id"]
            checked["AFIB"] += 1
    assert min(checked[code] for code in (*bounds, "AFIB")) > 2


def test_scp_statements(archive: Path) -> None:
    with (archive / "scp_statements.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 71
    assert Counter(row["diagnostic_class"] for row in table if row["diagnostic"] == "1.0") == {
        "STTC": 13, "MI": 14, "CD": 11, "HYP": 5, "NORM": 1,
    }  # fmt: skip
    assert len({row["diagnostic_subclass"] for row in table} - {""}) == 23
    assert sum(row["form"] == "1.0" for row in table) == 19
    assert sum(row["rhythm"] == "1.0" for row in table) == 12


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for name, records, seed in (("a", 6, 7), ("b", 6, 7), ("more", 9, 7), ("other", 6, 8)):
        assert write_archive(tmp_path / name, records, seed)
    a, b, more, other = (contents(tmp_path / name) for name in ("a", "b", "more", "other"))
    assert a == b
    signals = [name for name in a if name.endswith((".dat", ".hea"))]
    assert len(signals) == 12 and all(a[name] == more[name] for name in signals)
    assert more["ptbxl_database.csv"].startswith(a["ptbxl_database.csv"])
    assert all(a[name] != other[name] for name in signals)


def test_again_finishes_or_leaves_alone(tmp_path: Path) -> None:
    write_archive(tmp_path / "whole", 4)
    write_archive(tmp_path / "cut", 4)
    whole = contents(tmp_path / "whole")
    (tmp_path / "cut" / "ptbxl_database.csv").unlink()
    (tmp_path / "cut" / "records100" / "00000" / "00003_lr.dat").write_bytes(b"half")
    assert write_archive(tmp_path / "cut", 4)
    assert contents(tmp_path / "cut") == whole
    assert not write_archive(tmp_path / "whole", 4)
    with pytest.raises(EtpError, match="other files"):
        write_archive(tmp_path / "whole", 5)
    assert contents(tmp_path / "whole") == whole


def test_500_hertz(tmp_path: Path) -> None:
    write_archive(tmp_path / "hr", 2, rate=500)
    row = rows(tmp_path / "hr")[1]
    record = rdrecord(tmp_path / "hr", row["filename_hr"])
    assert record.fs == 500 and record.p_signal.shape == (5000, 12)
    assert len(ptbxl.open_archive(tmp_path / "hr", rate=500).studies) == 2


def test_bad_requests(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(EtpError, match="other files"):
        write_archive(tmp_path / "full", 1)
    with pytest.raises(EtpError, match="cannot write"):
        write_archive(tmp_path / "full" / "notes.txt" / "archive", 1)
    with pytest.raises(EtpError, match="100 and 500 Hz"):
        write_archive(tmp_path / "new", 1, rate=250)
    with pytest.raises(EtpError, match="at least one"):
        write_archive(tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- reports


@pytest.mark.parametrize("language", LANGUAGES)
def test_reports_name_every_finding(language: str) -> None:
    rng = np.random.default_rng(0)
    plain = write_report({"SR"}, language, rng)[0]
    for code in ("CLBBB", "CRBBB", "IMI", "ASMI", "LVH", "1AVB", "ISCAL", "NDT", "LNGQT", "LVOLT", "PVC"):
        assert len(write_report({"SR", code}, language, rng)[0]) > len(plain), code


def test_hedged_words_lower_the_likelihood() -> None:
    found: dict[str, set[float]] = {}
    for seed in range(40):
        report, likelihoods, added = write_report({"SR", "LVH"}, "german", np.random.default_rng(seed))
        words = report.removeprefix("sinusrhythmus ")
        found.setdefault(words, set()).add(likelihoods.get("LVH", 100.0))
        assert ("VCLVH" in added) == ("amplitudenkriterien" in words)
    assert found == {
        "linkshypertrophie": {100.0},
        "linkshypertrophie mÖglich": {50.0},
        "mÄssige amplitudenkriterien fÜr linkshypertrophie": {50.0},
    }
