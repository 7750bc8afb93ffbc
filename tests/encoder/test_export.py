import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from etp_jax import config as config_module
from etp_jax.api import load
from etp_jax.cli import main
from etp_jax.encoder import calibration
from etp_jax.encoder.calibration import Threshold, load_calibration, platt, threshold
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.export import all_prompts, export
from etp_jax.encoder.folder import CARD_FILE, ENCODER_FILE, load_encoder, load_reference, save_encoder
from etp_jax.encoder.onnx import ONNX_FILE
from etp_jax.encoder.scores import class_directions, class_scores
from etp_jax.errors import EtpError
from etp_jax.predict.predictor import Predictor
from etp_jax.report.run import write_page
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record
from etp_jax.tasks import get_task
from etp_jax.training import digest
from tests.encoder.test_encoder import write_bert
from tests.encoder.test_onnx import run_onnx
from tests.helpers import small_run
from tests.helpers.evaluations import measure
from tests.helpers.small_run import FINDINGS, SAMPLES, small_config, write_run, write_shards


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> tuple[Path, Path]:
    """A run with a frozen text tower, and the folder of the tower."""
    folder = tmp_path_factory.mktemp("frozen")
    tower = write_bert(folder / "tower")
    config = small_config(shards, pretrained=str(tower), frozen=True)
    return write_run(folder / "run", config), tower


def test_an_exported_encoder_does_what_the_run_does(frozen: tuple[Path, Path], shards: Path, tmp_path: Path, capsys):
    run, tower = frozen
    out = tmp_path / "out"
    main.main(["export", "--run", str(run), "--out", str(out), "--dtype", "float32", "--shards", str(shards), "--onnx"])
    assert "as float32" in capsys.readouterr().out
    ours, theirs = Encoder.from_run(run), Encoder.from_run(out)
    split, task = Shards(shards).split("test"), get_task("ptbxl-super", "contrast")
    np.testing.assert_array_equal(ours.ecg(split)[1], theirs.ecg(split)[1])
    graph = onnx.load(out / ONNX_FILE)
    onnx.checker.check_model(graph, full_check=True)
    about = {prop.key: prop.value for prop in graph.metadata_props}
    assert (about["leads"], about["fs"], about["unit"]) == ("I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6", "100", "mV")
    assert all(node.op_type != "BatchNormalization" for node in graph.graph.node)
    masks = split.columns.lead_mask[:9]
    np.testing.assert_allclose(run_onnx(out, split.ecg(range(9)) / 1000, masks)[1], ours.ecg(split)[1][:9], atol=1e-4)
    scores = class_scores(ours.ecg(split)[1], ours, task)
    expected = measure("zero-shot", run, shards, bootstrap=5)["rows"]
    assert measure("zero-shot", out, shards, bootstrap=5)["rows"] == expected
    assert str(shards) not in (out / "config.json").read_text()

    (tower / "flax_model.msgpack").rename(tower / "away")
    try:
        model, ecg = load(out), np.zeros((SAMPLES, 12)) + np.sin(np.arange(SAMPLES))[:, None]
        assert model.encode_ecg(ecg, fs=100, unit="mV").shape == (8,)
        np.testing.assert_allclose(class_scores(ours.ecg(split)[1], model.encoder, task), scores, rtol=1e-6, atol=1e-6)
        from etp_jax.encoder import encoder

        encoder._tower.cache_clear()
        with pytest.raises(EtpError, match="tower"):
            model.zero_shot(ecg, ["a sentence that no task has"], fs=100)
    finally:
        (tower / "away").rename(tower / "flax_model.msgpack")


def tensor_bytes(file: Path) -> int:
    """Size of the tensors, without the header."""
    with file.open("rb") as stream:
        (header,) = struct.unpack("<Q", stream.read(8))
    return file.stat().st_size - 8 - header


def test_equal_encoders_are_equal_files(tmp_path: Path):
    variables = {"params": {"w": np.arange(6.0).reshape(2, 3)}, "batch_stats": {"m": np.ones(4)}}
    contents = set()
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        save_encoder(tmp_path / str(number), variables, 7, "float32")
        contents.add((tmp_path / str(number) / ENCODER_FILE).read_bytes())
    assert len(contents) == 1
    loaded, step = load_encoder(tmp_path / "0")
    assert step == 7 and loaded["params"]["w"].tolist() == variables["params"]["w"].tolist()


def test_bfloat16_is_half_as_large_and_nearly_the_same(frozen: tuple[Path, Path], shards: Path, tmp_path: Path):
    (tmp_path / "float32").mkdir()
    for left_over in (ENCODER_FILE, "calibration.json", ONNX_FILE):
        (tmp_path / "float32" / left_over).write_text("of an earlier export")
    for dtype in ("float32", "bfloat16"):
        main.main(["export", "--run", str(frozen[0]), "--out", str(tmp_path / dtype), "--dtype", dtype])
    sizes = [tensor_bytes(tmp_path / dtype / ENCODER_FILE) for dtype in ("bfloat16", "float32")]
    assert sizes[0] == sizes[1] / 2
    split = Shards(shards).split("test")
    full, half = (Encoder.from_run(tmp_path / dtype).ecg(split)[1] for dtype in ("float32", "bfloat16"))
    cosines = (full * half).sum(axis=1)
    assert cosines.min() > 0.999 and not np.array_equal(full, half)
    assert load_calibration(tmp_path / "float32") is None and not (tmp_path / "float32" / ONNX_FILE).exists()


def test_a_trained_text_tower_stays_behind(run_dir: Path, tmp_path: Path):
    main.main(["export", "--run", str(run_dir), "--out", str(tmp_path / "out")])
    encoder = Encoder.from_run(tmp_path / "out")
    prompts = list(get_task("ptbxl-super").classes[0].prompts)
    np.testing.assert_allclose(encoder.text(prompts), Encoder.from_run(run_dir).text(prompts), atol=1e-6)
    with pytest.raises(EtpError, match="holds no text tower"):
        encoder.text(["something else"])


def test_other_folders_are_not_written_over(run_dir: Path, tmp_path: Path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit):
        main.main(["export", "--run", str(run_dir), "--out", str(tmp_path)])
    assert "holds something other than an exported encoder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main.main(["export", "--run", str(run_dir), "--out", str(tmp_path / "mine.txt" / "out")])
    assert stop.value.code == 2 and "mine.txt/out: cannot be written" in capsys.readouterr().err


def test_an_export_is_not_exported_onto_itself(frozen: tuple[Path, Path], shards: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    main.main(["export", "--run", str(frozen[0]), "--out", str(out), "--shards", str(shards)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EtpError, match="out: is the folder to be exported; name another folder"):
        export(out, Path("out"))
    assert load_calibration(out) is not None
    with pytest.raises(EtpError, match="an exported encoder has a single checkpoint"):
        Encoder.from_run(out, "latest")
    with pytest.raises(EtpError, match="an exported encoder has no training to report"):
        write_page(out, shards)


def test_a_changed_file_is_refused_by_name(frozen: tuple[Path, Path], shards: Path, tmp_path: Path):
    """Each file that decides what is computed, by one bit."""
    out = tmp_path / "out"
    export(frozen[0], out, shards=shards)
    sealed = sorted(json.loads((out / digest.FILE).read_text())["sha256"])
    written = {path.name for path in out.iterdir() if path.suffix in (".json", ".safetensors")}
    assert set(sealed) == written - {digest.FILE} and len(sealed) == 7
    for name in sealed:
        sound = (out / name).read_bytes()
        (out / name).write_bytes(sound[:-9] + bytes([sound[-9] ^ 1]) + sound[-8:])
        with pytest.raises(EtpError, match=f"out: {name} was changed since the folder was written; restore the file"):
            Encoder.from_run(out)
        (out / name).write_bytes(sound)
    (out / CARD_FILE).write_text("# Mine")
    saved = load(out).save(tmp_path / "copy")
    assert digest.damage(saved) == "" and digest.has_digest(saved)
    (saved / ENCODER_FILE).unlink()
    with pytest.raises(EtpError, match=r"copy: encoder\.safetensors is missing since the folder was written"):
        load(saved)


def test_a_second_export_to_a_folder_is_read_anew(frozen: tuple[Path, Path], shards: Path, tmp_path: Path):
    run, out, prompt = frozen[0], tmp_path / "out", next(text for text, whole in all_prompts() if not whole)
    other = write_run(tmp_path / "other", replace(config_module.load(run / "config.json"), seed=8))
    for source in (run, other):
        export(source, out)
        np.testing.assert_allclose(
            Encoder.from_run(out).text([prompt]), Encoder.from_run(source).text([prompt]), atol=1e-6
        )


def test_another_tokenizer_is_refused(frozen: tuple[Path, Path], tmp_path: Path):
    run = shutil.copytree(frozen[0], tmp_path / "run")
    about = json.loads((run / "text.json").read_text())
    digest.forget(run)
    (run / "text.json").write_text(json.dumps(about | {"tokenizer_sha256": "another"}))
    with pytest.raises(EtpError, match="the tokenizer is not that of this run"):
        Encoder.from_run(run).text(["a sentence"])


def test_platt_is_logistic_regression_on_smoothed_targets():
    rng = np.random.default_rng(0)
    y = rng.random(400) < 0.2
    scores = (0.1 * rng.normal(size=400) + 0.15 * y - 0.3).astype(np.float32)
    a, b = platt(scores, y)
    positives, negatives = y.sum(), (~y).sum()
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    target = np.where(y, high, low)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(scores.astype(float), 2)[:, None],
        np.repeat([1, 0], 400),
        np.concatenate([target, 1 - target]),
    )
    np.testing.assert_allclose(
        expit(a * scores.astype(float) + b), reference.predict_proba(scores.astype(float)[:, None])[:, 1], atol=1e-4
    )
    separated = platt(np.where(y, 1.0, 0.0).astype(np.float32), y)
    assert np.isfinite(separated).all() and 0.5 < expit(sum(separated)) < 1


@pytest.mark.parametrize("decimals", [1, 6])
def test_the_threshold_has_the_greatest_f1(decimals: int):
    rng = np.random.default_rng(0)
    y = rng.random(500) < 0.15
    probability = np.round(expit(rng.normal(size=500) + 1.5 * y - 2), decimals)
    precision, recall, limits = precision_recall_curve(y, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    found = threshold(probability, y)
    expected = limits[best], precision[best], recall[best]
    np.testing.assert_allclose((found.probability, found.precision, found.sensitivity), expected)
    assert found.verdict(found.probability - 1e-9) == "below"
    assert Threshold(0.1, 0.3, 0.5).verdict(0.2) == "not decided" and Threshold(0.1, 0.3, 0.5).verdict(0.5) == "above"
    assert Threshold(0.1, 0.5, 0.5).verdict(0.1) == "above"


def test_calibration_covers_the_frequent_classes(frozen: tuple[Path, Path], shards: Path, tmp_path: Path):
    main.main(["export", "--run", str(frozen[0]), "--out", str(tmp_path / "out"), "--shards", str(shards)])
    calibration = load_calibration(tmp_path / "out")
    assert calibration is not None and calibration.prompts == "contrast"
    assert set(calibration.tasks["ptbxl-super"]) == {"NORM", "MI", "HYP"} and len(FINDINGS) == 4
    assert {task: set(fits) for task, fits in calibration.tasks.items()} == {
        task: set(found) for task, found in calibration.thresholds.items()
    }
    reference_RE = load_reference(tmp_path / "out")
    ecg_NE = Encoder.from_run(tmp_path / "out").ecg(Shards(shards).split("validation"))[1]
    assert reference_RE is not None
    np.testing.assert_allclose(np.sort(reference_RE, axis=0), np.sort(ecg_NE, axis=0), atol=1e-3)
    (tmp_path / "out" / "calibration.json").write_text("{")
    with pytest.raises(EtpError, match="export the run again"):
        load_calibration(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["data"]["shards"] == ""


def write_task(file: Path, **fields: object) -> str:
    """A task of one's own on the labels of the small shards."""
    classes = [
        {"code": code, "name": name, "labels": [code], "prompts": {"default": [f"my words for {name}"]}}
        for code, name in FINDINGS.items()
    ]
    file.write_text(json.dumps({"format": 1, "name": "mine", "title": "Mine", "classes": classes} | fields))
    return str(file)


def test_own_tasks_are_exported_with_the_encoder(run_dir: Path, shards: Path, tmp_path: Path):
    file, out = write_task(tmp_path / "my.json"), tmp_path / "out"
    argv = ["export", "--run", str(run_dir), "--out", str(out), "--dtype", "float32", "--shards", str(shards)]
    main.main([*argv, "--task", file])
    calibration = load_calibration(out)
    assert calibration is not None and list(calibration.tasks)[:2] == ["mine", "ptbxl-super"]
    assert set(calibration.tasks["mine"]) == set(FINDINGS)
    assert calibration.digests == {"mine": get_task(file).digest}
    model = load(out)
    by_default, by_name, by_file = Predictor(model), Predictor(model, ["mine"]), Predictor(model, [file])
    assert by_default.classes[:4] == by_name.classes == by_file.classes
    np.testing.assert_array_equal(by_name.directions_CE, by_file.directions_CE)
    expected = class_directions(Encoder.from_run(run_dir), get_task(file, "contrast"))
    np.testing.assert_allclose(by_name.directions_CE, expected, atol=1e-6)

    write_task(tmp_path / "my.json", title="Another title")
    assert Predictor(model, [file]).classes == by_file.classes
    write_task(tmp_path / "my.json", scored=["NORM"])
    with pytest.raises(EtpError, match=r"my\.json: has changed since .*out was exported with it; export the run again"):
        Predictor(model, [file])
    main.main(argv)
    assert not (out / "tasks").exists()
    with pytest.raises(EtpError, match="no task 'mine'"):
        Predictor(load(out), ["mine"])


def test_mistakes_leave_an_earlier_export_as_it_was(
    run_dir: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    export(run_dir, out)
    before = {file: file.read_bytes() for file in out.iterdir()}
    faster = write_shards(tmp_path / "faster", fs=500)
    monkeypatch.setattr(small_run, "COUNTS", {"train": 20, "test": 20})
    alone = write_shards(tmp_path / "alone")
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name, mistake in (("faster: fs is 500", faster), ("alone: no split 'validation'", alone)):
        with pytest.raises(EtpError, match=name):
            export(run_dir, out, shards=mistake)
    with pytest.raises(EtpError, match="needs the package onnx"):
        export(run_dir, out, onnx=True)

    def text(*_: object) -> None:
        raise EtpError("no tower")

    monkeypatch.setattr(Encoder, "text", text)
    with pytest.raises(EtpError, match="no tower"):
        export(run_dir, out)
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_probabilities_are_fitted_on_the_tasks_archive(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make = small_run.make_record

    def of_two_archives(split: str, number: int, *args: Any) -> Record:
        return replace(make(split, number, *args), dataset="one" if number % 2 else "other")

    monkeypatch.setattr(small_run, "make_record", of_two_archives)
    shards = write_shards(tmp_path / "two")
    file = write_task(tmp_path / "one.json", archive="one")
    seen = []
    monkeypatch.setattr(calibration, "platt", lambda scores_N, y_N: seen.append(len(y_N)) or (1.0, 0.0))
    found = calibration.calibrate(Encoder.from_run(run_dir), Shards(shards), "contrast", [file])
    assert next(iter(found.tasks)) == "mine" and seen[0] == 30 and seen[-1] == 60
    assert found.fitted_on == "validation split of small, 60 records, or those that mine may use"


def test_own_tasks_without_probabilities_are_explained_and_shown(run_dir: Path, shards: Path, tmp_path: Path, capsys):
    drawn = write_task(tmp_path / "drawn.json", name="drawn", max_per_class=5)
    argv = ["export", "--run", str(run_dir), "--task", drawn, "--out"]
    main.main([*argv, str(tmp_path / "out"), "--shards", str(shards)])
    assert "none of drawn: it draws a balanced set of records" in capsys.readouterr().out
    predictor = Predictor(load(tmp_path / "out"))
    assert list(predictor.groups)[:2] == ["drawn", "ptbxl-super"]
    main.main([*argv, str(tmp_path / "bare")])
    assert list(Predictor(load(tmp_path / "bare")).groups) == ["drawn", "ptbxl-super"]


def test_own_tasks_that_cannot_be_exported(run_dir: Path, shards: Path, tmp_path: Path):
    classes = [{"code": "X", "name": "x", "labels": ["x"]}]
    bare = write_task(tmp_path / "bare.json", classes=classes)
    other = write_task(tmp_path / "other.json", classes=[classes[0] | {"prompts": {"default": ["x"]}}])
    one, two = write_task(tmp_path / "one.json"), write_task(tmp_path / "two.json")
    for tasks, message in (
        ([bare], r"bare\.json: class X has no prompt of set 'contrast'"),
        ([other], "has none of the label codes of mine"),
        ([one, two], "two tasks are named 'mine'; rename one"),
        ([str(tmp_path / "none.json")], r"none\.json: cannot be read as a task"),
    ):
        with pytest.raises(EtpError, match=message):
            export(run_dir, tmp_path / "out", shards=shards, tasks=tasks)
    assert not (tmp_path / "out").exists()
