"""Tests `etp tasks new`, which drafts a task from the labels of a shard folder."""

from pathlib import Path

import pytest

from etp_jax.cli import main
from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task, vocabulary
from etp_jax.tasks.draft import OWN_WORDS, draft_task, word_labels
from etp_jax.tasks.lint import lint_task, prompt_flaws
from tests.helpers.shard_samples import make_record, write_folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with labels in all splits, in the training split only, or in none."""
    labels = {
        "train": [("NORM",), ("AFIB", "my_finding"), ("my_finding", "AFIB"), ("only_train", "SR")],
        "validation": [("NORM", "my_finding"), ("AFIB",)],
        "test": [("NORM",)],
    }
    splits = {
        split: [[make_record(n, split, labels=own, likelihoods=(-1.0,) * len(own)) for n, own in enumerate(rows)]]
        for split, rows in labels.items()
    }
    vocabulary = ["AFIB", "NORM", "SR", "my_finding", "nowhere", "only_train"]
    return write_folder(tmp_path_factory.mktemp("draft") / "shards", splits, label_vocabulary=vocabulary)


def test_new_task(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "deep" / "my-task.json"
    main.main(["tasks", "new", "--shards", str(labelled), "--out", str(out)])
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split(maxsplit=4) for line in printed.splitlines() if line}
    assert rows["label"] == ["label", "train", "validation", "test", "words from"]
    assert rows["AFIB"] == ["AFIB", "2", "1", "0", "task ptbxl-rhythm"]
    assert rows["NORM"] == ["NORM", "1", "1", "1", "task ptbxl-super"]
    assert rows["my_finding"] == ["my_finding", "2", "1", "0", OWN_WORDS]
    assert "3 of 6 labels are scored; not SR, nowhere, only_train: the training or the validation split" in printed
    task = get_task(str(out))
    assert task.name == "my-task" and [c.code for c in task.classes] == ["AFIB", "NORM", "my_finding"]
    assert [c.code for c in task.unscored] == ["SR", "nowhere", "only_train"]
    assert task.classes[0].prompts == get_task("ptbxl-rhythm").classes[1].prompts
    assert task.classes[2].prompts == ("my finding",) and task.classes[2].name == "my finding"
    assert lint_task(str(out), Shards(labelled).label_vocabulary) == []


def test_what_cannot_be_written(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "my.json"
    out.write_text("mine")
    for argv, message in (
        (["--out", str(out)], "my.json: exists already; name another file, or delete it first"),
        (["--out", str(tmp_path / "my.toml")], "my.toml: the file of a task ends in .json"),
        (["--out", str(tmp_path / "new.json"), "--name", "csn"], "name: 'csn' is the name of a shipped task"),
        (["--out", str(tmp_path / "new.json"), "--name", "a b"], "name: 'a b' must consist of"),
    ):
        with pytest.raises(SystemExit):
            main.main(["tasks", "new", "--shards", str(labelled), *argv])
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["my.json"] and out.read_text() == "mine"


def test_shards_without_usable_labels(tmp_path: Path):
    bare = write_folder(tmp_path / "bare", {"train": [[make_record(0)]]}, label_vocabulary=[])
    with pytest.raises(EtpError, match="bare: its records have no labels"):
        draft_task(Shards(bare), "x")
    one_split = write_folder(tmp_path / "one", {"train": [[make_record(3)]]})
    with pytest.raises(EtpError, match="one: no label has records in both splits 'train' and 'validation'"):
        draft_task(Shards(one_split), "x")


def test_words_of_labels():
    words = word_labels(["AFIB", "164889003", "Sinus_Rhythm", "LAD", "251180001", "my  own", "VCLVH", "PRWP", "___"])
    sources = {label: wording.source for label, wording in words.items()}
    assert sources["AFIB"] == sources["Sinus_Rhythm"] == "task ptbxl-rhythm" and sources["164889003"] == "task cpsc2018"
    assert sources["251180001"] == "vocabulary of Chapman-Shaoxing-Ningbo"
    assert words["my  own"].prompts == ("my own",) and sources["my  own"] == sources["LAD"] == OWN_WORDS
    assert words["Sinus_Rhythm"].name == "sinus rhythm" and words["___"].name == "___"
    # Both codes mean atrial fibrillation: a prompt belongs to one class, unless another would have none.
    assert words["AFIB"].prompts == words["164889003"].prompts


def test_words_of_the_shipped_data_sets_pass_lint():
    for dataset in ("PTB-XL", "CPSC2018", "Chapman-Shaoxing-Ningbo", "MIT-BIH"):
        words = word_labels(vocabulary(dataset))
        assert prompt_flaws([(code, (w.name,), w.prompts) for code, w in words.items()]) == []
        assert OWN_WORDS not in {wording.source for wording in words.values()}
