import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from etp_jax.cli import main
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.scores import class_scores
from etp_jax.errors import EtpError
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.results import Result
from etp_jax.evaluation.zero_shot import ZeroShot
from etp_jax.metrics.classification import best_thresholds
from etp_jax.metrics.retrieval import retrieval
from etp_jax.shards.reader import ReportTable, Shards
from etp_jax.tasks import get_task
from etp_jax.training import digest
from tests.helpers import small_run
from tests.helpers.evaluations import measure
from tests.helpers.small_run import COUNTS, small_config, write_run, write_shards

KEYS = {
    "run", "task", "kind", "protocol", "split", "records", "pretrained_on", "checkpoint", "shards", "thresholds_from",
    "revision", "versions", "rows", "summary", "schema",
}  # fmt: skip
ROW = {"encoder", "fraction", "train_seed", "subset_seed"}


@pytest.fixture(scope="module")
def zero_shot(run_dir: Path, shards: Path) -> dict[str, Any]:
    return measure("zero-shot", run_dir, shards, split="test", bootstrap=50)


@pytest.fixture(scope="module")
def probe(run_dir: Path, shards: Path) -> dict[str, Any]:
    return measure("probe", run_dir, shards, split="test", bootstrap=50, seeds=(0, 1), fractions=(0.1, 1.0))


def without_digests(file: Path) -> dict[str, Any]:
    """The fields of a written result but those that detect damage."""
    content = json.loads(file.read_text())
    assert content.keys() >= {"own_sha256", "arrays_sha256"}
    return {name: value for name, value in content.items() if name not in ("own_sha256", "arrays_sha256")}


def test_zero_shot_has_designs_form(zero_shot: dict[str, Any], run_dir: Path):
    assert set(zero_shot) == KEYS
    assert (zero_shot["kind"], zero_shot["task"], zero_shot["split"]) == ("zero-shot", "ptbxl-super", "test")
    assert (zero_shot["run"], zero_shot["pretrained_on"], zero_shot["records"]) == (
        "run",
        "small",
        COUNTS["test"] * 4 // 5,
    )
    assert zero_shot["thresholds_from"] == "validation" and zero_shot["checkpoint"] == {"which": "best", "step": 3}
    encoders = [(row["encoder"], row["fraction"], row["train_seed"], row["subset_seed"]) for row in zero_shot["rows"]]
    assert encoders == [("trained", 0, 7, None), *[("random", 0, seed, None) for seed in (0, 1, 2)]]
    for row in zero_shot["rows"]:
        assert set(row) == ROW | {"macro_auroc", "macro_auprc", "macro_f1", "classes_scored", "per_class"}
        assert list(row["per_class"]) == ["NORM", "MI", "STTC", "CD", "HYP"]
        assert row["classes_scored"] == 3  # no record has STTC or CD
        assert row["per_class"]["STTC"] == {
            "auroc": None, "auprc": None, "f1": None, "auroc_low": None, "auroc_high": None, "positives": 0,
        }  # fmt: skip
    for fractions in zero_shot["summary"].values():
        assert list(fractions) == ["0.0"]
        for value in fractions["0.0"].values():
            assert value["low"] <= value["mean"] <= value["high"]
    file = run_dir / "evaluation" / "ptbxl-super-zero-shot-test.json"
    assert without_digests(file) == zero_shot


def test_zero_shot_scores_the_tasks_records(zero_shot: dict[str, Any], run_dir: Path, shards: Path):
    encoder, task, opened = Encoder.from_run(run_dir), get_task("ptbxl-super"), Shards(shards)
    target, chooser = (TaskRecords(opened, task).of(name) for name in ("test", "validation"))
    scores, chosen = (class_scores(x.encode(encoder)[1], encoder, task) for x in (target, chooser))
    with np.load(run_dir / "evaluation" / "ptbxl-super-zero-shot-test.npz") as saved:
        assert saved["record_id"].tolist() == [f"test-{n}" for n in range(COUNTS["test"]) if n % 5]
        assert saved["classes"].tolist() == ["NORM", "MI", "STTC", "CD", "HYP"]
        np.testing.assert_array_equal(saved["y"], target.y_nC)
        np.testing.assert_array_equal(saved["trained"], scores)
        assert saved["random"].shape == scores.shape and (saved["random"] != scores).any()
    called = scores >= best_thresholds(chosen, chooser.y_nC)
    row = zero_shot["rows"][0]["per_class"]
    for c, code in ((0, "NORM"), (1, "MI"), (4, "HYP")):
        y = target.y_nC[:, c]
        assert row[code]["positives"] == y.sum()
        assert row[code]["auroc"] == pytest.approx(roc_auc_score(y, scores[:, c]), abs=1e-6)
        hits = (called[:, c] & y).sum()
        assert row[code]["f1"] == pytest.approx(2 * hits / (called[:, c].sum() + y.sum()), abs=1e-6)


def test_probe_rows(probe: dict[str, Any], run_dir: Path):
    assert set(probe) == KEYS
    rows = [(row["encoder"], row["fraction"], row["subset_seed"], row["train_records"]) for row in probe["rows"]]
    fitted = COUNTS["train"] * 4 // 5
    share = round(fitted / 10)
    each = [(0.1, 0, share), (0.1, 1, share), (1.0, None, fitted)]
    assert rows == [(encoder, *row) for encoder in ("trained", "random") for row in each]
    assert all(row["converged"] and row["train_classes"] == 3 and row["l2"] > 0 for row in probe["rows"])
    trained = probe["summary"]["trained"]
    mean = np.mean([row["macro_auroc"] for row in probe["rows"][:2]])
    assert trained["0.1"]["macro_auroc"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert trained["1.0"]["macro_auroc"]["mean"] == probe["rows"][2]["macro_auroc"]
    # The signal level of a record depends on its labels, and any encoder detects it.
    assert trained["1.0"]["macro_auroc"]["mean"] > 0.7


def test_probe_of_validation_chooses_elsewhere(run_dir: Path, shards: Path, tmp_path: Path):
    out = tmp_path / "deep" / "probe.json"
    result = measure("probe", run_dir, shards, fractions=(1.0,), bootstrap=5, json=out)
    assert without_digests(out) == result and out.with_suffix(".npz").exists()
    assert result["split"] == "validation" and result["thresholds_from"] == "training patients who were not fitted"
    train = TaskRecords(Shards(shards), get_task("ptbxl-super")).of("train")
    tenth = train.calibration_patients()
    assert 0.03 < tenth.mean() < 0.25
    assert set(train.patients[tenth]).isdisjoint(train.patients[~tenth])
    assert result["rows"][0]["train_records"] == (~tenth).sum()


def test_zero_shot_of_validation_says_where_thresholds_come_from(run_dir: Path, shards: Path):
    result = measure("zero-shot", run_dir, shards, prompts="mets", bootstrap=5)
    assert result["thresholds_from"] == "validation, the other half of its patients"
    assert "mets" in result["protocol"]["prompts"]
    assert (run_dir / "evaluation" / "ptbxl-super-zero-shot-validation-mets.json").exists()


def test_zero_shot_reads_prompts_from_a_file(run_dir: Path, shards: Path, tmp_path: Path, capsys):
    default = measure("zero-shot", run_dir, shards, bootstrap=5)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({c.code: [*c.prompts] for c in get_task("ptbxl-super").classes}))
    mine = measure("zero-shot", run_dir, shards, prompts=str(file), bootstrap=5)
    assert mine["rows"] == default["rows"] and "mine.json, SHA-256" in mine["protocol"]["prompts"]
    [kept] = (run_dir / "evaluation").glob("ptbxl-super-zero-shot-validation-mine-????????.json")
    file.write_text(json.dumps({c.code: f"Let me know about {c.name}" for c in get_task("ptbxl-super").classes}))
    command = ["evaluate", "zero-shot", "--run", str(run_dir), "--shards", str(shards), "--prompts", str(file)]
    main.main([*command, "--bootstrap", "5"])
    assert "mine.json: class NORM: 'Let me know about" in capsys.readouterr().err
    assert json.loads(kept.read_text())["rows"] == mine["rows"]  # not the result for another file of that name


def test_retrieval(run_dir: Path, shards: Path):
    result = measure("retrieval", run_dir, shards, split="test", bootstrap=20)
    encoder, split, table = Encoder.from_run(run_dir), Shards(shards).split("test"), Shards(shards).reports("test")
    paired = table.paired
    assert result["task"] is None and result["records"] == len(paired) == sum(n % 7 != 0 for n in range(COUNTS["test"]))
    texts = encoder.text([split.columns.report[int(i)] for i in paired])
    expected = retrieval(encoder.ecg(split)[1][paired], texts, table.number[paired])
    for name, value in expected.items():
        if name != "recall":
            assert result["rows"][0][name] == pytest.approx(value, abs=1e-6), name
    assert (run_dir / "evaluation" / "retrieval-test.json").exists()
    printed = Result.load(run_dir / "evaluation" / "retrieval-test.json").table()
    assert "retrieval on test" in printed and "random" in printed


def test_evaluation_repeats_exactly(zero_shot: dict[str, Any], run_dir: Path, shards: Path, tmp_path: Path):
    again = measure("zero-shot", run_dir, shards, split="test", bootstrap=50, json=tmp_path / "again.json")
    assert again == zero_shot


def test_printed_table(run_dir: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "table.json"
    command = ["evaluate", "zero-shot", "--run", str(run_dir), "--shards", str(shards), "--split", "test"]
    main.main([*command, "--bootstrap", "50", "--json", str(out)])
    result = json.loads(out.read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("zero-shot ptbxl-super on test: 40 records; pre-trained on small, checkpoint of step 3")
    auroc = result["summary"]["trained"]["0.0"]["macro_auroc"]
    trained = next(line for line in lines if line.startswith("trained"))
    assert f"{auroc['mean']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]" in trained
    head = next(line for line in lines if line.startswith("encoder"))
    assert head.index("macro AUROC") == trained.index(f"{auroc['mean']:.3f}")
    sttc = next(line for line in lines if line.startswith("STTC"))
    assert sttc.split() == ["STTC", "0", "-", "[-,", "-]", "-", "-", "-"]
    assert lines[-1] == f"wrote {tmp_path / 'table.json'}"


def test_bad_input(run_dir: Path, shards: Path, tmp_path: Path):
    def said(match: str, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(EtpError, match=match):
            measure(*args, bootstrap=2, **kwargs)

    said("no task 'ptbxl'", "probe", run_dir, shards, "ptbxl")
    said("no prompt set 'x'", "zero-shot", run_dir, shards, prompts="x")
    said("no split 'fold10'; there are train, validation, test", "probe", run_dir, shards, split="fold10")
    said("fitted on split 'train'; score another", "probe", run_dir, shards, split="train")
    said("no such folder", "probe", run_dir, tmp_path / "none")
    said("no such file", "probe", tmp_path, shards)
    said("has none of the label codes of ptbxl-form", "zero-shot", run_dir, shards, "ptbxl-form")
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "out.json"
    said(
        r"out.json: cannot be written \(.*/file is a file\); name another place",
        "zero-shot",
        run_dir,
        shards,
        json=blocked,
    )
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_does_not_go_together(run_dir: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def said(match: str, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(EtpError, match=match):
            measure(args[0], run_dir, shards, *args[1:], **{"bootstrap": 2, **kwargs})

    said(r"was trained on 192 of the 280 records .* in 'all' of small", "zero-shot", split="all")
    said("mets-super-200 draws its records from all splits; add --split all", "zero-shot", "mets-super-200")
    said("too small to fit probes", "probe", "mets-super", split="test")
    said("cannot use published", "zero-shot", "mets-super", split="test", published=tmp_path)
    said("fitted on split 'train'; score another", "probe", split="all")
    said("reads one split of the shards", "retrieval", split="all")
    said("bootstrap is 0", "retrieval", bootstrap=0)
    said("names one file", "zero-shot", prompts=("default", "contrast"), json=tmp_path / "x.json")
    said("evaluate the request's parts", "zero-shot", prompts=("default", "contrast"))
    said("--prompts is empty", "zero-shot", prompts=())
    said("shares above 0", "knn", fractions=(0.0, 1.0))
    said("probe has no protocol 'mine'", "probe", protocol="mine")
    heads = "ecg_id,NORM,MI,STTC,CD,HYP"
    (tmp_path / "s_test.csv").write_text(f"{heads}\ntest-1,1,0,0,0,0\ntrain-1,0,1,0,0,0\n")
    said("was trained on 1 of the 2 records", "zero-shot", split="test", published=tmp_path)
    faster = write_shards(tmp_path / "faster", fs=500)
    filtered = write_shards(tmp_path / "filtered", preparation={"filters": {"bandpass": None, "notch": 50}})
    for kind in ("finetune", "probe", "retrieval"):
        with pytest.raises(EtpError, match=r"faster: fs is 500, .* was trained with 100"):
            measure(kind, run_dir, faster)
        with pytest.raises(EtpError, match=r"filtered: filters is \{'notch': 50\}, .* was trained with none"):
            measure(kind, run_dir, filtered)
    with pytest.raises(SystemExit):
        main.main(["evaluate", "probe", "--run", str(run_dir), "--shards", str(shards), "--prompts", "contrast"])
    assert "--prompts" in capsys.readouterr().err


def test_what_an_earlier_stage_was_trained_on_counts_too(run_dir: Path, shards: Path, tmp_path: Path):
    run = shutil.copytree(run_dir, tmp_path / "run")
    about = json.loads((run / "shards.json").read_text())
    digest.forget(run)
    earlier = [{"name": "small", "fingerprint": about["fingerprint"]}]
    (run / "shards.json").write_text(json.dumps({**about, "name": "another", "earlier": earlier}))
    with pytest.raises(EtpError, match="was trained on 192 of the 280 records"):
        measure("zero-shot", run, shards, split="all")
    assert measure("zero-shot", run, shards, bootstrap=2)["pretrained_on"] == "small, then another"
    (run / "shards.json").write_text(json.dumps({**about, "fingerprint": "0"}))
    with pytest.raises(EtpError, match=r"was trained on shards of this name, .* 192 of the 280 .* \(--name\)"):
        measure("zero-shot", run, shards, split="all")


def test_a_split_of_one_patient_has_figures_without_intervals(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    make = small_run.make_record
    monkeypatch.setattr(
        small_run, "make_record", lambda split, *args: replace(make(split, *args), patient_id=f"{split}, one")
    )
    shards = write_shards(tmp_path / "shards")
    for kind in ("zero-shot", "retrieval"):
        path = tmp_path / f"{kind}.json"
        result = measure(kind, run_dir, shards, split="test", bootstrap=20, json=path)
        for figure in result["summary"]["trained"]["0.0"].values():
            assert figure["mean"] is not None and figure["low"] is None and figure["high"] is None
        assert "[-, -]" in Result.load(path).table()
    assert not [each for each in recwarn if issubclass(each.category, RuntimeWarning)]


def test_shards_without_reports_have_nothing_to_retrieve(run_dir: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ReportTable, "paired", np.arange(0))
    with pytest.raises(EtpError, match="no record of split 'validation' has a report"):
        measure("retrieval", run_dir, shards)


@pytest.mark.parametrize("kind", ["zero-shot", "retrieval"])
def test_a_missing_text_tower_is_found_before_the_ecgs_are_encoded(
    kind: str, run_dir: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
):
    def text(*_: Any) -> None:
        raise EtpError("no tower")

    monkeypatch.setattr(Encoder, "text", text)
    monkeypatch.setattr(Encoder, "ecg", None)
    with pytest.raises(EtpError, match="no tower"):
        measure(kind, run_dir, shards)


def test_published_split(run_dir: Path, shards: Path, tmp_path: Path):
    """Labels that are the opposite of the records' codes reverse the ranking."""
    target = TaskRecords(Shards(shards), get_task("ptbxl-super")).of("test")
    chosen = [name for name in target.record_ids if int(name.split("-")[1]) % 2]
    y = target.y_nC[np.isin(target.record_ids, chosen)]
    lines = [f"{name},{','.join(str(int(not v)) for v in row)}" for name, row in zip(chosen, y, strict=True)]
    for end in ("val", "test"):
        (tmp_path / f"s_{end}.csv").write_text("\n".join(["ecg_id,NORM,MI,STTC,CD,HYP", *lines]) + "\n")
    result = measure("zero-shot", run_dir, shards, split="test", bootstrap=2, published=tmp_path)
    assert result["records"] == len(chosen)
    assert f"{5 * len(chosen)} labels are not those" in result["protocol"]["records"]
    assert result["rows"][0]["per_class"]["MI"]["positives"] == (~y[:, 1]).sum()
    assert (run_dir / "evaluation" / "ptbxl-super-zero-shot-test-published.json").exists()

    request = ZeroShot(run=run_dir, shards=shards, split="test", published=tmp_path)
    stored = Result.load(request.path)
    assert request.answered_by(stored) and not replace(request, published=None).answered_by(stored)
    (tmp_path / "s_val.csv").write_text("\n".join(["ecg_id,NORM,MI,STTC,CD,HYP", *lines[1:]]) + "\n")
    assert not request.answered_by(stored)


def test_split_without_the_tasks_labels(run_dir: Path, tmp_path: Path):
    foreign = write_shards(tmp_path / "foreign", label_vocabulary=["SR", "ABQRS"])
    with pytest.raises(EtpError, match=r"no record of split 'validation' has a label of ptbxl-form"):
        measure("zero-shot", run_dir, foreign, "ptbxl-form")


def test_trained_tower_with_semantic_pairs_is_evaluated(tmp_path: Path, shards: Path):
    """Semantic pairs need the text tower before training; evaluation does not."""
    config = small_config(shards)
    run = write_run(tmp_path / "run", config)
    text = (run / "config.json").read_text().replace('"pairs": "own"', '"pairs": "semantic"')
    (run / "config.json").write_text(text)
    digest.forget(run)
    assert Encoder.from_run(run).text(["sinus rhythm"]).shape == (1, 8)


def test_a_task_of_ones_own_is_probed_without_prompts(run_dir: Path, shards: Path, tmp_path: Path):
    classes = [{"code": code, "name": code.lower(), "labels": [code]} for code in ("NORM", "IMI", "LVH")]
    file = tmp_path / "my.json"
    file.write_text(json.dumps({"format": 1, "name": "mine", "title": "Mine", "classes": classes}))
    with pytest.raises(
        EtpError, match=r"my\.json: classes NORM, IMI, LVH have no prompt of set 'default'; add prompts"
    ):
        measure("zero-shot", run_dir, shards, task=str(file))
    path = tmp_path / "probe.json"
    result = measure("knn", run_dir, shards, task=str(file), fractions=(1.0,), bootstrap=5, json=path)
    assert result["task"] == "mine" and set(result["rows"][0]["per_class"]) == {"NORM", "IMI", "LVH"}
