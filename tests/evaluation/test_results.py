"""Tests result files: those of this version, those of version 0.1, and invalid ones."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from etp_jax.errors import EtpError
from etp_jax.evaluation import Result
from etp_jax.evaluation.results import ARRAYS
from etp_jax.files import SEAL

OLD = Path(__file__).parents[1] / "data" / "version_0_1.tar.xz"
NAME = "ptbxl-super-zero-shot-validation"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result that version 0.1 wrote, with the `.npz` beside it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD) as archive:
        members = [member for member in archive if Path(member.name).stem == NAME]
        archive.extractall(folder, members, filter="data")
    return next(folder.rglob(f"{NAME}.json"))


def test_a_result_of_version_0_1_is_read_and_written_again(old: Path, tmp_path: Path) -> None:
    result, content = Result.load(old), json.loads(old.read_text())
    assert "schema" not in content and result.schema == 1
    assert result.to_dict() == {**content, "schema": 1}
    row = result.first_row("trained")
    assert row is not None and row.values["macro_auroc"] == content["rows"][0]["macro_auroc"]
    assert row.per_class["NORM"].auroc == content["rows"][0]["per_class"]["NORM"]["auroc"]
    assert row.replicates["macro_auroc"].dtype == np.float64
    figure = content["summary"]["trained"]["0.0"]["macro_auroc"]
    assert result.summary["trained"][0.0]["macro_auroc"].low == figure["low"]
    assert set(result.arrays) == {"record_id", "classes", "y", "trained", "random"}

    again = tmp_path / "deep" / "again.json"
    result.save(again)
    written = json.loads(again.read_text())
    assert {SEAL, ARRAYS} == written.keys() - content.keys() - {"schema"}
    assert Result.load(again) == result and written == result.to_dict() | {n: written[n] for n in (SEAL, ARRAYS)}
    with np.load(old.with_suffix(".npz")) as before, np.load(again.with_suffix(".npz")) as after:
        assert before.files == after.files
        for name in before.files:
            np.testing.assert_array_equal(before[name], after[name])


def test_a_result_without_its_arrays_is_read(old: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(old.read_text())
    result = Result.load(tmp_path / "x.json")
    assert result == Result.load(old) and not result.arrays and not result.rows[0].replicates
    assert result.table() == Result.load(old).table()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2; this version reads 1"),
        ({"rows": [{}]}, "not written by `etp evaluate`; move it away"),
        ({"summary": {}}, "not written by `etp evaluate`; move it away"),
        ({"summary": {"trained": []}}, "not written by `etp evaluate`; move it away"),
    ],
)
def test_another_form_is_one_line(old: Path, tmp_path: Path, change: dict, said: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(json.loads(old.read_text()) | change))
    with pytest.raises(EtpError) as error:
        Result.load(file)
    assert str(error.value).startswith(f"{file}: ") and said in str(error.value) and "\n" not in str(error.value)


def test_a_changed_digit_is_refused(old: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    Result.load(old).save(file)
    text, arrays = file.read_text(), file.with_suffix(".npz").read_bytes()
    digits = [found.start() for found in re.finditer(r"\d(?=\d{3},)", text)]
    for place in digits[:: len(digits) // 10]:
        file.write_text(f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}")
        with pytest.raises(EtpError, match=r"x\.json: was changed after it was written; .*own_sha256"):
            Result.load(file)
    file.write_text(json.dumps(json.loads(text)))  # spaces are no damage
    file.with_suffix(".npz").write_bytes(arrays + b"\0")
    with pytest.raises(EtpError, match=r"x\.json: .*x\.npz was changed after it was written; .*move it away"):
        Result.load(file)
    file.with_suffix(".npz").unlink()
    assert Result.load(file).rows


def test_a_damaged_npz_is_one_line(old: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(old.read_text())
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(EtpError, match=r"x\.json: .*not a zip file; not written by `etp evaluate`; move it away"):
        Result.load(tmp_path / "x.json")
