"""`etp prep --dask`: the same bytes as one process, whatever happens to a worker; each mistake in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.cli import main
from etp_jax.data_prep import build as build_module
from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord
from etp_jax.data_prep.archives.ptbxl import open_archive
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS, Recording
from etp_jax.errors import EtpError
from etp_jax.shards import dask_engine as engine_module
from etp_jax.shards.dask_engine import dask_engine
from etp_jax.shards.reader import Shards
from tests.helpers.ptbxl_samples import write_archive

distributed: Any = pytest.importorskip("distributed", reason="needs the extra dask")
dask: Any = pytest.importorskip("dask", reason="needs the extra dask")
SIGNAL = 500 * np.sin(np.arange(1000)[:, None] / (5 + np.arange(12)))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many shards from few records."""
    monkeypatch.setattr(build_module, "SHARD_BYTES", 4 * 24_000)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler that blames a task for a lost worker at the second loss, and two worker processes."""
    with distributed.LocalCluster(2, threads_per_worker=2, dashboard_address=None, silence_logs=50) as cluster:
        cluster.scheduler.allowed_failures = 1
        yield cluster


@dataclass(frozen=True)
class Reader:
    """Reads a record; before, it kills its process: once if `once` names a file, which is then made."""

    kills: bool = False
    once: Path | None = None

    def __call__(self) -> Recording:
        if self.once and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kills:
            signal.raise_signal(signal.SIGSEGV)  # to this thread, as a crash: `os.kill` would let it go on for a moment
        return Recording(SIGNAL, 100, LEADS)


def archive(**readers: Reader) -> Archive:
    studies = tuple(
        ArchiveRecord(f"r{n}", f"p{n}", "train", readers.get(f"r{n}", Reader()), "", (), (), 50.0, "", ())
        for n in range(12)
    )
    return Archive("mine", 100, 1000, LEADS, (), studies, (), {}, {})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_command_writes_the_bytes_of_one_process(tmp_path, monkeypatch, capsys):
    """With a relative source: the workers of a cluster have other working folders."""
    write_archive(tmp_path / "source")
    build(open_archive(tmp_path / "source"), tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    main.main(["prep", "ptbxl", "--source", "source", "--out", "out", "--dask", "local", "--workers", "2"])
    assert f"shards: {tmp_path / 'out'}" in capsys.readouterr().out
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, tmp_path):
    build(archive(), tmp_path / "one")
    killed = archive(r5=Reader(once=tmp_path / "killed"))
    with dask_engine(cluster.scheduler_address, 1, Path(__file__)) as engine:
        build(killed, tmp_path / "out", engine)
    assert (tmp_path / "killed").exists()
    assert content(tmp_path / "out") == content(tmp_path / "one")


@pytest.mark.slow
def test_a_record_that_kills_every_worker_is_named_and_the_next_start_skips_it(cluster, tmp_path):
    out, killing = tmp_path / "out", archive(r5=Reader(kills=True))
    with (
        pytest.raises(EtpError, match="out: a worker process was killed while it read record r5"),
        dask_engine(cluster.scheduler_address, 1, Path(__file__)) as engine,
    ):
        build(killing, out, engine)
    assert json.loads((out / ".parts/killed.json").read_text()) == ["r5"]
    with dask_engine("local", 1, Path(__file__)) as engine:  # whose workers are those of another start
        assert build(killing, out, engine).build["rejects"] == {"killed": 1}
    assert Shards(out).splits == {"train": 11}


def test_a_local_cluster_that_has_lost_its_workers_ends_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "WITHOUT_WORKER_S", 1)
    with dask_engine("local", 1, Path(__file__)) as engine:
        engine.client.cluster.scale(0)
        while engine.client.nthreads():
            time.sleep(0.1)
        with pytest.raises(EtpError, match="out: the cluster has lost all its workers; run it again to continue"):
            build(archive(), tmp_path / "out", engine)


def test_a_build_begun_by_a_cluster_is_finished_without_it(tmp_path):
    build(archive(), tmp_path / "one")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "2s"}),  # to a scheduler that is gone; 30 s by default
        distributed.LocalCluster(
            1, processes=False, protocol="tcp", dashboard_address=None, silence_logs=50
        ) as cluster,
        dask_engine(cluster.scheduler_address, 1, Path(__file__)) as engine,
    ):

        def lost(work: Any, tasks: Any, out: Path) -> Iterator[Any]:
            done = engine(work, tasks, out)
            yield next(done)
            cluster.scheduler.loop.add_callback(cluster.scheduler.close)
            yield from done

        slow = archive(**{f"r{n}": Slow() for n in range(4, 12)})
        with pytest.raises(EtpError, match="out: the Dask scheduler was lost; run it again to continue"):
            build(slow, tmp_path / "out", lost)
    with pytest.raises(EtpError, match="unfinished"):
        Shards(tmp_path / "out")
    build(archive(), tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "one")


@dataclass(frozen=True)
class Slow(Reader):
    """Takes a while."""

    def __call__(self) -> Recording:
        time.sleep(0.5)
        return super().__call__()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("_size", lambda path: 12345, r"worker tcp://.*: does not see .*; source and output must be on storage that"),
        ("_versions", lambda: {"numpy": "1.0", "scipy": "1.0"}, r"worker tcp://.*: has numpy .* instead of 1.0; inst"),
    ],
)
def test_workers_that_differ_are_refused_before_the_archive_is_opened(
    cluster, tmp_path, monkeypatch, name, change, message
):
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, name, change)  # in this process only
        with pytest.raises(EtpError, match=message), dask_engine(cluster.scheduler_address, 1, Path(__file__)):
            raise AssertionError


def test_a_worker_that_does_not_see_the_output_ends_the_build(cluster, tmp_path, monkeypatch):
    with dask_engine(cluster.scheduler_address, 1, Path(__file__)) as engine:
        monkeypatch.setattr(engine_module, "_size", lambda path: 12345)
        with pytest.raises(EtpError, match=r"worker tcp://.*: does not see"):
            build(archive(), tmp_path / "out", engine)


@pytest.fixture(scope="module")
def mute() -> Iterator[str]:
    """Address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dask", "nonsense"], "--dask 'nonsense': must be local, tcp://HOST:PORT or the JSON file of a scheduler"),
        (["--dask", "http://host:1"], "--dask 'http://host:1': must be local, tcp://HOST:PORT or the JSON"),
        (["--dask", "tcp://host"], "--dask 'tcp://host': must be local, tcp://HOST:PORT or the JSON"),
        (["--dask", "local", "--part", "1/2"], "--dask and --part: choose one; a Dask cluster divides the work"),
        (["--dask", "local", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--dask", "tcp://127.0.0.1:1", "--workers", "2"], "--workers with --dask tcp://127.0.0.1:1: the cluster has"),
        (["--dask", "none.json"], "none.json: no such file; --dask takes the file that `dask scheduler"),
        (["--dask", "{bad}"], "bad.json: holds no address of a scheduler; --dask takes the file"),
        (["--dask", "tcp://127.0.0.1:1"], "--dask tcp://127.0.0.1:1: no Dask scheduler answers at tcp://127.0.0.1:1 ("),
        (["--dask", "{mute}"], "no Dask scheduler answers at"),
        (["--dask", "{file}"], "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_mistakes(options, message, mute, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_module, "CONNECT_S", 2)
    (tmp_path / "bad.json").write_text('{"address": 5}')
    (tmp_path / "file.json").write_text('{"address": "tcp://127.0.0.1:1"}')
    places = {"mute": mute, "bad": tmp_path / "bad.json", "file": tmp_path / "file.json"}
    command = ["prep", "ptbxl", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main.main([*command, *(option.format(**places) for option in options)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_without_the_extra_it_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_module, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main.main(["prep", "ptbxl", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--dask", "local"])
    assert capsys.readouterr().err == "etp: --dask needs another package; pip install 'etp-jax[dask]'\n"
