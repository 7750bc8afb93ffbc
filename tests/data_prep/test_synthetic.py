"""The synthetic archive: its files are PTB-XL's, and its labels are in its signals."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from etp_jax.data_prep.archives import ptbxl
from etp_jax.data_prep.synthetic.archive import LEADS, write_archive
from etp_jax.data_prep.synthetic.phrases import LANGUAGES, write_report
from etp_jax.data_prep.synthetic.scp import STATEMENTS
from etp_jax.errors import EtpError
from tests.helpers.ecg_measures import rr


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


def test_low_voltage(archive: Path) -> None:
    signals = {int(row["ecg_id"]): row for row in rows(archive)}
    low = [i for i, row in signals.items() if "LVOLT" in codes(row) and "PACE" not in codes(row)]
    assert low
    for i in low:
        limb = read(archive, signals[i])[:, :6]
        assert np.median(np.percentile(limb, 99.5, axis=0) - np.percentile(limb, 0.5, axis=0)) < 0.8


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
