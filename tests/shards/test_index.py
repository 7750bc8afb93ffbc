"""Tests of the kept index: equality with what was written, damage, other shards, read-only folders, many processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from etp_jax.errors import EtpError
from etp_jax.shards import reader, sealed
from etp_jax.shards.check import check_shards
from etp_jax.shards.lockstep import NotARecord, decode_block
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import RESTORED_FORMAT, Record, SplitColumns, decode_metadata, encode_record
from tests.helpers.shard_samples import SAMPLES, make_record, sample_splits, write_folder

text = st.text(st.characters(codec="utf-8"), max_size=200)
texts = st.lists(text, max_size=4).map(tuple)
records = st.builds(
    Record,
    ecg=hnp.arrays(np.int16, (3, 12)),
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
SIGNAL = 3 * 12 * 2


def with_restored(record: Record) -> Record:
    return dataclasses.replace(record, report_restored=f"{record.report} {record.report_original}".strip())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shards", sample_splits())


@pytest.fixture(params=["read", "mapped"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are read and large ones mapped: both ways, for small files."""
    monkeypatch.setattr(sealed, "LEAST_MAPPED", 0 if request.param == "mapped" else 2**40)


def assert_columns(columns: SplitColumns, expected: list[Record]) -> None:
    for field in dataclasses.fields(SplitColumns):
        found, values = getattr(columns, field.name), [getattr(record, field.name) for record in expected]
        np.testing.assert_equal([None] * len(expected) if found is None else list(found), values)


@settings(deadline=None, max_examples=30)
@given(st.lists(records, max_size=4), st.booleans())
def test_a_block_equals_one_record_after_the_other(some, restored):
    some = [with_restored(record) for record in some] if restored else some
    payloads = [encode_record(record) for record in some]
    block = decode_block([payload[:-SIGNAL] for payload in payloads], 12, SIGNAL, restored)
    expected = [decode_metadata(memoryview(payload)) for payload in payloads]
    for name, values in block.texts.items():
        rows = [row[name] for row in expected]
        assert values.to_pylist() == ([text for row in rows for text in row] if name in block.counts else rows)
    for name, counts in block.counts.items():
        assert counts.tolist() == [len(row[name]) for row in expected]
    np.testing.assert_array_equal(block.likelihoods, [value for row in expected for value in row["likelihoods"]])
    np.testing.assert_array_equal(block.age, np.array([row["age"] for row in expected], np.float32))
    np.testing.assert_array_equal(block.lead_mask, np.array([row["lead_mask"] for row in expected]).reshape(-1, 12))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_changed_record_is_read_alike_or_refused(data):
    """No change of bytes crashes; what is accepted is what the reader of single records finds."""
    payloads = [encode_record(make_record(number)) for number in range(3)]
    size = SAMPLES * 24
    row = data.draw(st.integers(0, 2))
    broken = bytearray(payloads[row])
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - size - 1))] = data.draw(st.integers(0, 255))
    heads = [payload[:-size] for payload in (*payloads[:row], bytes(broken), *payloads[row + 1 :])]
    try:
        block = decode_block(heads, 12, size)
    except NotARecord as error:
        assert error.row == row
    else:
        expected = decode_metadata(memoryview(broken))
        assert block.texts["report"][row].as_py() == expected["report"]
        np.testing.assert_array_equal(block.lead_mask[row], expected["lead_mask"])


def test_a_feature_of_another_length_is_refused():
    payloads = [bytearray(encode_record(make_record(number))) for number in range(3)]
    at = payloads[1].index(b"\x06labels") - 2  # the length of the feature that follows it
    payloads[1][at] -= 1
    with pytest.raises(NotARecord, match="labels: a feature of another length"):
        decode_block([bytes(payload[: -SAMPLES * 24]) for payload in payloads], 12, SAMPLES * 24)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.lists(records, max_size=3), min_size=1, max_size=3), st.booleans())
def test_index_holds_what_was_written(tmp_path_factory, groups, restored):
    folder = tmp_path_factory.mktemp("index") / "shards"
    if restored:
        groups = [[with_restored(record) for record in group] for group in groups]
    write_folder(folder, {"train": groups}, samples=3, **({"format": RESTORED_FORMAT} if restored else {}))
    expected = [record for group in groups for record in group]
    for _ in range(2):
        split = Shards(folder).split("train")
        assert_columns(split.columns, expected)
        table = Shards(folder).reports("train")
        assert list(table.reports) == sorted({record.report for record in expected})
        assert [table.reports[number] for number in table.number] == [record.report for record in expected]
        assert list(table.paired) == [row for row, record in enumerate(expected) if record.report]
        for row, record in enumerate(expected):
            np.testing.assert_array_equal(split.ecg([row])[0], record.ecg)
        if restored:
            both = Shards(folder).both_reports("train")
            texts = {text for record in expected for text in (record.report, record.report_restored or "")}
            assert list(both.reports) == sorted(texts) and both.plain is not None
            for record, number, plain in zip(expected, both.number, both.plain, strict=True):
                assert (both.reports[number], both.reports[plain]) == (record.report_restored, record.report)


def test_every_damage_of_the_index_is_noticed(folder, kept):
    expected = [record for group in sample_splits()["train"] for record in group]
    _ = Shards(folder).split("train").columns
    path = folder / ".index" / "train.arrow"
    whole = path.read_bytes()
    draw = random.Random(0)
    damaged = [whole[:cut] for cut in (0, 7, len(whole) // 2, len(whole) - 1)] + [whole + b"x", b"x" * len(whole)]
    for bit in draw.sample(range(8 * len(whole)), 40):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        path.unlink()
        path.write_bytes(content)
        assert_columns(Shards(folder).split("train").columns, expected)
        assert path.read_bytes() == whole


def test_folders_of_earlier_versions(folder):
    """The index of earlier versions, a .npz file, is left alone."""
    (folder / ".index").mkdir()
    np.savez(folder / ".index" / "train.npz", places=np.zeros((10, 3), np.int64), text=np.zeros(3, np.uint8))
    assert_columns(Shards(folder).split("train").columns, [r for group in sample_splits()["train"] for r in group])


def test_a_flipped_bit_never_reaches_the_index(folder):
    shard = folder / "sample-train.tfrecord-00000-of-00003"
    whole = shard.read_bytes()
    at = whole.index(b"original 1")
    shard.write_bytes(whole[:at] + b"O" + whole[at + 1 :])
    with pytest.raises(EtpError, match=rf"{shard}: damaged at record 1 .*CRC of the payload"):
        _ = Shards(folder).split("train").columns
    assert not (folder / ".index").exists()
    shard.write_bytes(whole)
    assert Shards(folder).split("train").columns.report_original[1] == "original 1"


def test_a_shard_of_another_build_never_reaches_the_index(folder, tmp_path):
    other = write_folder(tmp_path / "other", {"test": [[make_record(n, "tesT") for n in range(3)]]})
    (other / "sample-test.tfrecord-00000-of-00001").replace(folder / "sample-test.tfrecord-00000-of-00001")
    with pytest.raises(EtpError, match="SHA-256 differs"):
        _ = Shards(folder).split("test").columns
    assert not (folder / ".index").exists()


@pytest.mark.parametrize("name", ["report", "place", "lead_mask", "age"])
def test_check_compares_a_rewritten_index(folder, name):
    split = Shards(folder).split("train")
    assert str(check_shards(folder)).startswith(f"{folder}: sound")
    table = split.index.table
    changed = table.column(name).combine_chunks()
    values = changed.to_pylist()
    values[2], values[3] = values[3], values[2]
    place = table.column_names.index(name)
    plain = (
        pa.array(values, pa.large_string()).dictionary_encode() if name == "report" else pa.array(values, changed.type)
    )
    sealed.save(
        table.set_column(place, table.schema.field(name), plain), reader.index_path(folder, "train"), split.index_source
    )
    assert Shards(folder).split("train").kept_index() is not None
    with pytest.raises(EtpError, match=r"train.arrow: differs from the shards at record train-2; delete it"):
        check_shards(folder)


def _first_place(values: list[int]) -> Any:
    return lambda place: pa.array([values, *place.to_pylist()[1:]], place.type)


def _offsets(position: int, value: int) -> Any:
    """Returns a function that changes an offset of a column of texts or lists."""

    def change(column: Any) -> Any:
        is_text = column.type == pa.large_string()
        offsets = np.frombuffer(column.buffers()[1], np.int64 if is_text else np.int32)[: len(column) + 1].copy()
        offsets[position] = value
        if is_text:
            return pa.LargeStringArray.from_buffers(len(column), pa.py_buffer(offsets), column.buffers()[2])
        buffers = [None, pa.py_buffer(offsets)]
        return pa.ListArray.from_buffers(column.type, len(column), buffers, children=[column.values])

    return change


def _indices(value: int) -> Any:
    def change(column: Any) -> Any:
        numbers = column.indices.to_numpy().copy()
        numbers[5] = value
        return pa.DictionaryArray.from_arrays(pa.array(numbers), column.dictionary, safe=False)

    return change


def test_a_compressed_index_takes_no_memory(folder):
    """A few bytes would have become 80 MB."""
    path, schema = folder / "a.arrow", pa.schema({"numbers": pa.int64()})
    table = pa.table({"numbers": np.zeros(10**7, np.int64)}, schema=schema).replace_schema_metadata({"source": "here"})
    with pa.OSFile(str(path), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(file, table.schema, options=options) as stream:
            stream.write_table(table)
    content = path.read_bytes()
    path.write_bytes(content + sealed.SEAL.pack(len(content), google_crc32c.value(content), sealed.MAGIC))
    del table
    assert sealed.load(path, "here", schema) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("place", _first_place([3, 12, 1500])),
        ("place", _first_place([-1, 12, 1500])),
        ("place", _first_place([0, -5, 1500])),
        ("place", _first_place([0, 2**63 - 1, 1500])),
        ("place", _first_place([0, 12, 2**63 - 1])),
        ("place", _first_place([0, 12, 7])),
        ("record_id", _offsets(3, -(2**40))),
        ("record_id", _offsets(3, 2**40)),
        ("statements", _offsets(5, 2**31 - 1)),
        ("likelihoods", _offsets(5, -9)),
        ("report", _indices(-1)),
        ("report", _indices(2**31 - 1)),
        ("age", lambda column: pa.array([None, *column.to_pylist()[1:]], column.type)),
        ("statements", lambda column: pa.array([[None], *column.to_pylist()[1:]], column.type)),
        ("lead_mask", lambda column: pa.array([[None] * 12, *column.to_pylist()[1:]], column.type)),
        ("sex", lambda column: pa.DictionaryArray.from_arrays(column.indices, pa.array([None] * 9, pa.large_string()))),
    ],
)
def test_an_index_with_a_right_seal_and_a_wrong_content_is_built_again(folder, kept, name, change):
    """Such a file ended the process or raised an exception that is no EtpError."""
    split = Shards(folder).split("train")
    table = split.index.table
    number = table.column_names.index(name)
    wrong = table.set_column(number, table.schema.field(name), change(table.column(name).chunk(0)))
    sealed.save(wrong, reader.index_path(folder, "train"), split.index_source)
    again = Shards(folder).split("train")
    assert again.kept_index() is None
    assert_columns(again.columns, [record for group in sample_splits()["train"] for record in group])
    assert str(check_shards(folder)).startswith(f"{folder}: sound")


def test_a_read_only_folder(folder, tmp_path):
    readable = tmp_path / "readable"
    shutil.copytree(folder, readable)
    (readable / ".index").touch()  # neither a folder nor one that can be made, also for root
    for _ in range(2):
        assert_columns(Shards(readable).split("test").columns, sample_splits()["test"][0])
    assert (readable / ".index").read_bytes() == b""


def _open(folder: Path) -> str:
    return json.dumps(list(Shards(folder).split("train").columns.record_id))


def test_many_processes_open_at_once(folder):
    expected = json.dumps([record.record_id for group in sample_splits()["train"] for record in group])
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_open, [folder] * 9) == [expected] * 9
    assert sorted(path.name for path in (folder / ".index").iterdir()) == ["train.arrow"]


def test_a_column_is_a_sequence(folder):
    column = Shards(folder).split("train").columns.record_id
    assert (column[0], column[-1], column[1:3]) == ("train-0", "train-9", ["train-1", "train-2"])
    assert column.index("train-4") == 4 and "train-5" in column and column == [f"train-{n}" for n in range(10)]
    assert column != ["train-0"] and column != "train-0" and np.array(column).dtype.kind == "U"
    with pytest.raises(IndexError):
        column[10]


def test_arrow_is_imported_only_when_an_index_is_opened(folder):
    code = "import sys; from etp_jax.shards import reader; reader.Shards(sys.argv[1]); print('pyarrow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
