import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.zero_shot import ZeroShot, evaluate
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import ALL, FORMAT
from etp_jax.shards.writer import shard_name, write_metadata, write_shard
from etp_jax.tasks import Task, get_task
from etp_jax.tasks.published import PublishedSplit
from tests.helpers.small_run import SAMPLES, make_record

CODES = ("NORM", "IMI", "NDT", "LAFB", "LVH")
"""One label code of each class of `mets-super`."""
COUNTS = {"train": 100, "validation": 40, "test": 60}


def write_single(folder: Path, parts: int = 1) -> Shards:
    """Every third record has two classes, the others one; LVH is the rarest class."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    content = {}
    for split, count in COUNTS.items():
        records = []
        for number in range(count):
            first = CODES[rng.choice(5, p=[0.3, 0.25, 0.2, 0.15, 0.1])]
            second = CODES[(CODES.index(first) + 1) % 5]
            labels = (first, second, "SR") if number % 3 == 0 else (first, "SR")
            record = make_record(split, number, rng, (SAMPLES, len(LEADS)))
            records.append(dataclasses.replace(record, labels=labels, likelihoods=(0.0,) * len(labels)))
        shards = [
            write_shard(folder / shard_name("single", split, part, parts), records[part::parts])
            for part in range(parts)
        ]
        content[split] = {"records": count, "shards": shards}
    metadata = {"format": FORMAT, "name": "single", "fs": 100, "leads": list(LEADS), "samples": SAMPLES}
    write_metadata(folder, {**metadata, "label_vocabulary": [*CODES, "SR"], "splits": content})
    return Shards(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_single(tmp_path_factory.mktemp("data") / "shards")


def fake_encoder(seed: int = 0) -> Any:
    """Random ECG embeddings near that of the first label; a prompt has the embedding of its class."""
    axes = np.eye(8, dtype=np.float32)
    place = {p: n for n, c in enumerate(get_task("mets-super").classes) for p in c.prompts}

    def ecg(split: Any) -> tuple[np.ndarray, np.ndarray]:
        first = [CODES.index(labels[0]) for labels in split.columns.labels]
        noise = np.random.default_rng(seed).normal(0, 0.7, (len(first), 8))
        return axes[first], (axes[first] + noise).astype(np.float32)

    return SimpleNamespace(ecg=ecg, text=lambda texts, whole: axes[[place[t] for t in texts]], train_seed=seed)


def test_balanced_records_have_a_single_label_and_are_as_many_of_each_class(shards: Shards):
    columns = shards.split("test").columns
    found = TaskRecords(shards, get_task("mets-super")).of("test")
    single = Counter(labels[0] for labels in columns.labels if len(labels) == 2)
    assert found.y_nC.sum(axis=0).tolist() == [min(single.values())] * 5 and (found.y_nC.sum(axis=1) == 1).all()
    assert found.record_ids.tolist() == [columns.record_id[row] for row in found.rows]
    assert found.patients.tolist() == [columns.patient_id[row] for row in found.rows]
    for row, y in zip(found.rows, found.y_nC, strict=True):
        assert columns.labels[row] == (CODES[int(y.argmax())], "SR")


def test_draw_is_the_same_however_shards_are_cut(shards: Shards, tmp_path: Path):
    task = get_task("mets-super")
    cut = TaskRecords(write_single(tmp_path / "cut", parts=3), task).of("test")
    assert set(cut.record_ids) == set(TaskRecords(shards, task).of("test").record_ids)
    assert (np.diff(cut.rows) > 0).all()


def test_most_limits_a_class_and_all_splits_are_one_pool(shards: Shards):
    task = dataclasses.replace(get_task("mets-super-200"), max_per_class=3)
    assert TaskRecords(shards, task).of(ALL).y_nC.sum(axis=0).tolist() == [3] * 5
    everything = TaskRecords(shards, get_task("mets-super-200")).of(ALL)
    assert {name.split("-")[0] for name in everything.record_ids} == set(COUNTS)
    assert len(everything) > 5 * 3
    assert TaskRecords(shards, task).protocol(ALL)["records"].endswith("from all splits: n = 3")


def test_a_class_without_single_labels_is_told(shards: Shards):
    with pytest.raises(EtpError, match=r"no record of split 'test' has AFIB as its only label; mets-rhythm needs"):
        TaskRecords(shards, get_task("mets-rhythm")).of("test")


def test_a_task_of_another_archive_is_told(shards: Shards):
    task = dataclasses.replace(get_task("ptbxl-super"), name="t", archive="georgia")
    with pytest.raises(EtpError, match=r"has a label of t and is of data set 'georgia'"):
        TaskRecords(shards, task).of("test")


def test_embeddings_are_those_of_the_rows(shards: Shards):
    records = TaskRecords(shards, get_task("ptbxl-super")).of(ALL)
    features, embeddings = records.encode(fake_encoder())
    parts = [fake_encoder().ecg(shards.split(name))[1] for name in COUNTS]
    np.testing.assert_array_equal(embeddings, np.concatenate(parts)[records.rows])
    assert len(features) == len(records) == sum(COUNTS.values())


def published(task: Task, records: dict[str, str]) -> dict[str, PublishedSplit]:
    codes = [c.code for c in task.classes]
    y = np.array([[code == own for code in codes] for own in records.values()])
    return {"test": PublishedSplit(tuple(records), y)}


def test_published_records_and_labels_are_taken_from_any_split(shards: Shards):
    task = get_task("ptbxl-super")
    given = published(task, {"test-4": "HYP", "none": "CD", "train-7": "CD", "validation-1": "NORM"})
    records = TaskRecords(shards, task, given)
    found = records.of("test")
    assert dict(zip(found.record_ids, found.y_nC.argmax(axis=1), strict=True)) == {
        "train-7": 3, "validation-1": 0, "test-4": 4,
    }  # fmt: skip
    own = [set(shards.split(name.split("-")[0])[int(name.split("-")[1])].labels) for name in found.record_ids]
    truth = np.array([[not c.codes.isdisjoint(labels) for c in task.classes] for labels in own])
    other = (truth != found.y_nC).sum()
    assert records.protocol("test")["records"] == (
        "published split, 3 of its 4 records are in the shards; "
        f"{other} labels are not those that the records' codes give"
    )
    with pytest.raises(EtpError, match="no published split 'train'; there are test"):
        records.of("train")
    with pytest.raises(EtpError, match=r"holds none of the 1 published records of split 'test', such as A0001"):
        TaskRecords(shards, task, published(task, {"A0001": "CD"})).of("test")


def test_zero_shot_of_a_balanced_task_calls_the_nearest_class(shards: Shards):
    records = TaskRecords(shards, get_task("mets-super"))
    request = ZeroShot(run=Path(), shards=shards.folder, task="mets-super", split="test", bootstrap=30)
    outcome = evaluate(request, [("trained", fake_encoder())], shards)
    target, scores = records.of("test"), outcome.arrays["trained"]
    right = (scores.argmax(axis=1) == target.y_nC.argmax(axis=1)).mean()
    row = outcome.rows[0].to_dict()
    assert row["top1_accuracy"] == row["macro_recall"] == pytest.approx(right, abs=1e-6) and 0.2 < right < 1
    assert row["binary_accuracy"] == pytest.approx(1 - 2 * (1 - right) / 5, abs=1e-6)
    assert {"macro_auroc", "macro_f1", "macro_precision"} <= set(row)
    assert outcome.thresholds_from is None and outcome.records == 5 * target.y_nC[:, 0].sum()


def test_all_splits_take_thresholds_from_the_other_half(shards: Shards):
    request = ZeroShot(run=Path(), shards=shards.folder, split=ALL, bootstrap=2)
    outcome = evaluate(request, [("trained", fake_encoder())], shards)
    assert outcome.thresholds_from == "all, the other half of its patients"
    assert "top1_accuracy" not in outcome.rows[0].to_dict()
