"""The benchmark's protocol and its attention head, against scikit-learn and plain sums over tokens."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from etp_jax.cli import main
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation import attention, ecg_fm_benchmark
from etp_jax.evaluation.ecg_fm_benchmark import FREQUENT, with_protocol
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.request import FIELD
from etp_jax.metrics.bootstrap import bootstrap_weights, interval
from etp_jax.metrics.classification import score
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task
from tests.helpers.evaluations import measure


def test_every_record_is_fitted_chosen_on_and_scored(run_dir: Path, shards: Path):
    options = {"split": "test", "fractions": (1.0,), "bootstrap": 20}
    ours, theirs = (measure("probe", run_dir, shards, protocol=protocol, **options) for protocol in ("honest", FIELD))
    everyone = Shards(shards).splits
    assert theirs["records"] == everyone["test"] > ours["records"]
    assert theirs["rows"][0]["train_records"] == everyone["train"] > ours["rows"][0]["train_records"]
    assert f"over {everyone['validation']} records" in theirs["protocol"]["chosen_by"]
    assert theirs["protocol"]["name"] == FIELD and "logistic regression" in theirs["protocol"]["differs"]
    assert "differs" not in ours["protocol"] and FREQUENT not in ours["rows"][0]
    assert (run_dir / f"evaluation/ptbxl-super-probe-test-{FIELD}.json").exists()


def test_the_linear_figure_is_scikit_learns(run_dir: Path, shards: Path):
    result = measure("probe", run_dir, shards, split="test", fractions=(1.0,), bootstrap=20, protocol=FIELD)
    records = TaskRecords(Shards(shards), with_protocol(get_task("ptbxl-super"), FIELD))
    (x, _), (target_x, _) = (records.of(split).encode(Encoder.from_run(run_dir)) for split in ("train", "test"))
    y, target_y = records.of("train").y_nC, records.of("test").y_nC
    mean, std = x.mean(0, np.float64), x.std(0, dtype=np.float64)
    x, target_x = ((part - mean) / np.where(std > 0, std, 1) for part in (x, target_x))
    row = result["rows"][0]
    both = [c for c in range(5) if 0 < y[:, c].sum() < len(y) and 0 < target_y[:, c].sum() < len(target_y)]
    expected = {}
    for c in both:
        fitted = LogisticRegression(C=1 / (row["l2"] * len(y)), tol=1e-8, max_iter=20000, solver="newton-cg")
        expected[c] = roc_auc_score(target_y[:, c], fitted.fit(x, y[:, c]).decision_function(target_x))
    assert row["classes_scored"] == len(both)
    assert row["macro_auroc"] == pytest.approx(np.mean(list(expected.values())), abs=2e-3)
    often = [expected[c] for c in both if target_y[:, c].sum() >= 10]
    assert row["classes_frequent"] == len(often) > 0
    assert row[FREQUENT] == pytest.approx(np.mean(often), abs=2e-3)


def test_classes_that_are_rare_in_all_splits_are_left_out(run_dir: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    """Ten records of all splits are needed, as in the published benchmark; another protocol takes all classes."""
    options = {"split": "test", "fractions": (1.0,), "bootstrap": 5}
    ours, theirs = (measure("probe", run_dir, shards, protocol=protocol, **options) for protocol in ("honest", FIELD))
    assert theirs["protocol"]["left_out"] == "STTC, CD"
    assert "left_out" not in ours["protocol"]
    assert list(theirs["rows"][0]["per_class"]) == ["NORM", "MI", "HYP"]
    assert list(ours["rows"][0]["per_class"]) == ["NORM", "MI", "STTC", "CD", "HYP"]
    monkeypatch.setattr(ecg_fm_benchmark, "MINIMUM", 10**6)
    with pytest.raises(EtpError, match=f"no class of ptbxl-super has 1000000 records, which --protocol {FIELD}"):
        measure("probe", run_dir, shards, protocol=FIELD, **options)


def test_what_the_protocol_does_not_go_with(run_dir: Path, shards: Path, tmp_path: Path):
    with pytest.raises(EtpError, match=f"--protocol {FIELD} scores every record of a split; omit --published"):
        measure("probe", run_dir, shards, protocol=FIELD, published=tmp_path)
    with pytest.raises(EtpError, match="name each once"):
        measure("probe", run_dir, shards, features=("pooled", "pooled"))


def test_the_second_average_leaves_rare_classes_out_of_every_replicate():
    rng = np.random.default_rng(0)
    y = rng.random((120, 3)) < [0.5, 0.2, 0.03]
    scores, weights = rng.normal(size=(120, 3)) + y, bootstrap_weights(np.arange(120).astype(str), 30)
    scored = score(scores, scores > 0, y, weights)
    frequent = scored.positives >= 10
    assert list(frequent) == [True, True, False]
    replicates = scored.macro_over(frequent)[0]
    for number in range(31):
        expected = [roc_auc_score(y[:, c], scores[:, c], sample_weight=weights[:, number]) for c in (0, 1)]
        assert replicates[number] == pytest.approx(np.mean(expected))
    low, high = interval(replicates[1:])
    assert low < replicates[0] < high


def test_the_head_is_attention_over_tokens():
    rng = np.random.default_rng(1)
    tokens, features, heads = rng.normal(size=(5, 7, 32)), 32, 16
    params = attention.initial(rng, features, 3)
    w = {name: leaf.astype(np.float64) for name, leaf in params.items()}
    query, keys, values = w["query"] @ w["mix"], tokens @ w["key"], tokens @ w["value"]
    attended = np.zeros((5, features))
    for h in range(heads):
        own = slice(h * 2, h * 2 + 2)
        fit = keys[..., own] @ query[own] / np.sqrt(2)
        share = np.exp(fit) / np.exp(fit).sum(axis=1, keepdims=True)
        attended[:, own] = (share[..., None] * values[..., own]).sum(axis=1)
    with jax.default_matmul_precision("highest"):
        found = attention.logits_of(params, jnp.asarray(tokens, jnp.float32))
    np.testing.assert_allclose(found, attended @ w["out"], rtol=0, atol=1e-5)


def test_the_head_learns_what_a_mean_cannot_see(monkeypatch: pytest.MonkeyPatch):
    """A record is positive if one step stands out; the mean over time is the same for all records."""
    monkeypatch.setattr(attention, "EPOCHS", 12)
    monkeypatch.setattr(attention, "RATE", 1e-2)
    rng = np.random.default_rng(2)
    tokens = rng.normal(0, 0.2, (400, 10, 16)).astype(np.float16)
    y = rng.random((400, 1)) < 0.4
    tokens[y[:, 0], rng.integers(10, size=y.sum()), :4] += 3
    tokens -= tokens.mean(axis=1, keepdims=True)
    heads = attention.fit(tokens[:300], y[:300])
    logits = heads.logits(tokens[300:])
    assert logits.shape == (12, 100, 1) and heads.details(3) == {"epoch": 4}
    assert roc_auc_score(y[300:, 0], logits[-1, :, 0]) > 0.95
    np.testing.assert_array_equal(attention.fit(tokens[:300], y[:300]).logits(tokens[300:]), logits)


def test_the_attention_head_from_the_command_line(
    run_dir: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(attention, "EPOCHS", 3)
    monkeypatch.chdir(tmp_path)
    before = Encoder.from_run(run_dir).variables
    command = ["evaluate", "probe", "--run", str(run_dir), "--shards", str(shards), "--protocol", FIELD]
    main.main([*command, "--head", "attention", "--fractions", "1.0", "--bootstrap", "10"])
    assert "every record, with or without a label of the task" in capsys.readouterr().out
    content = json.loads((run_dir / f"evaluation/ptbxl-super-probe-validation-{FIELD}-attention.json").read_text())
    assert content["protocol"]["head"] == "attention" and "best of 30 epochs" in content["protocol"]["differs"]
    assert content["records"] == Shards(shards).splits["validation"]
    assert all(1 <= row["epoch"] <= 3 and 0 <= row["macro_auroc"] <= 1 for row in content["rows"])
    jax.tree.map(np.testing.assert_array_equal, before, Encoder.from_run(run_dir).variables)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "attention", "features": ("stages",)}, "--head attention reads the last stage over time"),
        ({"head": "attention", "protocol": "merl-as-published"}, "has its own features"),
        ({"protocol": FIELD, "task": "mets-super"}, "too small to fit probes on"),
    ],
)
def test_options_that_do_not_go_together(run_dir: Path, shards: Path, options: dict, says: str):
    with pytest.raises(EtpError, match=says):
        measure("probe", run_dir, shards, **options)


def test_all_statements_of_the_data_set_are_a_task():
    task = get_task("ptbxl-all")
    assert len(task.classes) == 71 and all(c.codes == {c.code} and not c.prompts for c in task.classes)
    parts = [c for name in ("ptbxl-form", "ptbxl-rhythm") for c in get_task(name).classes]
    assert {c.code for c in parts} < {c.code for c in task.classes}
    assert task.codes >= get_task("ptbxl-sub").codes
