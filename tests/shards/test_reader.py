from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards import reader, tfrecord
from etp_jax.shards.reader import Shards, Split
from etp_jax.shards.record import BUILD_FILE, Record, SplitColumns, decode_record, encode_record
from tests.helpers.shard_samples import SAMPLES, make_record, sample_splits, write_folder
from tests.helpers.unsealed import unsealed

text = st.text(st.characters(codec="utf-8"), max_size=20)
texts = st.lists(text, max_size=4).map(tuple)
records = st.builds(
    Record,
    ecg=hnp.arrays(np.int16, st.tuples(st.integers(1, 5), st.just(12))),
    lead_mask=hnp.arrays(bool, 12),
    record_id=text,
    patient_id=text,
    report=text,
    report_original=text,
    statements=texts,
    labels=texts,
    likelihoods=st.lists(st.floats(width=32), max_size=4).map(tuple),
    age=st.floats(width=32),
    sex=text,
    dataset=text,
    features=texts,
    feature_evidence=texts,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shards", sample_splits())


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Shards(write_folder(tmp_path_factory.mktemp("split") / "shards", sample_splits())).split("train")


def assert_same(found: Record, expected: Record) -> None:
    for field in dataclasses.fields(Record):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("ecg", "lead_mask"):
            np.testing.assert_array_equal(left, right, strict=True)
        else:
            np.testing.assert_equal(left, right)  # NaN equals NaN


@settings(deadline=None, max_examples=50)
@given(records)
def test_record_round_trip(record):
    payload = encode_record(record)
    assert_same(decode_record(memoryview(payload), leads=12), record)
    assert payload.find(record.ecg.tobytes(), len(payload) - record.ecg.nbytes) >= 0  # the signal ends the payload


def test_reads_what_was_written(folder):
    shards = Shards(folder)
    assert (shards.name, shards.fs, shards.samples, shards.leads) == ("sample", 100, SAMPLES, LEADS)
    assert shards.splits == {"train": 10, "test": 3}
    for name, groups in sample_splits().items():
        split = shards.split(name)
        expected = [record for group in groups for record in group]
        assert len(split) == len(expected)
        for found, record in zip(split, expected, strict=True):  # pyright: ignore[reportArgumentType]
            assert_same(found, record)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-10, 9), max_size=12))
def test_signals_by_position(split, positions):
    found = split.ecg(positions)
    assert found.shape == (len(positions), SAMPLES, 12)
    assert found.dtype == np.int16
    for signal, position in zip(found, positions, strict=True):
        np.testing.assert_array_equal(signal, make_record(position % 10).ecg)


def test_signals_into_a_given_array(folder):
    split, out = Shards(folder).split("train"), np.zeros((2, SAMPLES, 12), np.int16)
    assert split.ecg([7, 1], out) is out
    np.testing.assert_array_equal(out, split.ecg([7, 1]))
    with pytest.raises(ValueError, match="need int16"):
        split.ecg([7, 1], np.zeros((2, SAMPLES, 12), np.float32))  # pyright: ignore[reportArgumentType]
    with pytest.raises(IndexError):
        split.ecg([10])


def test_columns_are_the_same_from_shards_and_from_the_index(folder):
    expected = [record for group in sample_splits()["train"] for record in group]
    for source in ("shards", "index"):
        assert (folder / ".index" / "train.arrow").exists() == (source == "index")
        columns = Shards(folder).split("train").columns
        for field in dataclasses.fields(SplitColumns):
            found, values = getattr(columns, field.name), [getattr(record, field.name) for record in expected]
            np.testing.assert_equal([None] * len(expected) if found is None else list(found), values)
        assert columns.lead_mask.dtype == bool
        assert columns.age.dtype == np.float32
        assert all(isinstance(row, tuple) for row in columns.labels)


@pytest.mark.parametrize("damage", ["cut", "empty", "other shards"])
def test_a_useless_index_is_made_again(folder, tmp_path, damage):
    index = folder / ".index" / "test.arrow"
    expected = Shards(folder).split("test").columns
    if damage == "other shards":
        other = write_folder(tmp_path / "other", {"test": [[make_record(n, "other") for n in range(5)]]})
        assert Shards(other).split("test").columns.record_id[0] == "other-0"
        (other / ".index" / "test.arrow").replace(index)
    else:
        index.write_bytes(index.read_bytes()[:200] if damage == "cut" else b"")
    assert Shards(folder).split("test").columns.record_id == expected.record_id
    assert Shards(folder).split("test")[2].record_id == "test-2"


def test_report_table(folder):
    shards = Shards(folder)
    table = shards.reports("train")
    assert table.reports == tuple(sorted({"", "sinus rhythm", "vorhofflimmern – ÄÖÜ ♥"}))
    assert table.number.dtype == np.int32
    assert [table.reports[number] for number in table.number] == shards.split("train").columns.report
    assert table.paired.tolist() == [1, 2, 4, 5, 7, 8]
    assert len(shards.reports("train", "report_original").reports) == 10
    assert shards.reports("train", "report_original").paired.tolist() == list(range(10))


def test_fingerprint_follows_the_data_only(folder, tmp_path):
    same = write_folder(tmp_path / "same", sample_splits())
    splits = sample_splits()
    splits["test"][0][1] = make_record(1, "test", age=3.0)
    other = write_folder(tmp_path / "other", splits)
    assert Shards(folder).fingerprint == Shards(same).fingerprint != Shards(other).fingerprint
    assert len(Shards(folder).fingerprint) == 64


def test_long_metadata_are_read_whole(tmp_path):
    long = make_record(1, report_original="ä" * 50_000)
    shards = Shards(write_folder(tmp_path / "shards", {"train": [[long, make_record(2)]]}))
    assert shards.split("train").columns.report_original == [long.report_original, "original 2"]


def test_unknown_split_names_those_there_are(folder):
    with pytest.raises(EtpError, match="no split 'valid'; there are train, test"):
        Shards(folder).split("valid")


def shard(folder: Path) -> Path:
    return folder / "sample-train.tfrecord-00002-of-00003"


def test_cut_and_missing_shards_are_noticed_on_opening(folder):
    whole = shard(folder).read_bytes()
    shard(folder).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        EtpError, match=rf"{shard(folder)}: holds {len(whole) // 2} bytes, build.json says {len(whole)}"
    ):
        Shards(folder)
    shard(folder).unlink()
    with pytest.raises(EtpError, match=f"{shard(folder)}: missing"):
        Shards(folder)


def test_a_shard_cut_while_open_is_noticed(folder):
    split = Shards(folder).split("train")
    split.ecg([9])
    shard(folder).write_bytes(shard(folder).read_bytes()[:-20])
    with pytest.raises(EtpError, match="ends early"):
        split.ecg([9])
    with pytest.raises(EtpError, match="ends early"):
        split[9]


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_of_a_record_is_noticed_as_it_is_read(folder, place):
    split = Shards(folder).split("train")
    split.ecg([9])  # builds the index, before the damage
    payload, size = split.index.places[9, 1], split.index.places[9, 2]
    content = bytearray(shard(folder).read_bytes())
    content[payload + int(place * size)] ^= 1
    shard(folder).write_bytes(content)
    split = Shards(folder).split("train")
    for read in (split.ecg, lambda rows: split[rows[0]]):
        with pytest.raises(EtpError, match=rf"{shard(folder)}: damaged at the record at byte {payload - 12}: its CRC"):
            read([9])
    rows = [0, 1, 2, 9, 3, 4]
    for every in (0, 2, 4):
        split.ecg(rows, check_every=every)
    with pytest.raises(EtpError, match="its CRC differs"):
        split.ecg(rows, check_every=3)


def test_each_thread_checks_its_records(folder, monkeypatch):
    split, checked = Shards(folder).split("train"), []
    monkeypatch.setattr(reader, "THREAD_BYTES", 1)
    monkeypatch.setattr(Split, "_check", lambda self, position, signal: checked.append(position))
    positions = np.arange(len(split))[::-1]
    split.ecg(positions, threads=3, check_every=4)
    assert sorted(checked) == sorted(positions[::4])


def test_a_shard_replaced_while_open_is_read_to_the_end(folder):
    split = Shards(folder).split("train")
    before = split.ecg(range(len(split)))
    other = shard(folder).with_name("other")
    other.write_bytes(bytes(len(shard(folder).read_bytes())))
    other.replace(shard(folder))
    np.testing.assert_array_equal(split.ecg(range(len(split))), before)
    with pytest.raises(EtpError, match="its CRC differs"):  # whoever opens the folder now
        Shards(folder).split("train").ecg(range(len(split)))


def test_folders_that_are_not_finished_shards(folder, tmp_path):
    with pytest.raises(EtpError, match="no such folder"):
        Shards(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EtpError, match="unfinished or no shard folder"):
        Shards(tmp_path / "empty")
    build = json.loads((folder / BUILD_FILE).read_text())
    (folder / BUILD_FILE).write_text(json.dumps({**build, "format": 99}))
    with pytest.raises(EtpError, match="format 99, this version reads 1"):
        Shards(folder)
    (folder / BUILD_FILE).write_text("{")
    with pytest.raises(EtpError, match="damaged"):
        Shards(folder)
    (folder / BUILD_FILE).unlink()  # what TFDS or somebody else would have written
    with pytest.raises(EtpError, match="not written by `etp prep`"):
        Shards(folder)


def test_other_peoples_tfrecords_under_our_names(folder):
    foreign = tfrecord.frame(tfrecord.encode_example({"image": [b"x" * 3000]}))
    whole = foreign.ljust(shard(folder).stat().st_size, b"\0")
    shard(folder).write_bytes(whole)
    with pytest.raises(EtpError, match="damaged at record 1"):
        _ = Shards(folder).split("train").columns
    build = unsealed(folder / BUILD_FILE)
    entry = build["splits"]["train"]["shards"][2]
    build["splits"]["train"]["records"] += 1 - entry["records"]
    entry |= {"records": 1, "bytes": len(foreign), "sha256": hashlib.sha256(foreign).hexdigest()}
    (folder / BUILD_FILE).write_text(json.dumps(build))
    shard(folder).write_bytes(foreign)
    with pytest.raises(EtpError, match="no record at byte 0"):
        _ = Shards(folder).split("train").columns


def test_age_of_unknown_patients_is_nan(folder):
    assert math.isnan(Shards(folder).split("train")[0].age)


def test_neither_jax_nor_tensorflow_is_imported():
    modules = "etp_jax.shards.check, etp_jax.shards.writer, etp_jax.ecg.prepare, etp_jax.data_prep.build"
    code = f"import sys, {modules}; print([name for name in ('jax', 'tensorflow') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
