"""Tests each condition on signals, and the figures under conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly
from sklearn.metrics import roc_auc_score

from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation import Result, conditions, logistic, robustness
from etp_jax.evaluation.probe import best_setting, fitted_and_chooser
from etp_jax.evaluation.records import TaskRecords
from etp_jax.report.results import read_evaluations, results_section
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from tests.helpers.evaluations import measure
from tests.helpers.small_run import write_shards

CONDITIONS = [
    "clean",
    "6 limb leads",
    "leads I and II",
    "lead I",
    "lead II",
    "sampled at 50 Hz",
    "white noise, 20 dB",
    "white noise, 10 dB",
    "baseline wander, 0.5 mV",
    "mains, 0.1 mV",
]


@pytest.fixture(scope="module")
def measured(run_dir: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out") / "robustness.json"
    return measure("robustness", run_dir, shards, bootstrap=40, json=out)


def test_all_conditions_are_measured(measured: dict[str, Any], run_dir: Path, shards: Path, tmp_path: Path):
    [row] = measured["rows"]
    assert list(row["parts"]) == CONDITIONS and measured["protocol"]["parts"] == "condition"
    probe = measure("probe", run_dir, shards, bootstrap=40, fractions=(1.0,), json=tmp_path / "probe.json")
    clean = row["parts"]["clean"]
    figure = probe["summary"]["trained"]["1.0"]["macro_auroc"]
    assert (clean["auroc"], clean["auroc_low"], clean["auroc_high"]) == tuple(figure.values())
    assert clean["difference"] is None and row["macro_auroc"] == clean["auroc"] and row["l2"] == probe["rows"][0]["l2"]
    for part in row["parts"].values():
        assert part["records"] == measured["records"] and part["classes"] == 3 and part["note"] == ""
        assert part["auroc_low"] <= part["auroc"] <= part["auroc_high"]
    for name in CONDITIONS[1:]:
        part = row["parts"][name]
        assert part["difference"] == pytest.approx(part["auroc"] - clean["auroc"], abs=2e-6)
        assert part["difference_low"] <= part["difference"] <= part["difference_high"]


def test_one_lead_is_what_the_probe_makes_of_a_masked_ecg(measured: dict[str, Any], run_dir: Path, shards: Path):
    records = TaskRecords(Shards(shards), get_task("ptbxl-super"))
    encoder, target = Encoder.from_run(run_dir), records.of("validation")
    fitted, chooser = fitted_and_chooser(records, "validation")
    probes = logistic.fit(fitted.encode(encoder)[0], fitted.y_nC)
    best = best_setting(probes.logits(chooser.encode(encoder)[0]), chooser.y_nC)
    ecg, mask = target.read(np.arange(len(target)))
    only = np.array(LEADS) == "II"
    features = encoder.signals(np.where(only, ecg, 0).astype(np.int16), mask & only)[0]
    scores = probes.logits(features)[best]
    expected = np.mean([roc_auc_score(target.y_nC[:, c], scores[:, c]) for c in range(5) if target.y_nC[:, c].any()])
    assert measured["rows"][0]["parts"]["lead II"]["auroc"] == pytest.approx(expected, abs=1e-4)


def test_white_noise_has_the_asked_ratio_in_every_lead():
    rng = np.random.default_rng(0)
    ecg = rng.normal(300, 400, (3, 4000, 12)) * np.arange(12)
    mask = np.ones((3, 12), bool)
    for snr in (20, 10):
        noisy, kept = conditions.add_white(snr, ecg, mask, np.random.default_rng(1))
        noise = (noisy - ecg)[:, :, 1:]
        ratio = 10 * np.log10(ecg[:, :, 1:].var(axis=1) / noise.var(axis=1))
        np.testing.assert_allclose(ratio, snr, atol=0.4)
        assert kept is mask and (noisy[:, :, 0] == 0).all()  # a flat lead stays flat


@pytest.mark.parametrize(("hz", "fs"), [(0.3, 100), (0.3, 500), (50.0, 500)])
def test_sines_have_their_frequency_and_amplitude(hz: float, fs: int):
    ecg, mask = np.zeros((2, 10 * fs, 12)), np.ones((2, 12), bool)
    wave, _ = conditions.add_sine(hz, 0.5, fs, ecg, mask, np.random.default_rng(0))
    middle = slice(fs // 2, -fs // 2)  # the ends of a resampled wave are not exact
    turns = 2 * np.pi * hz * np.arange(10 * fs)[middle, None] / fs
    base = np.concatenate([np.sin(turns), np.cos(turns)], axis=1)
    for lead in wave[:, middle].transpose(0, 2, 1).reshape(24, -1):
        weights, rest, *_ = np.linalg.lstsq(base, lead, rcond=None)
        assert np.hypot(*weights) == pytest.approx(500, rel=0.02) and (rest < 0.02 * (lead**2).sum()).all()
    assert np.ptp(wave[:, fs].ravel()) > 100  # each lead has its own phase


def test_mains_at_the_limit_of_sampling_are_weakened_as_by_a_recorder():
    """At 100 Hz, a sine of 50 Hz is no more than alternating samples, which the anti-aliasing filter halves."""
    ecg, mask = np.zeros((1, 1000, 12)), np.ones((1, 12), bool)
    wave, _ = conditions.add_sine(50.0, 0.1, 100, ecg, mask, np.random.default_rng(0))
    assert 20 < np.abs(wave[0, 100:-100]).max() < 60
    np.testing.assert_allclose(wave[0, 100:899], -wave[0, 101:900], atol=1)


def test_a_lower_rate_is_scipys():
    ecg, mask = np.random.default_rng(0).normal(size=(2, 101, 12)), np.ones((2, 12), bool)
    changed, _ = conditions.reduce_rate(100, ecg, mask, np.random.default_rng(0))
    for before, after in zip(ecg, changed, strict=True):
        back = resample_poly(resample_poly(before, 1, 2, axis=0, padtype="line"), 2, 1, axis=0, padtype="line")
        np.testing.assert_allclose(after, back[:101])
    assert [conditions.coarse(fs) for fs in (500, 250, 100, 50)] == [100, 100, 50, 25]


def test_masked_leads_stay_silent_and_records_without_leads_are_counted(shards: Path):
    records = TaskRecords(Shards(shards), get_task("ptbxl-super")).of("validation")
    seen = []

    class Spy:
        def signals(self, ecg: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, None]:
            seen.append((ecg, mask))
            return np.zeros((len(ecg), 1), np.float32), None

    change: Any = lambda ecg, mask, _: (ecg + 1e6, mask & (np.arange(12) == 3) & (np.arange(len(ecg)) > 1)[:, None])  # noqa: E731
    features, silent = robustness.encode_changed(Spy(), records, change)  # pyright: ignore[reportArgumentType]
    [(ecg, _)] = seen
    assert len(features) == len(records) and silent == 2
    assert ecg.dtype == np.int16 and (ecg[2:, :, 3] == 32767).all() and not ecg[:, :, :3].any() and not ecg[:2].any()


def test_leads_that_the_shards_lack_are_reported(tmp_path: Path):
    shards = Shards(write_shards(tmp_path / "shards", leads=["I", "V1"]))
    changes = conditions.of(shards)
    assert [name for name, change in changes.items() if change is None] == ["6 limb leads", "leads I and II", "lead II"]


def test_command_and_page(run_dir: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "evaluation" / "x.json"
    command = ["evaluate", "robustness", "--run", str(run_dir), "--shards", str(shards), "--bootstrap", "5"]
    main.main([*command, "--json", str(out)])
    printed = capsys.readouterr().out
    assert "condition" in printed and "mains, 0.1 mV" in printed and "robustness ptbxl-super on validation" in printed
    assert Result.load(out).rows[0].parts["lead I"].records == 48
    page = results_section(read_evaluations(out.parent))
    assert "baseline wander, 0.5 mV" in page and "from clean, by the same draws of patients" in page


def test_options_are_checked(run_dir: Path, shards: Path):
    with pytest.raises(EtpError, match="robustness is fitted on split 'train'; score another split"):
        measure("robustness", run_dir, shards, split="all")
