"""`etp_jax.load` and what its model does, against what evaluation computes from the shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import etp_jax
from etp_jax.api import EcgModel
from etp_jax.ecg.leads import LEADS
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards
from tests.helpers.small_run import SAMPLES


@pytest.fixture(scope="module")
def model(run_dir: Path) -> EcgModel:
    return etp_jax.load(run_dir)


def test_embedding_is_evaluation_s(shards: Path, run_dir: Path, model: EcgModel) -> None:
    """Whatever the unit and the order and names of the leads."""
    split = Shards(shards).split("test")
    expected = Encoder.from_run(run_dir).ecg(split)[1]
    for row in (0, 7):
        ecg = split.ecg(np.array([row]))[0]
        np.testing.assert_allclose(model.encode_ecg(ecg / 1000), expected[row], atol=1e-6)
        order = np.random.default_rng(row).permutation(12)
        names = [f"lead {LEADS[place].lower()}" for place in order]
        np.testing.assert_allclose(
            model.encode_ecg(ecg[:, order], fs=100, leads=names, unit="uV"), expected[row], atol=1e-6
        )


def test_other_rates_lengths_and_few_leads(model: EcgModel) -> None:
    slow = np.sin(np.arange(5 * SAMPLES * 2)[:, None] / 40 + np.arange(12))
    prepared = model.prepare(slow, fs=500)
    assert prepared.ecg.shape == (SAMPLES, 12) and prepared.lead_mask.all() and "cropped" in prepared.verdicts
    np.testing.assert_allclose(prepared.ecg[5:40], 1000 * slow[25:200:5], atol=5)
    one = model.prepare(slow[:, :1], fs=500, leads=["V2"])
    assert [LEADS[place] for place in np.flatnonzero(one.lead_mask)] == ["V2"]
    embedding = model.encode_ecg(slow[:, :1], fs=500, leads=["V2"])
    np.testing.assert_allclose(np.linalg.norm(embedding), 1, rtol=1e-6)
    assert not np.allclose(embedding, model.encode_ecg(slow, fs=500))


def test_zero_shot_ranks_by_cosine(model: EcgModel) -> None:
    findings = ["normal ecg", "inferior myocardial infarction", "hypertrophy"]
    signal = np.random.default_rng(1).normal(size=(SAMPLES, 12))
    scores = model.zero_shot(signal, findings)
    cosines = model.encode_text(findings) @ model.encode_ecg(signal)
    assert list(scores) == [findings[n] for n in np.argsort(-cosines)]
    np.testing.assert_allclose([scores[finding] for finding in findings], cosines, atol=1e-6)


def test_mistakes_are_named(run_dir: Path, model: EcgModel, tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"signal has shape \(12, 64\)"):
        model.encode_ecg(np.zeros((12, SAMPLES)))
    with pytest.raises(EtpError, match="unit 'kV' is not one of"):
        model.encode_ecg(np.zeros((SAMPLES, 12)), unit="kV")
    with pytest.raises(EtpError, match="no usable lead"):
        model.encode_ecg(np.zeros((SAMPLES, 12)))
    with pytest.raises(EtpError, match="neither best nor latest"):
        etp_jax.load(run_dir, "first")
    with pytest.raises(EtpError, match="no such file"):
        etp_jax.load(tmp_path)


def test_import_loads_no_jax() -> None:
    code = "import sys, etp_jax; assert etp_jax.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        etp_jax.lode  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
