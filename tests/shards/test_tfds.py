"""TensorFlow Datasets reads exactly what was written; and TensorFlow is not needed to write it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.shards.record import FORMAT, RESTORED_FORMAT, text_fields
from tests.helpers.shard_samples import make_record, sample_splits, write_folder


def text(value: bytes | np.ndarray) -> str | tuple[str, ...]:
    return value.decode() if isinstance(value, bytes) else tuple(item.decode() for item in value)


@pytest.mark.slow
@pytest.mark.parametrize("form", [FORMAT, RESTORED_FORMAT])
def test_tfds_reads_what_was_written(tmp_path, form):
    pytest.importorskip("tensorflow", reason="tensorflow-cpu is not installed (extra `test`)")
    import tensorflow_datasets as tfds  # loads TensorFlow, which takes seconds

    splits = sample_splits()
    splits["test"][0].append(make_record(77, "test", statements=("", "ä|ö", "♥" * 300), likelihoods=(0.0, -1.0, 33.3)))
    if form == RESTORED_FORMAT:
        splits = {
            name: [[replace(record, report_restored=f"{record.report} ♥") for record in group] for group in groups]
            for name, groups in splits.items()
        }
    builder: Any = tfds.builder_from_directory(write_folder(tmp_path / "shards", splits, format=form))
    assert builder.info.features["ecg"].np_dtype == np.int16
    for name, groups in splits.items():
        expected = [record for group in groups for record in group]
        assert builder.info.splits[name].num_examples == len(expected)
        found = list(tfds.as_numpy(builder.as_dataset(split=name, shuffle_files=False)))
        assert len(found) == len(expected)
        for example, record in zip(found, expected, strict=True):
            assert set(example) == {field for field, value in vars(record).items() if value is not None}
            for field in text_fields(form == RESTORED_FORMAT):
                assert text(example[field]) == getattr(record, field)
            for field in ("statements", "labels", "features", "feature_evidence"):
                assert text(example[field]) == getattr(record, field)
            np.testing.assert_array_equal(example["ecg"], record.ecg, strict=True)
            np.testing.assert_array_equal(example["lead_mask"], record.lead_mask, strict=True)
            np.testing.assert_array_equal(example["likelihoods"], np.array(record.likelihoods, np.float32), strict=True)
            assert example["age"].dtype == np.float32
            np.testing.assert_equal(example["age"], np.float32(record.age))


@pytest.mark.slow
def test_writing_and_reading_need_no_tensorflow(tmp_path):
    code = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

find_spec = PathFinder.find_spec
absent = ("tensorflow", "jax")
PathFinder.find_spec = lambda name, *a: None if name.split(".")[0] in absent else find_spec(name, *a)
sys.path.insert(0, sys.argv[1])
from etp_jax.shards.check import check_shards
from tests.helpers.shard_samples import sample_splits, write_folder
print(check_shards(write_folder(Path(sys.argv[2]) / "shards", sample_splits())))
"""
    command = [sys.executable, "-c", code, Path(__file__).parents[2], tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{tmp_path}/shards: sound; 13 records" in found.stdout, found.stderr
