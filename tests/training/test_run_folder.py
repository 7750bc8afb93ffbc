"""The files of a run folder: their digest finds damage, and folders without one open as before."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation import evaluate
from etp_jax.evaluation.zero_shot import ZeroShot
from etp_jax.files import sha256
from etp_jax.report.runs import compare
from etp_jax.training import digest, run_folder


@pytest.fixture
def run(run_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run_dir, tmp_path / "run")


def test_the_digest_is_that_of_the_files(run: Path) -> None:
    found = json.loads((run / "digest.json").read_text())
    assert found["sha256"] == {name: sha256(run / name) for name in run_folder.RUN_FILES}
    assert found["bytes"] == {name: (run / name).stat().st_size for name in run_folder.RUN_FILES}
    Encoder.from_run(run)


@pytest.mark.parametrize("name", run_folder.RUN_FILES)
def test_a_changed_file_is_named(run: Path, shards: Path, name: str) -> None:
    content = bytearray((run / name).read_bytes())
    place = content.rindex(b"1")
    content[place : place + 1] = b"2"  # valid JSON still
    (run / name).write_bytes(content)
    request = ZeroShot(run=run, shards=shards, bootstrap=2)
    with pytest.raises(EtpError, match=f"run: {name} was changed since the folder was written; restore the file"):
        evaluate(request)
    (row,) = compare([run])
    assert f"{name} was changed" in str(row["trouble"])
    (run / name).unlink()
    with pytest.raises(EtpError, match=f"run: {name} is missing"):
        Encoder.from_run(run)


def test_a_digest_that_was_changed_is_no_digest(run: Path) -> None:
    text = (run / "digest.json").read_text()
    (run / "digest.json").write_text(text.replace("config.json", "../x.json"))
    with pytest.raises(EtpError, match=r"digest\.json"):
        Encoder.from_run(run)
    (run / "digest.json").write_bytes(b"[" * 100_000)
    with pytest.raises(EtpError, match=r"run: it cannot be compared with digest\.json"):
        Encoder.from_run(run)


def test_a_run_of_an_earlier_version_opens(run: Path) -> None:
    digest.forget(run)
    assert Encoder.from_run(run).step == 3


def test_a_file_that_grew_is_refused_unread(run: Path) -> None:
    """Such a sparse file takes no room on the disk, and a quarter of an hour to hash."""
    os.truncate(run / "tokenizer.json", 2**40)
    started = time.process_time()
    with pytest.raises(EtpError, match=r"run: tokenizer\.json was changed"):
        Encoder.from_run(run)
    assert time.process_time() - started < 1


def test_a_digest_without_sizes_is_compared(run: Path) -> None:
    content = json.loads((run / "digest.json").read_text())
    del content["bytes"]
    (run / "digest.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    assert Encoder.from_run(run).step == 3
    (run / "text.json").write_text("{}")
    with pytest.raises(EtpError, match=r"run: text\.json was changed"):
        Encoder.from_run(run)
