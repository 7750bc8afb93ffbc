"""Names that come from data stay inside their folder, wherever one is met; links of the user are followed."""

from __future__ import annotations

import atexit
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

from etp_jax.cli import main
from etp_jax.data_prep.archives import mimic_iv_ecg, ptbxl, table
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.data_prep.build import build_part
from etp_jax.data_prep.parts import Part, merge
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.ecg.wfdb import read_wfdb
from etp_jax.errors import EtpError
from etp_jax.models.sentence_folder import read_modules
from etp_jax.models.weights import shards_of
from etp_jax.paths import inside
from etp_jax.shards import remote
from etp_jax.shards.reader import Shards
from etp_jax.tasks.task_file import read_task_file
from tests.helpers.mimic_samples import record_row, report_row, write_tables
from tests.helpers.ptbxl_samples import row_of, write_archive, write_table
from tests.helpers.shard_samples import sample_splits, write_folder
from tests.helpers.unsealed import unsealed

HOSTILE = ("../../evil", "{outside}/evil", "a/../../evil", "..", "a\0b")
"""`{outside}` is an absolute path."""
Place = Callable[[Path, str], Any]
"""Puts a name into a file of a folder, and does what reads it."""


def wfdb_signal(folder: Path, name: str) -> Any:
    (folder / "r.hea").write_text(f"r 1 500 10\n{name} 16 200 16 0 0 0 0 I\n")
    return read_wfdb(folder / "r")


def wfdb_segment(folder: Path, name: str) -> Any:
    (folder / "r.hea").write_text(f"r/1 1 500 10\n{name} 10\n")
    return read_wfdb(folder / "r")


def wfdb_packed(folder: Path, name: str) -> Any:
    (folder / "r.hea").write_text(f"r 1 500 10\n{name} 212 200 12 0 0 0 0 I\n")
    return read_wfdb(folder / "r")


def mimic_path(folder: Path, name: str) -> Any:
    write_tables(folder, [{**record_row(0), "path": name}], [report_row(0)])
    return mimic_iv_ecg.open_archive(folder).studies[0].read()


def ptbxl_path(folder: Path, name: str) -> Any:
    write_archive(folder / "source")
    write_table(folder / "source/ptbxl_database.csv", [{**row_of(0), "filename_lr": name}])
    (reject,) = ptbxl.open_archive(folder / "source").rejects
    raise EtpError(reject.reason)


def table_signal(folder: Path, name: str) -> Any:
    write_table(folder / "t.csv", [{"file": name}])
    (reject,) = table.open_archive(folder / "t.csv", TableColumns(signal_column="file"), Layout()).rejects
    assert "--root" in reject.reason or "\0" in name
    raise EtpError(reject.reason)


def shard_file(folder: Path, name: str) -> Any:
    return Shards(edited(folder, lambda build: build["splits"]["test"]["shards"][0].update(file=name)))


def split_name(folder: Path, name: str) -> Any:
    return Shards(edited(folder, lambda build: build["splits"].update({name: build["splits"].pop("test")})))


def remote_shard(folder: Path, name: str) -> Any:
    edited(folder, lambda build: build["splits"]["test"]["shards"][0].update(file=name))
    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "shards"), "/hostile/shards", recursive=True)
    try:
        return remote.staged("memory://hostile/shards", str(folder / "stage"), lambda line: None)
    finally:
        memory.rm("/hostile", recursive=True)


@cache
def built_part() -> Path:
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    build_part(ptbxl.open_archive(write_archive(folder / "source")), folder / "part", Part(1, 1))
    return folder / "part"


def part_shard(folder: Path, name: str) -> Any:
    shutil.copytree(built_part(), folder / "part")
    path = folder / "part/part.json"
    content = json.loads(path.read_text())
    content["notes"][0]["shard"]["file"] = content["shards"][0] = name
    path.write_text(json.dumps(content))
    return merge([folder / "part"], folder / "merged")


def model_shard(folder: Path, name: str) -> Any:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": f"{name}.safetensors"}}))
    return shards_of(folder / "model.safetensors.index.json")


def model_module(folder: Path, name: str) -> Any:
    (folder / "modules.json").write_text(json.dumps([{"type": "a.Transformer", "path": name}]))
    return read_modules(folder)


def task_base(folder: Path, name: str) -> Any:
    (folder / "t.json").write_text(json.dumps({"format": 1, "name": "t", "title": "T", "of": name}))
    return read_task_file(folder / "t.json")


PLACES: tuple[Place, ...] = (
    wfdb_signal,
    wfdb_segment,
    wfdb_packed,
    mimic_path,
    ptbxl_path,
    table_signal,
    shard_file,
    split_name,
    remote_shard,
    part_shard,
    model_shard,
    model_module,
    task_base,
)


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shards = write_folder(folder / "shards", sample_splits())
    build = unsealed(shards / "build.json")
    change(build)
    (shards / "build.json").write_text(json.dumps(build))
    return shards


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_in_one_line(place: Place, name: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "deep/folder", tmp_path / "outside"
    folder.mkdir(parents=True)
    outside.mkdir()
    for suffix in ("", ".hea", ".dat", ".json", ".safetensors"):  # what a reader that went there would find
        (outside / f"evil{suffix}").write_bytes(bytes(20))
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    with pytest.raises(EtpError) as error:
        place(folder, name.format(outside=outside))
    assert "\n" not in str(error.value) and not str(error.value).startswith(str(outside))
    assert {path for path in tmp_path.rglob("*") if folder not in path.parents} == before


def test_names_inside_are_taken_as_they_are(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b.dat") == tmp_path / "a/b.dat"
    assert inside(tmp_path, "a/../b..dat") == tmp_path / "b..dat"
    assert inside(tmp_path, f"{tmp_path}/a") == tmp_path / "a"
    assert inside(Path(), f"{Path.cwd()}/a") == Path("a")
    assert inside(Path("/"), "/etc/hosts") == Path("/etc/hosts")
    for name in ("a/b", ".index", "..", "/a"):
        with pytest.raises(EtpError, match="is not the name of a file in the folder"):
            inside(tmp_path, name, subfolders=False)


def test_links_of_the_user_are_followed(tmp_path: Path) -> None:
    """A linked root, named by either of its paths, and a signal file that is a link to another disk."""
    disk, root = tmp_path / "disk", tmp_path / "root"
    disk.mkdir()
    root.symlink_to(disk)
    np.save(tmp_path / "elsewhere.npy", np.eye(1000, 12) / 2)
    (disk / "a.npy").symlink_to(tmp_path / "elsewhere.npy")
    for name in ("a.npy", f"{root}/a.npy", f"{disk}/a.npy"):
        path = inside(root, name)
        assert read_signal(path, Layout(fs=100, unit="mV", leads=LEADS)).signal.shape == (1000, 12)


def test_root_names_the_folder_of_the_signals(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    np.save(tmp_path / "a.npy", np.eye(1000, 12) / 2)
    write_table(tmp_path / "tables/t.csv", [{"file": str(tmp_path / "a.npy")}, {"file": "a.npy"}])
    columns = TableColumns(signal_column="file")
    archive = table.open_archive(tmp_path / "tables/t.csv", columns, Layout(fs=100), root=tmp_path)
    assert [study.read().signal.shape for study in archive.studies] == [(1000, 12)] * 2


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", ""])
def test_the_name_of_a_data_set_is_no_path(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prep", "table", "--csv", str(tmp_path / "t.csv"), "--signal-column", "f", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit):
        main.main([*command, "--name", name])
    wrong = "TFDS takes letters, digits and _ only" if name else "--name is empty"
    assert wrong in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["virtual", "external"])
def test_stacks_whose_samples_are_in_another_file_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(8 * 12000))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external":
            file.create_dataset("ecg", (1000, 12), "<f8", external=[(str(tmp_path / "secret"), 0, 8 * 12000)])
        else:
            layout = h5py.VirtualLayout((1000, 12), "<f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "x", shape=(1000, 12))
            file.create_virtual_dataset("ecg", layout)
    with pytest.raises(EtpError, match=r"unreadable signal: ecg of a\.h5 is in another file"):
        read_signal(tmp_path / "a.h5", Layout(fs=100))


@pytest.mark.parametrize("command", ["propose", "measure"])
def test_outputs_keep_files_of_another_kind(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write_folder(tmp_path / "shards", sample_splits())
    before = (shards / "build.json").read_bytes()
    split = ["--split", "test"] if command == "measure" else []
    with pytest.raises(SystemExit) as stop:
        main.main(["waveform", command, "--shards", str(shards), "--out", str(shards / "build.json"), *split])
    assert stop.value.code == 2 and "holds something other than" in capsys.readouterr().err
    assert (shards / "build.json").read_bytes() == before


@pytest.mark.parametrize("taken", ["link", "file", "open", "another user's"])
def test_a_staging_folder_of_someone_else_is_refused(
    taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(write_folder(tmp_path / "shards", sample_splits())), "/private/shards", recursive=True)
    monkeypatch.setattr(remote.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = remote.default_folder()
    (tmp_path / "other").mkdir(mode=0o700)
    if taken == "link":
        folder.symlink_to(tmp_path / "other")
    elif taken == "file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o770 if taken == "open" else 0o700)
    if taken == "another user's":
        if os.getuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 12345, -1)
    with pytest.raises(EtpError, match=f"{folder.name}: (is|belongs) .*; delete it, or name a --data.stage-dir"):
        remote.staged("memory://private/shards")
    assert not any((tmp_path / "other").iterdir())


def test_a_copy_counts_only_with_its_digest(tmp_path: Path) -> None:
    shards = write_folder(tmp_path / "shards", sample_splits())
    path = next(shards.glob("sample-test*"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/flipped/shards", recursive=True)
    with pytest.raises(
        EtpError, match=f"{path.name}: its SHA-256 differs from build.json; copy the shards there again"
    ):
        remote.staged("memory://flipped/shards", str(tmp_path / "stage"), lambda line: None)
    assert not list((tmp_path / "stage").rglob(path.name))
