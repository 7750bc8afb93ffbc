"""Pseudonyms of patients and records: what is in the shards, what remains as it was, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from etp_jax.cli import main
from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord
from etp_jax.data_prep.pseudonyms import Salt, pseudonymise
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards
from tests.helpers.ptbxl_samples import RECORDS, row_of, write_archive, write_table

KEY = "0123456789abcdef0123456789abcdef"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a reject of its table and one of a signal, and its shards with and without pseudonyms."""
    folder = tmp_path_factory.mktemp("pseudonyms")
    source = write_archive(folder / "source")
    rows = [row_of(number) for number in range(RECORDS)]
    rows = [{**rows[0], "scp_codes": "{'XYZ': 0}"}, {**rows[1], "static_noise": " , I-AVR,  "}, *rows[2:]]
    write_table(source / "ptbxl_database.csv", [{"static_noise": "", **row} for row in rows])
    (source / "records100/00000/00003_lr.dat").unlink()
    for name, key in (("salt", KEY), ("other", KEY[::-1])):
        (folder / name).write_text(f"{key}\n")
    prep(folder, "plain")
    prep(folder, "hidden", "--pseudonymise", str(folder / "salt"))
    return folder


def prep(folder: Path, out: str, *options: str) -> None:
    """Runs `etp prep ptbxl`."""
    command = ["prep", "ptbxl", "--source", str(folder / "source"), "--workers", "1"]
    main.main([*command, "--out", str(folder / out), *options])


def rejects(shards: Path) -> list[list[str]]:
    with (shards / "rejects.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def expected(kind: str, text: str) -> str:
    return hmac.new(KEY.encode(), f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:32]


def test_ids_are_keyed_hashes_and_all_else_is_the_same(folder: Path) -> None:
    plain, hidden = Shards(folder / "plain"), Shards(folder / "hidden")
    assert plain.splits == hidden.splits
    for split in SPLITS:
        before, after = plain.split(split), hidden.split(split)
        assert list(after.columns.record_id) == [expected("record", each) for each in before.columns.record_id]
        assert list(after.columns.patient_id) == [expected("patient", each) for each in before.columns.patient_id]
        for name in ("report", "report_original", "labels", "likelihoods", "sex", "statements"):
            assert list(getattr(after.columns, name)) == list(getattr(before.columns, name))
        rows = np.arange(len(before))
        np.testing.assert_array_equal(after.ecg(rows), before.ecg(rows))
    (mark,) = plain.build["marks"]["static noise"]
    assert hidden.build["marks"]["static noise"] == [expected("record", mark)]
    found = [(split, reason) for _, split, reason in rejects(folder / "hidden")]
    assert found == [(split, reason.split(":")[0]) for _, split, reason in rejects(folder / "plain")]
    assert [name for name, *_ in rejects(folder / "hidden")] == [
        expected("record", name) for name, *_ in rejects(folder / "plain")
    ]


def test_no_file_holds_the_salt_or_the_name_of_a_signal(folder: Path) -> None:
    about = json.loads((folder / "hidden/build.json").read_text())["preparation"]
    assert about.pop("pseudonyms")["method"].startswith("HMAC-SHA256")
    assert about == json.loads((folder / "plain/build.json").read_text())["preparation"]
    for path in filter(Path.is_file, (folder / "hidden").rglob("*")):
        content = path.read_bytes()
        assert KEY.encode() not in content and b"00003_lr" not in content, path


def test_parts_of_one_salt_are_the_whole_and_those_of_two_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, salt, out in (("1/2", "salt", "p1"), ("2/2", "salt", "p2"), ("2/2", "other", "p3")):
        prep(folder, out, "--pseudonymise", str(folder / salt), f"--part={part}")
    prep(folder, "p4", "--part=2/2")
    merge = ["shards", "merge", "--out", str(folder / "merged"), "--parts", str(folder / "p1")]
    for other in ("p3", "p4"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main.main([*merge, str(folder / other)])
        assert f"{other}: has pseudonyms of another salt than {folder / 'p1'}" in capsys.readouterr().err
    main.main([*merge, str(folder / "p2")])
    for path in filter(Path.is_file, (folder / "hidden").glob("*")):
        assert (folder / "merged" / path.name).read_bytes() == path.read_bytes()


def test_another_salt_does_not_continue_a_build(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "hidden", folder / "again")
    with pytest.raises(SystemExit):
        prep(folder, "again", "--pseudonymise", str(folder / "other"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"salt: No such file or directory; `openssl rand -hex 32"),
        (b"short\n", r"salt: holds no salt of 16 to 4096 bytes"),
        (b"x" * 5000, r"salt: holds no salt of 16 to 4096 bytes"),
    ],
)
def test_a_file_without_salt_is_refused_at_once(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content:
        (tmp_path / "salt").write_bytes(content)
    with pytest.raises(SystemExit):
        prep(tmp_path, "out", "--pseudonymise", str(tmp_path / "salt"))
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_patient_in_two_splits_is_named(tmp_path: Path) -> None:
    studies = tuple(
        ArchiveRecord(f"r{split}", "Jane", split, lambda: None, "", (), (), 50.0, "", ())  # pyright: ignore[reportArgumentType]
        for split in ("train", "test")
    )
    with pytest.raises(EtpError, match="patient Jane is in two splits"):
        pseudonymise(Archive("a", 100, 1000, LEADS, (), studies, (), {}, {}), Salt(KEY.encode()))
    assert KEY not in repr(Salt(KEY.encode()))
