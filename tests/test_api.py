"""`etp_jax.load` and what its model does, against what evaluation computes from the shards."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

import etp_jax
from etp_jax import EcgModel
from etp_jax.ecg.leads import LEADS, Recording
from etp_jax.encoder import encoder as encoder_module
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import PRETRAINED
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
        np.testing.assert_allclose(model.encode_ecg(ecg / 1000, fs=100), expected[row], atol=1e-6)
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


def test_messages_name_arguments_of_python(model: EcgModel, run_dir: Path) -> None:
    signal = 1000 * np.random.default_rng(1).normal(size=(SAMPLES, 12))
    with pytest.raises(EtpError, match=r'if the values are uV, give unit="uV"; if they are units of a converter, '):
        model.prepare(signal, fs=100)
    with pytest.raises(EtpError, match=r'^signal 0: .* give unit="uV"'):
        model.encode_ecg([signal], fs=100)
    with pytest.raises(EtpError, match="numbers of channels; name the leads with leads="):
        model.prepare(pd.DataFrame(signal, columns=[f"Lead {n}" for n in range(1, 13)]), fs=100)


def test_zero_shot_ranks_by_cosine(model: EcgModel) -> None:
    findings = ["normal ecg", "inferior myocardial infarction", "hypertrophy"]
    signal = np.random.default_rng(1).normal(size=(SAMPLES, 12))
    scores = model.zero_shot(signal, findings, fs=100)
    cosines = model.encode_text(findings) @ model.encode_ecg(signal, fs=100)
    assert list(scores) == [findings[n] for n in np.argsort(-cosines)]
    np.testing.assert_allclose([scores[finding] for finding in findings], cosines, atol=1e-6)


def test_one_several_and_a_list(shards: Path, model: EcgModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they come in, and however many go through the encoder at once."""
    ecg = Shards(shards).split("test").ecg(range(5)) / 1000
    embeddings, features = model.encode_ecg(ecg, fs=100), model.features(ecg, fs=100)
    assert embeddings.shape == (5, 8) and features.shape == (5, 8)
    for row in (0, 4):
        np.testing.assert_allclose(embeddings[row], model.encode_ecg(ecg[row], fs=100), atol=1e-6)
        np.testing.assert_allclose(features[row], model.features(ecg[row], fs=100), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.encode_ecg([ecg[0].tolist()], fs=100), embeddings[:1], atol=1e-6)
    np.testing.assert_allclose(model.encode_ecg(ecg[0].tolist(), fs=100), embeddings[0], atol=1e-6)  # a list of samples
    long = np.concatenate([ecg[1], ecg[2]])  # its beginning is what counts
    compiled = cast(Any, encoder_module._encode_ecg)
    before = compiled._cache_size()
    for signals in ([ecg[0], long], [ecg[0], long, *ecg[2:]], (ecg[0], long)):
        np.testing.assert_allclose(model.encode_ecg(signals, fs=100), embeddings[: len(signals)], atol=1e-6)
    assert compiled._cache_size() == before
    monkeypatch.setattr(encoder_module, "SIGNALS", 2)
    np.testing.assert_allclose(model.encode_ecg(ecg, fs=100), embeddings, atol=1e-6)
    scores = model.zero_shot(ecg[:2], ["normal ecg", "hypertrophy"], fs=100)
    assert scores[1] == pytest.approx(model.zero_shot(ecg[1], ["normal ecg", "hypertrophy"], fs=100), abs=1e-6)


def test_repr_says_what_it_is(run_dir: Path, model: EcgModel) -> None:
    assert repr(model) == (
        f"EcgModel('{run_dir}', step=3, recipe=None, fs=100, samples=64, leads='{' '.join(LEADS)}', embedding_dim=8)"
    )
    shipped = etp_jax.load("shipped")
    assert repr(shipped).startswith("EcgModel('shipped', step=266, recipe='fgclep_plus', fs=100, samples=1000")
    assert repr(etp_jax.load()) == repr(shipped)


def test_saved_and_loaded(run_dir: Path, tmp_path: Path) -> None:
    # Other tests of this session evaluate the shared run, and a model card names its evaluations.
    own = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation", ".cache"))
    model = etp_jax.load(own)
    signal = np.random.default_rng(2).normal(size=(SAMPLES, 12))
    folder = model.save(tmp_path / "my encoder", dtype="float32")
    saved = etp_jax.load(folder)
    np.testing.assert_array_equal(saved.encode_ecg(signal, fs=100), model.encode_ecg(signal, fs=100))
    (folder / ".cache").mkdir()
    (folder / "evaluation").mkdir()
    copy = saved.save(tmp_path / "copy")
    names = {path.name for path in copy.iterdir()}
    assert names == {path.name for path in folder.iterdir()} - {".cache", "evaluation"}
    assert {"README.md", "LICENSE", "NOTICE", "prompts.safetensors"} <= names
    for name in names:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n") and "\n---\n# my encoder\n" in card
    assert "small (SHA-256" in card and "step 3" in card and "not evaluated" in card and "not a medical device" in card
    assert "Apache License" in (copy / "LICENSE").read_text(encoding="utf-8")
    with pytest.raises(EtpError, match="is the folder to be copied"):
        saved.save(folder)
    with pytest.raises(EtpError, match="holds something other than an exported encoder"):
        saved.save(run_dir)
    with pytest.raises(EtpError, match="an exported encoder is copied unchanged"):
        saved.save(tmp_path / "other", shards=tmp_path)


def test_the_shipped_encoder_is_saved_with_its_card(tmp_path: Path) -> None:
    before = sorted(PRETRAINED.rglob("*"))
    folder = etp_jax.load().save(tmp_path / "out")
    card = (PRETRAINED / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (folder / "README.md").read_text(encoding="utf-8").endswith(f"---\n{card}")
    assert (folder / "encoder.safetensors").read_bytes() == (PRETRAINED / "encoder.safetensors").read_bytes()
    assert (folder / "NOTICE").is_file() and not (folder / "NOTICE").is_symlink()
    assert sorted(PRETRAINED.rglob("*")) == before


def test_mistakes_are_named(run_dir: Path, model: EcgModel, tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"signal has shape \(12, 64\)"):
        model.encode_ecg(np.zeros((12, SAMPLES)), fs=100)
    with pytest.raises(EtpError, match="unit 'kV' is not one of"):
        model.encode_ecg(np.zeros((SAMPLES, 12)), fs=100, unit="kV")
    with pytest.raises(EtpError, match="no usable lead"):
        model.encode_ecg(np.zeros((SAMPLES, 12)), fs=100)
    with pytest.raises(EtpError, match=r"signal 1: signal has shape \(12, 64\)"):
        model.encode_ecg([np.ones((SAMPLES, 12)).cumsum(0) / 10, np.zeros((12, SAMPLES))], fs=100)
    with pytest.raises(EtpError, match="signals is empty"):
        model.features([])
    with pytest.raises(EtpError, match="signal is not numeric"):
        model.encode_ecg("record.csv", fs=100)
    with pytest.raises(EtpError, match="leads is one string, 'II'"):
        model.encode_ecg(np.zeros((SAMPLES, 1)), fs=100, leads="II")
    with pytest.raises(EtpError, match="lead names: 'Z' is no lead that is read; these are I II"):
        model.encode_ecg(np.zeros((SAMPLES, 1)), fs=100, leads=["Z"])
    with pytest.raises(EtpError, match="fs is 0; it must be a positive number of Hz"):
        model.encode_ecg(np.zeros((SAMPLES, 12)), fs=0)
    with pytest.raises(EtpError, match="sentences is 'sinus rhythm'; give a list"):
        model.encode_text("sinus rhythm")
    with pytest.raises(EtpError, match="neither best nor latest"):
        etp_jax.load(run_dir, "first")  # pyright: ignore[reportArgumentType]
    with pytest.raises(EtpError, match="no such file"):
        etp_jax.load(tmp_path)


def test_the_sampling_rate_is_required_and_checked(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(SAMPLES, 12))
    with pytest.raises(EtpError, match="fs is missing; give the sampling rate of the signal in Hz, such as fs=500"):
        model.encode_ecg(ecg)
    for fs in (0, -100, float("nan"), float("inf"), "500", [500], True, 10**400):
        with pytest.raises(EtpError, match="it must be a positive number of Hz"):
            model.encode_ecg(ecg, fs=cast(Any, fs))
    for fs in (0.5, 1e9):
        with pytest.raises(EtpError, match="no ECG is sampled at"):
            model.encode_ecg(ecg, fs=fs)
    with pytest.raises(EtpError, match=r'voltage: the leads span .* give unit="uV"'):
        model.encode_ecg(1000 * ecg, fs=100)


def test_leads_that_are_not_understood_are_errors(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(SAMPLES, 3))
    for leads, message in (
        (["I", "II", "X1"], "lead names: 'X1' is no lead that is read"),
        (["I", "II", "lead I"], "lead names: I appears twice in I II lead I"),
        (["I", "II", 3], "give a list of names"),
        (5, "give a list of names"),
        ([], "give a list of names"),
        (pd.Series([1, 2, 3]), "^leads is .* give a list of names.*$"),
        ("I II III", "leads is one string"),
    ):
        with pytest.raises(EtpError, match=message):
            model.encode_ecg(ecg, fs=100, leads=cast(Any, leads))


def test_the_column_names_of_a_data_frame_are_leads(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(SAMPLES, 12))
    expected = model.encode_ecg(ecg, fs=100)
    back = pd.DataFrame(ecg[:, ::-1], columns=list(LEADS[::-1]))
    np.testing.assert_allclose(model.encode_ecg(back, fs=100), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode_ecg([back, back], fs=100), [expected, expected], atol=1e-6)
    np.testing.assert_allclose(model.encode_ecg(pd.DataFrame(ecg), fs=100), expected, atol=1e-6)
    microvolts = pd.DataFrame(1000 * ecg, columns=[f"{lead} (µV)" for lead in LEADS])
    np.testing.assert_allclose(model.encode_ecg(microvolts, fs=100), expected, atol=1e-6)
    with pytest.raises(EtpError, match=r"leads: I II .* differ from the column names V6 V5"):
        model.encode_ecg(back, fs=100, leads=LEADS)
    with pytest.raises(EtpError, match=r"unit: column I .µV. is in uV, but unit is 'mV'"):
        model.encode_ecg(microvolts, fs=100, unit="mV")
    with pytest.raises(EtpError, match=r"lead names: none of I II .* among a b"):
        model.encode_ecg(pd.DataFrame(ecg[:, :2], columns=["a", "b"]), fs=100)


def test_columns_of_text_beside_the_leads_are_named(model: EcgModel) -> None:
    ecg = pd.DataFrame(np.random.default_rng(0).normal(size=(SAMPLES, 12)), columns=list(LEADS))
    dated = ecg.assign(time=pd.date_range("2020", periods=SAMPLES, freq="10ms"), note="x")
    with pytest.warns(UserWarning, match="column time holds no numbers; left out; column note holds no numbers"):
        np.testing.assert_array_equal(model.encode_ecg(dated, fs=100), model.encode_ecg(ecg, fs=100))


def test_masked_samples_are_missing(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(2, SAMPLES, 12))
    mask = np.zeros_like(ecg, bool)
    mask[:, 20:22] = True
    masked, missing = np.ma.MaskedArray(np.where(mask, 3.0, ecg), mask), np.where(mask, np.nan, ecg)
    with pytest.warns(UserWarning, match="repaired leads I"):
        expected = model.encode_ecg(missing, fs=100)
        np.testing.assert_array_equal(model.encode_ecg(masked, fs=100), expected)
        np.testing.assert_array_equal(model.encode_ecg(masked[0], fs=100), model.encode_ecg(missing[0], fs=100))
    nullable = pd.DataFrame(missing[0], columns=list(LEADS)).convert_dtypes()
    with pytest.warns(UserWarning, match="repaired leads I"):
        np.testing.assert_allclose(model.encode_ecg(nullable, fs=100), expected[0], atol=1e-6)


def test_a_matrix_is_read_like_an_array(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(SAMPLES, 12))
    np.testing.assert_array_equal(model.encode_ecg(np.asmatrix(ecg), fs=100), model.encode_ecg(ecg, fs=100))


class _Refusing:
    """Numbers of another library that do not become an array, such as tensors that require gradients."""

    ndim = 2

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("Can't call numpy() on this\nsecond line")


@pytest.mark.parametrize("signal", [np.ones((SAMPLES, 12)) * 1j, np.ones((SAMPLES, 12), "m8[s]"), _Refusing()])
def test_what_are_no_real_numbers_is_one_line(model: EcgModel, signal: Any) -> None:
    with pytest.raises(EtpError, match=r"^signal is not numeric \(.*\); it must be .time, 12 leads.$"):
        model.encode_ecg(signal, fs=100)


def test_a_recording_has_its_own_rate_and_leads(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(SAMPLES, 12))
    recording = Recording(1000 * ecg[:, ::-1], 100, LEADS[::-1])
    np.testing.assert_allclose(model.encode_ecg(recording), model.encode_ecg(ecg, fs=100), atol=1e-6)
    assert model.encode_ecg([recording, recording]).shape == (2, 8)
    with pytest.raises(EtpError, match="a recording has its own sampling rate"):
        model.encode_ecg(recording, fs=100)


def test_one_warning_names_the_leads_that_are_absent(model: EcgModel) -> None:
    ecg = np.random.default_rng(0).normal(size=(2, SAMPLES, 2))
    with pytest.warns(UserWarning) as caught:
        model.encode_ecg(ecg, fs=100, leads=["I", "II"])
    assert [str(warning.message) for warning in caught] == [
        "derived leads III, aVR, aVL, aVF (2 of 2 ECGs); absent leads V1, V2, V3, V4, V5, V6 (2 of 2 ECGs)"
    ]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_ecg(np.random.default_rng(0).normal(size=(SAMPLES, 12)), fs=100)


def test_a_heart_rate_that_is_impossible_is_a_warning(model: EcgModel) -> None:
    beats = np.tile(np.exp(-(((np.arange(400) - 30) / 6.0) ** 2)), 12)[:, None] * np.ones(12)
    with pytest.warns(UserWarning, match="at 100 Hz the heart rate would be 15/min, which is impossible"):
        model.encode_ecg(beats, fs=100)


def test_import_loads_no_jax() -> None:
    code = "import sys, etp_jax; assert etp_jax.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        etp_jax.lode  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
