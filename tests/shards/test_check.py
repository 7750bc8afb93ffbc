from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from etp_jax.errors import EtpError
from etp_jax.shards import tfrecord
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import BUILD_FILE
from tests.helpers.shard_samples import make_record, sample_splits, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shards", sample_splits())


def test_a_sound_folder(folder):
    summary = check_shards(folder)
    assert summary.splits == {"train": 10, "test": 3}
    assert summary.patients == 7
    assert summary.fingerprint == Shards(folder).fingerprint
    assert str(summary).startswith(f"{folder}: sound; 13 records (train 10, test 3) of 7 patients")


def test_every_flipped_bit_is_found(folder):
    shard = folder / "sample-train.tfrecord-00000-of-00003"
    whole = shard.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 100):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(flipped)
        with pytest.raises(EtpError, match=rf"^{shard}: damaged at record \d"):
            check_shards(folder)


def test_a_sound_shard_of_another_build(folder, tmp_path):
    other = write_folder(tmp_path / "other", {"test": [[make_record(n, "tesT") for n in range(3)]]})
    (other / "sample-test.tfrecord-00000-of-00001").replace(folder / "sample-test.tfrecord-00000-of-00001")
    with pytest.raises(EtpError, match="SHA-256 differs"):
        check_shards(folder)


def test_other_peoples_records_with_right_crcs(folder):
    shard = folder / "sample-test.tfrecord-00000-of-00001"
    room = shard.stat().st_size - len(tfrecord.frame(tfrecord.encode_example({"image": [b"x" * 3000]}))) + 3000
    shard.write_bytes(tfrecord.frame(tfrecord.encode_example({"image": [b"x" * room]})))
    with pytest.raises(EtpError, match=r"the record at byte 12 does not follow this project's schema"):
        check_shards(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ("XYZ",), "likelihoods": (0.0,)}, "label 'XYZ' is not in the label vocabulary"),
        ({"labels": ("SR", "NORM"), "likelihoods": (0.0,)}, "2 labels but 1 likelihoods"),
        ({"sex": "m"}, "sex 'm'"),
        ({"ecg": np.zeros((49, 12), np.int16)}, r"signal of shape \(49, 12\)"),
        ({"lead_mask": np.ones(11, bool)}, "11 lead marks"),
        ({"lead_mask": np.zeros(12, bool)}, "a masked lead is not zero"),
        ({"record_id": "train-3"}, "its id appears twice"),
        ({"record_id": ""}, "no record or patient id"),
        ({"patient_id": "train-patient-0"}, "patient train-patient-0 is in train and in test"),
        ({"features": ("a",), "feature_evidence": ()}, "1 features but 0 pieces of evidence"),
    ],
)
def test_records_against_the_rules(tmp_path, fields, message):
    splits = sample_splits()
    splits["test"][0].append(make_record(1, "test", record_id="odd", patient_id="odd"))
    splits["test"][0][-1] = make_record(1, "test", **{"record_id": "odd", "patient_id": "odd", **fields})
    with pytest.raises(EtpError, match=rf"test.tfrecord-00000-of-00001: record .*: {message}"):
        check_shards(write_folder(tmp_path / "shards", splits))


def test_counts_against_the_metadata(folder):
    build = json.loads((folder / BUILD_FILE).read_text())
    build["splits"]["train"]["records"] = 11
    (folder / BUILD_FILE).write_text(json.dumps(build))
    with pytest.raises(EtpError, match=r"build.json: damaged \(the shards of split 'train' do not hold 11 records\)"):
        check_shards(folder)


def test_tfds_metadata(folder):
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"][0]["shardLengths"][0] = "5"
    info.write_text(json.dumps(content))
    with pytest.raises(EtpError, match=r"dataset_info.json: does not describe these shards"):
        check_shards(folder)
    info.write_text("[]")
    with pytest.raises(EtpError, match=r"dataset_info.json: damaged"):
        check_shards(folder)
    (folder / "features.json").unlink()
    with pytest.raises(EtpError, match=r"features.json: missing"):
        check_shards(folder)


@pytest.mark.parametrize("name", ["build.json", "features.json", "dataset_info.json"])
def test_no_flipped_bit_of_the_metadata_passes_as_sound(folder, name):
    """Another sampling rate, lead or shape was taken for that of the signals."""
    path = folder / name
    whole, build = path.read_bytes(), Shards(folder).build
    for bit in random.Random(1).sample(range(8 * len(whole)), 60):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            check_shards(folder)
        except EtpError as error:
            assert str(path) in str(error) or str(folder) in str(error)
        else:  # the flip is in a name or digest of the digests
            found = json.loads(path.read_bytes())
            assert name == "build.json" and {**found, "digests": 0} == {**build, "digests": 0}


def test_metadata_without_digests_are_those_of_an_earlier_version(folder):
    build = json.loads((folder / BUILD_FILE).read_text())
    (folder / BUILD_FILE).write_text(json.dumps({**build, "fs": 500}))
    with pytest.raises(EtpError, match=r"build.json: was changed since the folder was written; .* delete 'digests'"):
        Shards(folder)
    del build["digests"]
    (folder / BUILD_FILE).write_text(json.dumps(build))
    assert check_shards(folder).patients == 7


def test_a_record_of_many_texts_takes_time_in_proportion(tmp_path):
    """Four times as many take four times as long; where each is looked for from the start, sixteen times."""
    few, seconds = [make_record(number) for number in (1, 3, 4)], {}
    for count in (50_000, 200_000):
        many = make_record(2, statements=("",) * count, labels=("SR",) * 150, likelihoods=(0.0,) * 150)
        folder = write_folder(tmp_path / f"shards-{count}", {"train": [[few[0], many, *few[1:]]]})
        started = time.process_time()
        columns = Shards(folder).split("train").columns
        assert [columns.statements[n] for n in range(4)] == [r.statements for r in (few[0], many, *few[1:])]
        assert columns.labels[1] == many.labels and columns.labels[2] == few[1].labels
        seconds[count] = time.process_time() - started
    assert seconds[200_000] < 9 * seconds[50_000]
    assert check_shards(folder).splits == {"train": 4}
