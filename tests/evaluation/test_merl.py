from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from etp_jax.encoder.encoder import Encoder
from etp_jax.evaluation import merl
from etp_jax.evaluation.records import TaskRecords
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from tests.helpers.evaluations import measure


def reference(layer: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """PyTorch's Adam with L2 in the gradient, in double precision; returns weights by epoch, the bias as last row."""
    w = np.vstack([layer["kernel"], layer["bias"]]).astype(np.float64)
    x = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
    first, second, step, found = np.zeros_like(w), np.zeros_like(w), 0, []
    for rows_SB, counts_SB in merl.batches(len(x)):
        for rows, counts in zip(rows_SB, counts_SB, strict=True):
            rows = rows[counts > 0]
            error = 1 / (1 + np.exp(-x[rows] @ w)) - y[rows]
            grad = x[rows].T @ error / error.size + 1e-4 * w
            step += 1
            first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
            size = 1e-3 if step <= 40 else 1e-4
            w = w - size * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        found.append(w)
    return found


def test_one_epoch_of_the_scored_split_is_chosen(run_dir: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    """240 records without 48 make 12 batches per epoch, so the learning rate falls in the fourth epoch."""
    monkeypatch.setattr(merl, "EPOCHS", 5)
    result = measure(
        "probe", run_dir, shards, split="test", fractions=(1.0, 0.1), bootstrap=5, protocol="merl-as-published"
    )
    encoder, records = Encoder.from_run(run_dir), TaskRecords(Shards(shards), get_task("ptbxl-super"))
    train, target = records.of("train"), records.of("test")
    x, target_x = train.encode(encoder)[0], target.encode(encoder)[0]
    both = np.array([0, 1, 4])  # no record has STTC or CD
    ws = reference(merl.initial_layer(x.shape[1], 5), x, train.y_nC)
    aurocs = [roc_auc_score(target.y_nC[:, both], (target_x @ w[:-1] + w[-1])[:, both]) for w in ws]
    row = result["rows"][0]
    assert row["macro_auroc"] == pytest.approx(max(aurocs), abs=2e-3) and row["train_records"] == 192
    assert row["epoch"] in 1 + np.flatnonzero(np.array(aurocs) > max(aurocs) - 2e-3)
    with np.load(run_dir / "evaluation/ptbxl-super-probe-test-merl-as-published.npz") as saved:
        w = ws[row["epoch"] - 1]
        np.testing.assert_allclose(saved["trained"], target_x @ w[:-1] + w[-1], atol=1e-4)
    assert result["protocol"]["name"] == "merl-as-published" and "test, which is scored" in str(result["protocol"])
    assert result["thresholds_from"] == "test, the scored records"


def test_three_classes_are_trained_on_one_anothers_labels():
    task = get_task("ptbxl-sub")
    codes = [c.code for c in task.classes]
    seen = merl.training_labels(task, np.eye(len(codes), dtype=bool))
    moved = {codes[c]: codes[int(np.flatnonzero(seen[:, c])[0])] for c in range(len(codes)) if not seen[c, c]}
    assert moved == {"ISC_": "_AVB", "_AVB": "RAO/RAE", "RAO/RAE": "ISC_"}
    form = np.eye(len(get_task("ptbxl-form").classes), dtype=bool)
    np.testing.assert_array_equal(merl.training_labels(get_task("ptbxl-form"), form), form)
