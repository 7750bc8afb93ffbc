from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from etp_jax.config import AugmentConfig
from etp_jax.encoder.encoder import Encoder, encode_ecg
from etp_jax.errors import EtpError
from etp_jax.evaluation import merl, tuning
from etp_jax.evaluation.tuning import Tuned
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from tests.helpers import small_run
from tests.helpers.evaluations import measure
from tests.helpers.small_run import small_config, write_run, write_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    write_shards(folder / "shards")
    return write_run(folder / "run", small_config(folder / "shards"))


def test_labels_are_learned_once_for_all_tasks(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "BATCH", 40)
    monkeypatch.setattr(tuning, "AUGMENT", AugmentConfig(lead_dropout=0.05))  # the records are too short to shift
    schedule = replace(tuning.OPTIM, epochs=6.0, learning_rate=1e-2, ema=0.5)
    monkeypatch.setattr(tuning, "OPTIM", schedule)
    before = Encoder.from_run(run).variables
    result = measure("finetune", run, run.parent / "shards", split="test", bootstrap=5)
    rows = [(row["encoder"], row["fraction"], row["train_seed"]) for row in result["rows"]]
    assert rows == [("trained", 1.0, 7), ("supervised", 1.0, 7)] and "4 label codes" in str(result["protocol"])
    for row in result["rows"]:
        assert row["per_class"]["MI"]["auroc"] > 0.8  # it shows in the signal level of a record

    monkeypatch.setattr(tuning, "tune", None)  # cached: nothing is trained again for another split
    measure("finetune", run, run.parent / "shards", split="validation", bootstrap=5)
    after = Encoder.from_run(run).variables
    np.testing.assert_array_equal(
        before["params"]["ecg_tower"]["stem_conv"]["kernel"], after["params"]["ecg_tower"]["stem_conv"]["kernel"]
    )
    with pytest.raises(EtpError, match="finetune is fitted on split 'train'"):
        measure("finetune", run, run.parent / "shards", split="train")

    averaged = measure("finetune", run, run.parent / "shards", split="test", bootstrap=5, views=2)
    assert averaged["protocol"]["features"] == "2 views"
    shards = Shards(run.parent / "shards")
    test, tuned = shards.split("test"), Tuned.of(Encoder.from_run(run), shards, schedule)
    mean_nF = np.zeros(())
    for by in (-0.5, 0.5):  # seconds; the gap is zero
        ecg_nTL, edge = np.zeros_like(test.ecg(np.arange(len(test)))), round(abs(by) * shards.fs)
        kept = (slice(edge, None), slice(None, -edge))
        to, source = kept if by > 0 else kept[::-1]
        ecg_nTL[:, to] = test.ecg(np.arange(len(test)))[:, source]
        features = encode_ecg(tuned.encoder.model, tuned.encoder.variables, ecg_nTL, test.columns.lead_mask)[0]
        mean_nF = mean_nF + np.asarray(features) / 2
    logits_nK = mean_nF @ tuned.kernel_FK + tuned.bias_K
    with (
        np.load(run / "evaluation/ptbxl-super-finetune-test-2-views.npz") as saved,
        np.load(run / "evaluation/ptbxl-super-finetune-test.npz") as plain,
    ):
        place = [c.code for c in get_task("ptbxl-super").classes].index("NORM")
        scored = np.isin(test.columns.record_id, saved["record_id"])
        np.testing.assert_allclose(saved["trained"][:, place], logits_nK[scored, tuned.codes.index("NORM")], atol=1e-4)
        assert np.abs(saved["trained"] - plain["trained"]).max() > 1e-3


def test_a_class_scores_by_any_of_its_codes(monkeypatch: pytest.MonkeyPatch):
    task = get_task("ptbxl-super")
    codes = ("IMI", "AMI", "NORM", "unknown")
    logits = np.array([[1.0, -2.0, 0.5, 9.0], [-40.0, -50.0, 30.0, 0.0]], np.float32)
    tuned = Tuned(None, np.eye(4, dtype=np.float32), np.zeros(4, np.float32), codes)  # pyright: ignore[reportArgumentType]

    class Records:
        def gather(self, _: object) -> list[np.ndarray]:
            return [logits]

    scores = tuned.scores(Records(), task)  # pyright: ignore[reportArgumentType]
    p = 1 / (1 + np.exp(-logits.astype(float)))
    any_mi = 1 - (1 - p[:, 0]) * (1 - p[:, 1])
    place = [c.code for c in task.classes].index
    np.testing.assert_allclose(scores[0, place("MI")], np.log(any_mi[0] / (1 - any_mi[0])), rtol=1e-5)
    np.testing.assert_allclose(scores[:, place("NORM")], logits[:, 2], rtol=1e-4)
    assert np.isfinite(scores).all() and scores[1, place("MI")] < -20


def test_the_whole_network_is_trained_as_published(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merl, "EPOCHS", 3)
    shards, step, sizes = run.parent / "shards", tuning.Training.__call__, []

    def measured(self: tuning.Training, batch: dict[str, np.ndarray]) -> None:
        sizes.append(len(batch["y"]))
        step(self, batch)

    monkeypatch.setattr(tuning.Training, "__call__", measured)
    result = measure("finetune", run, shards, split="test", bootstrap=5, protocol="merl-as-published")
    assert [(row["encoder"], row["fraction"]) for row in result["rows"]] == [("trained", 0.01), ("supervised", 0.01)]
    assert all(row["train_records"] == 2 and 1 <= row["epoch"] <= 3 for row in result["rows"])
    assert sizes == [2] * 6  # short batches are not padded
    assert (run / "evaluation" / "ptbxl-super-finetune-test-merl-as-published.json").exists()


def test_a_tower_without_batch_normalisation_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "BATCH", 40)
    monkeypatch.setattr(tuning, "AUGMENT", AugmentConfig())
    monkeypatch.setattr(tuning, "OPTIM", replace(tuning.OPTIM, epochs=1.0))
    shards = write_shards(tmp_path / "shards")
    config = small_config(shards)
    tower = replace(config.model.ecg, norm="group")
    run = write_run(tmp_path / "run", replace(config, model=replace(config.model, ecg=tower)))
    for _ in range(2):  # the second time from the cache
        rows = measure("finetune", run, shards, split="test", bootstrap=2)["rows"]
        assert [row["encoder"] for row in rows] == ["trained", "supervised"]


def test_views_are_checked(run: Path):
    with pytest.raises(EtpError, match="--views is 0; it must be at least 1"):
        measure("finetune", run, run.parent / "shards", views=0)
    with pytest.raises(EtpError, match="merl-as-published scores each record as it is; omit --views"):
        measure("finetune", run, run.parent / "shards", views=8, protocol="merl-as-published")


def test_a_missing_split_is_refused_before_the_training(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Thresholds of F1 are chosen on validation records."""
    monkeypatch.delitem(small_run.COUNTS, "validation")
    monkeypatch.setattr(tuning, "tune", None)
    shards = write_shards(tmp_path / "shards", name="other")
    with pytest.raises(EtpError, match="no split 'validation'"):
        measure("finetune", run, shards, split="test", bootstrap=5)


def test_every_record_is_scored_by_the_benchmarks_protocol(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "BATCH", 40)
    monkeypatch.setattr(tuning, "AUGMENT", AugmentConfig(lead_dropout=0.05))
    monkeypatch.setattr(tuning, "OPTIM", replace(tuning.OPTIM, epochs=2.0, ema=0.5))
    shards = run.parent / "shards"
    result = measure("finetune", run, shards, split="test", bootstrap=5, protocol="ecg-fm-benchmark")
    assert result["records"] == Shards(shards).splits["test"]
    assert "one network for all 71 statements" in result["protocol"]["differs"]
    with np.load(run / "evaluation/ptbxl-super-finetune-test-ecg-fm-benchmark.npz") as saved:
        y, scores = saved["y"], saved["trained"]
    assert not y.any(axis=1).all()  # records without a label of the task are among them
    aurocs = {c: roc_auc_score(y[:, c], scores[:, c]) for c in range(y.shape[1]) if 0 < y[:, c].sum() < len(y)}
    often = [auroc for c, auroc in aurocs.items() if y[:, c].sum() >= 10]
    row = result["rows"][0]
    assert row["macro_auroc"] == pytest.approx(np.mean(list(aurocs.values())), abs=1e-6)
    assert row["macro_auroc_ten_positives"] == pytest.approx(np.mean(often), abs=1e-6)
    assert row["classes_frequent"] == len(often)
