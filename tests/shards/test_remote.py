"""Shard folders named by URL are copied whole, once, and never taken for whole before."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from etp_jax.errors import EtpError
from etp_jax.shards import remote
from etp_jax.shards.reader import Shards
from tests.helpers.shard_samples import sample_splits, write_folder

URL = "memory://bucket/sample"


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Shards]:
    """Shards on disk, and the same at `URL`."""
    folder, memory = write_folder(tmp_path / "original", sample_splits()), fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/sample", recursive=True)
    yield Shards(folder)
    memory.rm("/bucket", recursive=True)


def test_copied_once_for_all_processes_of_a_machine(original: Shards, tmp_path: Path) -> None:
    said: list[str] = []
    url = f"file://{original.folder}"

    def stage(_: int) -> Path:
        return remote.staged(url, str(tmp_path / "stage"), said.append)

    with ThreadPoolExecutor(4) as pool:
        folder, *others = pool.map(stage, range(4))
    assert others == [folder] * 3
    assert said == [f"{url}: 4 of 4 files to copy to {folder}, 0.00 GB of {said[0].rpartition(' of ')[2]}"]
    copy = Shards(folder)
    assert copy.fingerprint == original.fingerprint
    np.testing.assert_array_equal(copy.split("test").ecg([2, 0]), original.split("test").ecg([2, 0]))

    (original.folder / "sample-train.tfrecord-00000-of-00003").unlink()
    assert stage(0) == folder and len(said) == 1  # nothing is read but build.json


def test_what_a_killed_copy_left_is_completed(original: Shards, tmp_path: Path) -> None:
    stage, said = str(tmp_path / "stage"), []
    folder = remote.staged(URL, stage)
    (folder / "build.json").unlink()
    cut = folder / "sample-train.tfrecord-00002-of-00003"
    cut.write_bytes(cut.read_bytes()[:-1])
    (folder / ".sample-test.tfrecord-00000-of-00001.1.tmp").write_bytes(b"rest")
    with pytest.raises(EtpError, match="unfinished"):
        Shards(folder)

    assert remote.staged(URL, stage, said.append) == folder
    assert said[0].startswith(f"{URL}: 1 of 4 files")
    assert Shards(folder).fingerprint == original.fingerprint and not list(folder.glob("*.tmp"))


def test_too_little_disk_is_said_before_copying(
    original: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(EtpError, match=r"needs 0.00 GB, 0.00 GB are free; name another --data.stage-dir"):
        remote.staged(URL, str(tmp_path / "stage"))
    assert not list((tmp_path / "stage").rglob("sample-*"))


def test_a_file_of_another_length_is_not_taken(original: Shards, tmp_path: Path) -> None:
    name = original.shard_files("test")[0]["file"]
    fsspec.filesystem("memory").pipe(f"/bucket/sample/{name}", b"cut")
    with pytest.raises(EtpError, match=rf"{URL}/{name}: holds 3 bytes, build.json says \d+"):
        remote.staged(URL, str(tmp_path / "stage"))
    fsspec.filesystem("memory").rm(f"/bucket/sample/{name}")
    with pytest.raises(EtpError, match=f"{URL}/{name}: is missing"):
        remote.staged(URL, str(tmp_path / "stage"))
    assert not list((tmp_path / "stage").rglob("build.json")) and not list((tmp_path / "stage").rglob(f"*{name}*"))


def test_other_places(original: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.staged(str(original.folder)) == original.folder  # read in place
    monkeypatch.setattr(remote.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = remote.staged(f"file://{original.folder}")
    assert folder.is_relative_to(tmp_path) and Shards(folder).fingerprint == original.fingerprint

    (tmp_path / "file").touch()
    for source, stage_dir, message in (
        ("memory://bucket/none", "", r"memory://bucket/none: no finished shard folder \(build.json is missing\)"),
        ("nonsense://bucket", "", "nonsense://bucket: Protocol not known: nonsense; name a folder"),
        (URL, str(tmp_path / "file"), "Not a directory; name a --data.stage-dir"),
    ):
        with pytest.raises(EtpError, match=message):
            remote.staged(source, stage_dir)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(EtpError, match="gs://bucket/shards: reading this needs another package: `pip install gcsfs`"):
        remote.staged("gs://bucket/shards")


class Server(BaseHTTPRequestHandler):
    """Sends the files of `folder`; `strange` answers for `name`."""

    folder = Path()
    name = ""
    strange: Callable[[BaseHTTPRequestHandler, bytes], None]

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        """Answers a request."""
        name = self.path.rpartition("/")[2]
        content = (self.folder / name).read_bytes()
        self.send_response(200)
        if name == self.name:
            type(self).strange(self, content)
        else:
            self.end_headers()
            self.wfile.write(content)


def never_ends(server: BaseHTTPRequestHandler, _: bytes) -> None:
    server.end_headers()
    while True:
        server.wfile.write(bytes(2**20))


def drips(server: BaseHTTPRequestHandler, content: bytes) -> None:
    server.send_header("Content-Length", str(len(content)))
    server.end_headers()
    for byte in content:
        server.wfile.write(bytes([byte]))
        time.sleep(0.02)


def is_silent(server: BaseHTTPRequestHandler, _: bytes) -> None:
    server.end_headers()
    time.sleep(3)


def flips_a_bit(server: BaseHTTPRequestHandler, content: bytes) -> None:
    server.end_headers()
    server.wfile.write(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("strange", "of_build", "of_shard"),
    [
        (never_ends, "larger than the 33554432 bytes", r"larger than the \d+ bytes"),
        (drips, "fewer than 8192 bytes per second", "fewer than 8192 bytes per second"),
        (is_silent, "no answer for 0.5 s", "no answer for 0.5 s"),
        (flips_a_bit, "build.json is damaged", "its SHA-256 differs from build.json"),
    ],
)
def test_a_strange_server_is_left_soon(
    original: Shards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strange: Callable[[BaseHTTPRequestHandler, bytes], None],
    of_build: str,
    of_shard: str,
) -> None:
    pytest.importorskip("aiohttp")
    if strange in (drips, is_silent):
        monkeypatch.setattr(remote, "SILENCE", 0.5)
    shard = original.shard_files("test")[0]["file"]
    for name, message in (("build.json", of_build), (shard, f"{shard}: .*{of_shard}")):
        handler = type("Handler", (Server,), {"folder": original.folder, "name": name, "strange": strange})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/sample"
            began = time.monotonic()
            with pytest.raises(EtpError, match=f"^{url}.*{message}"):
                remote.staged(url, str(tmp_path / "stage"))
            server.shutdown()
        assert time.monotonic() - began < 30
    assert not [path for path in (tmp_path / "stage").rglob("*") if shard in path.name or path.name == "build.json"]


def test_only_files_are_copied(original: Shards, tmp_path: Path) -> None:
    for name in ("build.json", original.shard_files("test")[0]["file"]):
        (original.folder / name).rename(tmp_path / name)
        os.mkfifo(original.folder / name)
        with pytest.raises(EtpError, match=f"{name}: is a pipe"):
            remote.staged(f"file://{original.folder}", str(tmp_path / "stage"))
        (tmp_path / name).rename(original.folder / name)


def test_a_link_in_the_staging_folder_is_not_written_through(original: Shards, tmp_path: Path) -> None:
    folder, other = remote.staged(URL, str(tmp_path / "stage")), tmp_path / "other"
    other.write_text("kept")
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(other)
    with pytest.raises(EtpError, match=r"\.lock: is a link; delete it"):
        remote.staged(URL, str(tmp_path / "stage"))
    assert other.read_text() == "kept"
