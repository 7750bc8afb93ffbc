from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.cli.main import parse
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards.check import check_shards
from etp_jax.shards.folder import NOTES
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import FORMAT, Record
from etp_jax.shards.writer import shard_name, write_metadata, write_shard
from etp_jax.waveform import restore as module
from etp_jax.waveform.criteria import Criteria
from etp_jax.waveform.features import Check, Feature, Similarities, collect, load_proposals
from etp_jax.waveform.propose import propose
from etp_jax.waveform.restore import restore
from tests.helpers.drawn_ecg import FS, SECONDS, draw
from tests.helpers.unsealed import unsealed

SLOW = Feature("heart rate is below 60 per minute", Check("rate_bpm", high=60), "textbook")
NEAR = Feature("heart rate is below 74 per minute", Check("rate_bpm", high=74), "textbook")
UNSEEN = Feature("P waves are notched in lead II", None, "textbook")
STATEMENTS = ("sinus bradycardia", "left atrial enlargement")


def records(split: str) -> list[Record]:
    """Three at 50 a minute, three at 75, with the same report; one without."""
    about = {"report": ". ".join(STATEMENTS), "statements": STATEMENTS}
    made = [draw(rate=50 if number < 3 else 75, **about) for number in range(6)] + [draw()]
    return [replace(r, record_id=f"{split}-{n}", patient_id=f"{split}-{n}") for n, r in enumerate(made)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "shards"
    folder.mkdir()
    content = {}
    for split in ("train", "validation"):
        some = records(split)
        groups = [some[:4], some[4:]]
        shards = [write_shard(folder / shard_name("drawn", split, n, 2), group) for n, group in enumerate(groups)]
        content[split] = {"records": len(some), "shards": shards}
    build = {"format": FORMAT, "name": "drawn", "fs": FS, "leads": list(LEADS), "samples": FS * SECONDS}
    rest: dict[str, Any] = {"label_vocabulary": [], "preparation": {"version": 1}, "translation": {}, "rejects": {}}
    write_metadata(folder, {**build, **rest, "splits": content})
    (folder / "rejects.csv").write_text("record_id,split,reason\nlost,train,length: 3 samples\n")
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "proposals.json"
    collect({STATEMENTS[0]: [SLOW, NEAR], STATEMENTS[1]: [UNSEEN, SLOW]}, {"source": "test"}).save(path)
    return path


@pytest.fixture(scope="module")
def similarities(source: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that sees every feature in even records, and none in odd ones."""
    path = tmp_path_factory.mktemp("similarities") / "similarities.npz"
    write_similarities(path, source, load_proposals(features).sentences)
    return path


def write_similarities(path: Path, source: Path, sentences: Iterable[str]) -> None:
    ids = [r for name in ("train", "validation") for r in Shards(source).split(name).columns.record_id]
    sees = np.array([[1.0, 0.0] if int(r[-1]) % 2 == 0 else [0.0, 1.0] for r in ids], np.float32)
    sentences = tuple(sentences)
    text = np.tile(np.array([[1.0, 0.0]], np.float32), (len(sentences), 1))
    origin = {"shards": Shards(source).fingerprint}
    Similarities(tuple(ids), sentences, sees, text, np.full(len(sentences), 0.5, np.float32), origin).save(path)


def kept(folder: Path, split: str = "train") -> list[tuple[str, ...]]:
    return list(Shards(folder).split(split).columns.features)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


SLOW_, NEAR_, UNSEEN_ = SLOW.sentence, NEAR.sentence, UNSEEN.sentence


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        # 75 contradicts a rate below 60, and lies within the error of one below 74
        ("both", {0: (SLOW_, NEAR_, UNSEEN_), 1: (SLOW_, NEAR_), 3: (), 4: (NEAR_, UNSEEN_)}),
        ("measurement", {0: (SLOW_, NEAR_), 1: (SLOW_, NEAR_), 3: (), 4: ()}),
        ("model", {0: (SLOW_, NEAR_, UNSEEN_), 1: (), 3: (), 4: (SLOW_, NEAR_, UNSEEN_)}),
        ("none", {0: (SLOW_, NEAR_, UNSEEN_), 3: (SLOW_, NEAR_, UNSEEN_)}),
    ],
)
def test_filters(source, features, similarities, tmp_path, which, expected):
    restore(source, features, tmp_path / "out", similarities, which)
    for split in ("train", "validation"):
        found = kept(tmp_path / "out", split)
        assert {number: found[number] for number in expected} == expected
        assert found[6] == ()  # nothing was said of it


def test_the_shards_are_sound_and_say_what_was_restored(source, features, similarities, tmp_path):
    summary = restore(source, features, tmp_path / "out", similarities)
    assert check_shards(tmp_path / "out").splits == {"train": 7, "validation": 7}
    before, after = Shards(source).split("train"), Shards(tmp_path / "out").split("train")
    first = after[0]
    assert first.report_restored == ". ".join((*STATEMENTS, SLOW_, NEAR_, UNSEEN_))
    assert first.report == before[0].report == ". ".join(STATEMENTS)
    assert first.statements == STATEMENTS and first.report_original == before[0].report_original
    assert first.feature_evidence == ("measured rate_bpm=50", "measured rate_bpm=50", "model 1.000, from 0.500 on")
    for place in range(7):
        np.testing.assert_array_equal(after[place].ecg, before[place].ecg)
    assert after[6].report == before[6].report == after[6].report_restored
    assert after.columns.report_restored is not None and before.columns.report_restored is None
    with pytest.raises(EtpError, match=r"the records have no report_restored; `etp waveform restore` writes shards"):
        Shards(source).reports("train", "report_restored")
    counts = summary.build["verdicts"]
    # a split: 6 records, 3 features; 3 slow ones by the signal, 2 × 2 of 3; 3 contradicted
    assert counts == {
        "features proposed": 36,
        "features confirmed by measurement": 12,
        "features confirmed by model": 8,
        "features contradicted": 6,
        "features rejected": 10,
        "records with features": 8,
    }
    assert "contradicted: 6 (16.7%)" in str(summary)
    assert (tmp_path / "out/rejects.csv").read_text() == (source / "rejects.csv").read_text()


def test_a_second_run_changes_nothing_and_another_one_is_refused(source, features, similarities, tmp_path):
    first = restore(source, features, tmp_path / "out", similarities)
    files = content(tmp_path / "out")
    again = restore(source, features, tmp_path / "out", similarities)
    assert first.seconds and not again.seconds and again.build == first.build and content(tmp_path / "out") == files
    with pytest.raises(EtpError, match="another source or preparation"):
        restore(source, features, tmp_path / "out", None, "measurement")


def test_shards_that_an_earlier_version_restored_are_refused(source, features, tmp_path):
    old = shutil.copytree(source, tmp_path / "old")
    build = unsealed(old / "build.json")
    build["preparation"]["restored"] = {"version": 2}
    (old / "build.json").write_text(json.dumps({name: build[name] for name in build if name != "preparation"}))
    with pytest.raises(EtpError, match=r"build\.json: lacks `preparation`"):
        restore(old, features, tmp_path / "out", None, "measurement")
    (old / "build.json").write_text(json.dumps(build))
    with pytest.raises(EtpError, match="an earlier version restored these reports and kept no plain ones"):
        restore(old, features, tmp_path / "out", None, "measurement")
    with pytest.raises(EtpError, match=r"put restored reports in place of .* with --data\.restored-share 0"):
        Shards(old).both_reports("train")


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(source, features, similarities, tmp_path, monkeypatch):
    restore(source, features, tmp_path / "whole", similarities)
    real, written = module._write, []

    def stop_after_two(job: Any, task: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(task.file)
        real(job, task)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_write", stop_after_two)
        restore(source, features, tmp_path / "out", similarities)
    with pytest.raises(EtpError, match="unfinished"):
        Shards(tmp_path / "out")
    assert (tmp_path / "out" / NOTES).is_dir()
    rest = []
    monkeypatch.setattr(module, "_write", lambda job, task: (rest.append(task.file), real(job, task)))
    restore(source, features, tmp_path / "out", similarities)
    assert len(rest) == 2 and not set(rest) & set(written)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_workers_make_no_difference(source, features, similarities, tmp_path):
    restore(source, features, tmp_path / "one", similarities)
    restore(source, features, tmp_path / "two", similarities, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_what_does_not_fit_is_one_line(source, features, similarities, tmp_path):
    def fails(match: str, *arguments: Any) -> None:
        with pytest.raises(EtpError, match=match) as error:
            restore(*arguments)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()

    out, other = tmp_path / "out", tmp_path / "other.json"
    fails("--filter both needs --similarities", source, features, out)
    fails("no such folder", tmp_path / "none", features, out, similarities)
    fails("`etp waveform propose` writes", source, tmp_path / "none.json", out, similarities)
    fails("`etp waveform score` writes", source, features, out, tmp_path / "none.npz")
    collect({"another statement": [SLOW]}, {}).save(other)
    fails("contains no statement", source, other, out, None, "measurement")
    collect({STATEMENTS[0]: [Feature("R is tall in V5", None, "")]}, {}).save(other)
    fails("has no 'R is tall in V5'", source, other, out, similarities)
    for damage in ("{", "[]", '{"format": 9}', json.dumps({"format": 1, "features": 3})):
        other.write_text(damage)
        fails(r"other\.json: (damaged|format)", source, other, out, similarities)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(similarities.read_bytes()[:300])
    fails("cut.npz: ", source, features, out, cut)


@pytest.mark.parametrize("rest", [b"a,tr\xe4in,b\n", b'"a,train,b', b"a,train\n"])
def test_a_damaged_list_of_rejects_is_one_line(source, features, tmp_path, rest):
    folder = Path(shutil.copytree(source, tmp_path / "shards"))
    (folder / "rejects.csv").write_bytes(b"record_id,split,reason\n" + rest)
    with pytest.raises(EtpError, match=r"rejects.csv: cannot be read .* copy or prepare the shards again$"):
        restore(folder, features, tmp_path / "out", which="none")
    write_metadata(folder, unsealed(folder / "build.json"))
    (folder / "rejects.csv").write_text("record_id,split,reason\nfound,train,length: 3 samples\n")
    with pytest.raises(EtpError, match=r"rejects.csv: was changed since the folder was written; copy or prepare"):
        restore(folder, features, tmp_path / "out", which="none")


def test_similarities_of_other_shards_are_refused(source, features, similarities, tmp_path):
    with np.load(similarities) as arrays:
        few = {**arrays, "record_ids": arrays["record_ids"][1:], "ecg": arrays["ecg"][1:]}
    np.savez(tmp_path / "few.npz", **few)
    with pytest.raises(EtpError, match="record train-0: has no similarities"):
        restore(source, features, tmp_path / "out", tmp_path / "few.npz")
    with np.load(similarities) as arrays:
        np.savez(tmp_path / "others.npz", **{**arrays, "origin": np.array(json.dumps({"shards": "5eed"}))})
    with pytest.raises(EtpError, match="the similarities are of other shards"):
        restore(source, features, tmp_path / "out", tmp_path / "others.npz")


def test_criteria_propose_for_all_statements_of_all_splits(source, tmp_path):
    summary = propose(Shards(source), Criteria(), tmp_path / "proposals.json")
    assert summary.coverage == (1.0, 1.0) and "100.00% of 12" in str(summary)
    proposals = load_proposals(tmp_path / "proposals.json")
    assert proposals == summary.proposals and set(proposals.statements) == set(STATEMENTS)
    assert SLOW_ in [proposals.features[place].sentence for place in proposals.of(STATEMENTS)]
    with pytest.raises(EtpError, match="name another place"):
        propose(Shards(source), Criteria(), tmp_path / "proposals.json" / "proposals.json")


def test_proposals_may_be_named_as_in_version_0_1():
    options = ["--shards", "shards", "--out", "fine"]
    assert parse(["restore", "--features", "p.json", *options]) == parse(
        ["waveform", "restore", "--proposals", "p.json", *options]
    )
