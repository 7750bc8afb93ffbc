from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from etp_jax.cli import main
from etp_jax.data_prep import build as build_module
from etp_jax.data_prep import parts as parts_module
from etp_jax.data_prep.archives.ptbxl import open_archive
from etp_jax.data_prep.build import build, build_part
from etp_jax.data_prep.parts import Part, merge, parse_part
from etp_jax.errors import EtpError
from etp_jax.shards import folder as folder_module
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from tests.helpers.ptbxl_samples import RECORDS, row_of, write_archive, write_table


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a record whose label is unknown, one without signal, and one that is cut."""
    source = write_archive(tmp_path_factory.mktemp("ptbxl") / "source")
    rows = [row_of(number) for number in range(RECORDS)]
    write_table(source / "ptbxl_database.csv", [{**rows[0], "scp_codes": "{'XYZ': 0}"}, *rows[1:]])
    (source / "records100/00000/00003_lr.dat").unlink()
    cut = source / "records100/00000/00009_lr.dat"
    cut.write_bytes(cut.read_bytes()[:999])
    return source


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Any:
    """Many shards from few records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "SHARD_BYTES", 5 * 24_000)
        yield


@pytest.fixture(scope="module")
def whole(source: Path, small_shards: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in one go."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    build(open_archive(source), out)
    return out


@pytest.fixture(scope="module")
def made(source: Path, small_shards: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Built in three parts."""
    folder = tmp_path_factory.mktemp("parts")
    for number in (1, 2, 3):
        build_part(open_archive(source), folder / f"part{number}", Part(number, 3))
    return [folder / f"part{number}" for number in (1, 2, 3)]


@pytest.fixture
def parts(made: list[Path], tmp_path: Path) -> list[Path]:
    """The three, to be changed."""
    return [Path(shutil.copytree(part, tmp_path / part.name)) for part in made]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Killed(BaseException):
    """Stands for a kill: nothing of the program catches it."""


def killed(*_: object) -> None:
    raise Killed


def test_merged_parts_are_the_whole_build(whole, made, tmp_path):
    merged = merge([made[2], made[0], made[1]], tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)
    assert check_shards(tmp_path / "merged").patients == RECORDS - 3
    assert merged.build["rejects"] == {"missing file": 1, "unknown SCP code": 1, "unreadable signal": 1}
    rejects = (tmp_path / "merged/rejects.csv").read_text().splitlines()
    assert len(rejects) == 4 and rejects[1].startswith("0,train,unknown SCP code")
    assert merged.build["translation"]["all splits"]["reports"] == 3
    assert str(merged).splitlines()[0].startswith(f"records: {RECORDS - 3} (")


def test_a_part_prints_what_a_whole_build_prints(source, whole, tmp_path, capsys):
    """The counts of the parts add up to those of the whole; what the tables gave is printed by each."""
    counts: list[Counter[str]] = []
    prep = ["prep", "ptbxl", "--source", str(source)]
    for number, of, workers in (("1/1", "whole", "1"), ("1/2", "first", "2"), ("2/2", "second", "1")):
        main.main([*prep, "--out", str(tmp_path / of), f"--part={number}", "--workers", workers])
        lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        pairs = [line.rpartition(": ") for line in lines if "(" not in line]
        counts.append(Counter({name: int(count) for name, _, count in pairs}))
    all_, first, second = counts
    assert all_ and first["unknown SCP code"] == second["unknown SCP code"] == 1
    table = Counter({"unknown SCP code": 1})
    assert first + second - table == all_
    assert first["good signal"] and second["good signal"] and all_["missing file"] == 1


def test_shards_are_divided_evenly_and_linked(made, whole, tmp_path):
    shards = [sorted(part.glob("*.tfrecord-*")) for part in made]
    sizes = sorted(map(len, shards))
    assert sum(sizes) == len(list(whole.glob("*.tfrecord-*"))) and sizes[-1] - sizes[0] <= 1 and sizes[0] >= 2
    merge(made, tmp_path / "merged")
    assert all((tmp_path / "merged" / shard.name).samefile(shard) for part in shards for shard in part)


def test_without_hard_links_shards_are_copied(made, whole, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    merge(made, tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)
    assert not any((tmp_path / "merged" / path.name).samefile(path) for path in made[0].glob("*.tfrecord-*"))


def test_more_parts_than_shards(source, whole, tmp_path):
    folders = [tmp_path / str(number) for number in range(1, 14)]
    for number, folder in enumerate(folders, start=1):
        build_part(open_archive(source), folder, Part(number, 13))
    assert [path.name for path in folders[-1].iterdir()] == ["part.json"]
    merge(folders, tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)


def test_a_part_is_no_shard_folder_and_says_so(made):
    with pytest.raises(EtpError, match="part1: only a part of a build; join all its parts with `etp shards merge`"):
        Shards(made[0])


def test_a_finished_part_is_left_alone(source, made):
    before = {path: path.stat().st_mtime_ns for path in made[0].rglob("*")}
    summary = build_part(open_archive(source), made[0], Part(1, 3))
    assert {path: path.stat().st_mtime_ns for path in made[0].rglob("*")} == before
    assert "time: none, the part was finished already" in str(summary)


def test_a_finished_merge_is_left_alone(made, tmp_path):
    merge(made, tmp_path / "merged")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "merged").rglob("*")}
    assert "time: none, the folder was finished already" in str(merge(made, tmp_path / "merged"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "merged").rglob("*")} == before


def test_an_interrupted_part_is_completed(source, made, tmp_path, monkeypatch):
    out = tmp_path / "part2"
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "finish_part", killed)
        with pytest.raises(Killed):
            build_part(open_archive(source), out, Part(2, 3))
    sorted(out.glob("*.tfrecord-*"))[0].unlink()
    with pytest.raises(EtpError, match="part2: unfinished or no shard folder; run the same `etp prep` command again"):
        Shards(out)
    with pytest.raises(EtpError, match=r"part2: no finished part; run its `etp prep ... --part` command \(again\)"):
        merge([made[0], out, made[2]], tmp_path / "merged")
    for other in (Part(1, 3), Part(2, 4)):
        with pytest.raises(EtpError, match="holds an unfinished build of another source, preparation or part"):
            build_part(open_archive(source), out, other)
    build_part(open_archive(source), out, Part(2, 3))
    assert content(out) == content(made[1])


def test_an_interrupted_merge_is_completed(made, whole, tmp_path, monkeypatch):
    out = tmp_path / "merged"
    for module, name in ((parts_module, "whole_file"), (folder_module, "write_metadata")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError))
            patch.setattr(module, name, killed)
            with pytest.raises(Killed):
                merge(made, out)
        with pytest.raises(EtpError, match="unfinished"):
            Shards(out)
    merge(made, out)
    assert content(out) == content(whole)


def test_missing_parts_are_named(made, tmp_path):
    with pytest.raises(EtpError, match=r"part2: is one of 3 parts; missing: 1/3, 3/3; name all folders after --parts"):
        merge([made[1]], tmp_path / "merged")
    with pytest.raises(EtpError, match="nowhere: no finished part"):
        merge([*made[:2], tmp_path / "nowhere"], tmp_path / "merged")
    with pytest.raises(EtpError, match="name the folders of all parts"):
        merge([], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_missing_and_cut_shards_are_named(parts, tmp_path):
    shard = sorted(parts[1].glob("*.tfrecord-*"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(EtpError, match=f"{shard}: holds {len(data) - 1} bytes instead of {len(data)}; copy the part"):
        merge(parts, tmp_path / "merged")
    shard.unlink()
    with pytest.raises(EtpError, match=f"{shard}: missing; copy the part again"):
        merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_foreign_parts_are_refused(source, whole, parts, tmp_path):
    foreign = tmp_path / "foreign"
    build_part(open_archive(source, 500), foreign, Part(2, 3))
    with pytest.raises(EtpError, match=r"foreign: is a part of another build than .*part1: another source or prep"):
        merge([parts[0], foreign, parts[2]], tmp_path / "merged")
    build_part(open_archive(source), tmp_path / "halves", Part(2, 2))
    with pytest.raises(EtpError, match=r"halves: is part 2/2, but .*part1 is one of 3; all must divide alike"):
        merge([parts[0], tmp_path / "halves"], tmp_path / "merged")
    again = shutil.copytree(parts[0], tmp_path / "again")
    with pytest.raises(EtpError, match=r"again: is part 1/3 again, as .*part1 is; name every part once"):
        merge([*parts, again], tmp_path / "merged")
    with pytest.raises(EtpError, match="is a finished shard folder, not a part of one"):
        merge([whole], tmp_path / "merged")
    (parts[0] / "part.json").write_text("{")
    with pytest.raises(EtpError, match=r"part1/part.json: damaged \(.*\); prepare the part again"):
        merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_part_that_lost_a_note_is_noticed(parts, tmp_path):
    path = parts[2] / "part.json"
    damaged = json.loads(path.read_text())
    del damaged["notes"][0]
    path.write_text(json.dumps(damaged))
    with pytest.raises(EtpError, match=r"part.json: was changed after it was written; prepare the part again, or del"):
        merge(parts, tmp_path / "merged")
    del damaged["own_sha256"]  # as an earlier version wrote it
    path.write_text(json.dumps(damaged))
    with pytest.raises(EtpError, match=r"part.json and those of the other parts do not fit; prepare them again"):
        merge(parts, tmp_path / "merged")


def test_other_folders_are_not_touched(source, whole, parts, tmp_path):
    before = {folder: content(folder) for folder in (whole, parts[0])}
    with pytest.raises(EtpError, match="part1: holds a finished build or a part of one; choose another folder"):
        merge(parts, parts[0])
    with pytest.raises(EtpError, match="part1: holds a finished build or a part of one; choose another folder"):
        build(open_archive(source), parts[0])
    with pytest.raises(EtpError, match="part1: holds part 1/3 of a build; choose another folder or delete it"):
        build_part(open_archive(source), parts[0], Part(2, 3))
    with pytest.raises(EtpError, match="shards: holds a finished build or a part of one"):
        build_part(open_archive(source), whole, Part(2, 3))
    with pytest.raises(EtpError, match="is not empty and was not begun by `etp prep`"):
        merge(parts, tmp_path)
    assert {folder: content(folder) for folder in (whole, parts[0])} == before


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "1/", "/2", "a/b", "1/2/3", "-1/2", "", f"1/{10**50}"])
def test_wrong_parts(text, tmp_path, capsys):
    with pytest.raises(EtpError, match=r"must be i/n with i from 1 to n, such as 2/3"):
        parse_part(text)
    with pytest.raises(SystemExit) as stop:
        main.main(["prep", "ptbxl", "--source", str(tmp_path), "--out", str(tmp_path / "out"), f"--part={text}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"etp: part {text!r}: must be i/n with i from 1 to n, such as 2/3\n"


def test_command_line(source, whole, tmp_path, capsys):
    prep = ["prep", "ptbxl", "--source", str(source), "--workers", "1"]
    for number in ("1", "2"):
        main.main([*prep, "--out", str(tmp_path / number), "--part", f"{number}/2"])
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith(f"part {number}/2: ")
        assert printed[-1].endswith("etp shards merge --parts ... --out SHARDS")
    out = str(tmp_path / "merged")
    main.main(["prep", "merge", "--parts", str(tmp_path / "1"), str(tmp_path / "2"), "--out", out])
    assert capsys.readouterr().out.splitlines()[-1] == f"shards: {out}"
    main.main(["check", out])
    assert f"sound; {RECORDS - 3} records" in capsys.readouterr().out
    assert content(tmp_path / "merged") == content(whole)
