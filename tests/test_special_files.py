"""A pipe, a device, a folder or a circle of links in place of a file is refused at once, wherever a file is read."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from etp_jax.cli.main import main
from etp_jax.data_prep.archives.csv_table import read_table
from etp_jax.data_prep.pseudonyms import Salt
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError
from etp_jax.files import alone_in, read_json
from etp_jax.models.weights import read_msgpack, read_tensors
from etp_jax.paths import MOST_TEXT, read_file
from etp_jax.predict.run import records_in
from etp_jax.report.runs import compare
from etp_jax.reproduce.plan import read_log
from etp_jax.reproduce.study import read as read_study
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from etp_jax.tasks.task_file import read_task_file
from etp_jax.training import digest
from etp_jax.training.log import read_metrics
from etp_jax.waveform.features import load_proposals, load_similarities
from tests.helpers.shard_samples import sample_splits, write_folder
from tests.helpers.wfdb_samples import wave, write_record

SECONDS = 5
KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "circle": lambda path: path.symlink_to(path.name),
}
READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: read_json(path, "write it again"),
    "task.json": read_task_file,
    "proposals.json": load_proposals,
    "similarities.npz": load_similarities,
    "metrics.jsonl": lambda path: read_metrics(path.parent),
    "log.jsonl": lambda path: read_log(path.parent),
    "study.toml": read_study,
    "salt": Salt.read,
    "table.csv": lambda path: read_table(path, ("a",)),
    "model.safetensors": read_tensors,
    "flax_model.msgpack": read_msgpack,
    "a.npy": lambda path: read_signal(path, Layout(fs=100, unit="mV")),
    "a.csv": lambda path: read_signal(path, Layout(fs=100, unit="mV")),
    "build.json": lambda path: Shards(path.parent),
}
"""Readers of one file; those of a folder of several files have tests of their own."""


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("waits for a file")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_it_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    KINDS[kind](path)
    if kind == "circle" and name.endswith(".jsonl"):  # no log, as before the first line
        assert READERS[name](path) == []
        return
    with pytest.raises((EtpError, OSError)) as error:
        READERS[name](path)
    assert not isinstance(error.value, TimeoutError) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["r.hea", "r.dat"])
def test_files_of_a_wfdb_record(tmp_path: Path, name: str, kind: str) -> None:
    write_record(tmp_path / "r", wave(300, 2), LEADS[:2], fs=100)
    (tmp_path / name).unlink()
    KINDS[kind](tmp_path / name)
    with pytest.raises(EtpError):
        read_signal(tmp_path / "r", Layout())


@pytest.mark.parametrize("kind", KINDS)
def test_no_header_of_age_and_sex(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "a.npy", wave(300, 12) / 1000)
    KINDS[kind](tmp_path / "a.npy.hea")
    assert read_signal(tmp_path / "a.npy", Layout(fs=100, unit="mV")).sex == ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("made") / "shards", sample_splits())


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_shard_folder(made: Path, tmp_path: Path, kind: str) -> None:
    for number, name in enumerate(("features.json", "build.json", next(made.glob("*-train*")).name)):
        shards = shutil.copytree(made, tmp_path / str(number))
        (shards / name).unlink()
        KINDS[kind](shards / name)
        with pytest.raises((EtpError, OSError)):
            check_shards(shards)


@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
def test_an_index_is_made_again(made: Path, tmp_path: Path, kind: str) -> None:
    shards = shutil.copytree(made, tmp_path / "shards")
    reports = list(Shards(shards).split("train").columns.report)
    path = shards / ".index" / "train.arrow"
    path.unlink()
    KINDS[kind](path)
    assert list(Shards(shards).split("train").columns.report) == reports and path.is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_a_digested_folder_is_damaged(tmp_path: Path, kind: str) -> None:
    (tmp_path / "weights").write_text("1")
    digest.write_digest(tmp_path, ["weights"])
    (tmp_path / "weights").unlink()
    KINDS[kind](tmp_path / "weights")
    assert digest.damage(tmp_path)


def test_circles_among_the_files_of_a_folder(tmp_path: Path) -> None:
    KINDS["circle"](tmp_path / "a.edf")
    assert records_in(tmp_path, tmp_path / "predictions.csv") == [tmp_path / "a.edf"]


def test_a_run_whose_log_is_a_pipe_is_trouble(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert "metrics.jsonl: is a pipe" in str(compare([tmp_path])[0]["trouble"])


def test_what_is_too_large_for_its_kind_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "build.json").open("wb") as file:
        file.truncate(MOST_TEXT + 1)
    with pytest.raises(EtpError, match=r"build.json: has 33,554,433 bytes; such a file has 33,554,432 at most"):
        read_file(tmp_path / "build.json")


def test_memory_that_is_used_up_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("etp_jax.cli.main.parse", fail)
    with pytest.raises(SystemExit):
        main(["runs"])
    assert capsys.readouterr().err.count("\n") == 1


def test_safetensors_are_still_read(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, tmp_path / "real")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "real")  # as in a cache of the hub
    assert read_tensors(tmp_path / "model.safetensors")["a"].shape == (3,)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_it_is_not_replaced_by_an_output(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = write_folder(tmp_path / "shards", sample_splits()), tmp_path / "out.csv"
    KINDS[kind](out)
    before = out.lstat()
    for command in (["runs", "--csv"], ["waveform", "measure", "--shards", str(shards), "--out"]):
        with pytest.raises(SystemExit):
            main([*command, str(out)])
        assert f"{out}: is a pipe, a socket or a device; name another place" in capsys.readouterr().err
    assert out.lstat() == before


def test_the_lock_of_a_folder_is_no_way_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(EtpError, match=r"\.lock: is a link; delete it"), alone_in(tmp_path, "taken"):
        pass
    assert (tmp_path / "other").read_text() == "kept"
    (tmp_path / ".lock").unlink()
    os.mkfifo(tmp_path / ".lock")
    with alone_in(tmp_path, "taken"), pytest.raises(EtpError, match="taken"), alone_in(tmp_path, "taken"):
        pass
