from __future__ import annotations

import csv
import json
import os
import shutil
import signal as signals
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etp_jax.cli import main
from etp_jax.data_prep import build as build_module
from etp_jax.data_prep.archives.ptbxl import open_archive
from etp_jax.data_prep.build import build
from etp_jax.data_prep.reports import clean_report
from etp_jax.errors import EtpError
from etp_jax.shards import folder as folder_module
from etp_jax.shards.check import check_shards
from etp_jax.shards.pool import Processes
from etp_jax.shards.reader import Shards
from tests.helpers.ptbxl_samples import RECORDS, row_of, signal_of, write_archive, write_signal, write_table


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good archive, but for four records."""
    source = write_archive(tmp_path_factory.mktemp("ptbxl") / "source")
    (source / "records100/00000/00003_lr.dat").unlink()
    cut = source / "records100/00000/00009_lr.dat"
    cut.write_bytes(cut.read_bytes()[:999])
    flat, missing = signal_of(4), signal_of(5)
    flat[:, 10] = 0.3
    missing[100:110, 0] = np.nan
    write_signal(source, 4, p_signal=flat)
    write_signal(source, 5, p_signal=missing)
    return source


def test_some_leads_are_stored_in_the_usual_order(source: Path, tmp_path: Path) -> None:
    argv = ["prep", "ptbxl", "--source", str(source), "--workers", "1"]
    main.main([*argv, "--out", str(tmp_path / "all")])
    main.main([*argv, "--out", str(tmp_path / "some"), "--keep-leads", "V2", "aVR", "II"])
    every, some = Shards(tmp_path / "all"), Shards(tmp_path / "some")
    assert some.leads == ("II", "aVR", "V2") and some.fingerprint != every.fingerprint
    places = [every.leads.index(lead) for lead in some.leads]
    for split in every.splits:
        ours, theirs = some.split(split), every.split(split)
        rows = np.arange(len(theirs))
        np.testing.assert_array_equal(ours.ecg(rows), theirs.ecg(rows)[:, :, places])
        np.testing.assert_array_equal(ours.columns.lead_mask, theirs.columns.lead_mask[:, places])
    check_shards(some.folder)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many shards from few records."""
    monkeypatch.setattr(build_module, "SHARD_BYTES", 9 * 24_000)


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "SHARD_BYTES", 9 * 24_000)
        build(open_archive(source), out)
    return out


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder; the index, which may be deleted, apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".index" not in path.parts
    }


def test_records_are_the_archives(built, source):
    shards = Shards(built)
    assert shards.splits == {"train": 23, "validation": 3, "test": 2}
    assert len(shards.shard_files("train")) == 3
    assert check_shards(built).patients == RECORDS - 2
    studies = {study.record_id: study for study in open_archive(source).studies}
    for name in shards.splits:
        for record in shards.split(name):  # pyright: ignore[reportGeneralTypeIssues]
            study = studies[record.record_id]
            assert (study.split, study.patient_id) == (name, record.patient_id)
            assert (study.labels, study.likelihoods, study.sex) == (record.labels, record.likelihoods, record.sex)
            np.testing.assert_equal(record.age, study.age)
            assert record.report_original == study.report
            clean = clean_report(study.report)
            assert (record.report, record.statements) == (clean.report, clean.statements)
            if record.record_id not in ("4", "5"):
                expected = np.rint(1000 * signal_of(int(record.record_id))).astype(np.int16)
                np.testing.assert_array_equal(record.ecg, expected, strict=True)


def test_rejects_and_verdicts(built):
    with (built / "rejects.csv").open(newline="", encoding="utf-8") as file:
        rejects = list(csv.DictReader(file))
    assert rejects == [
        {"record_id": "3", "split": "train", "reason": "missing file: 00003_lr.dat"},
        {
            "record_id": "9",
            "split": "test",
            "reason": "unreadable signal: 00009_lr.dat holds 999 bytes, not 1000 samples of 12 leads; copy it again",
        },
    ]
    build = Shards(built).build
    assert build["rejects"] == {"missing file": 1, "unreadable signal": 1}
    assert build["verdicts"] == {"empty report": 10, "flat lead": 1, "repaired lead": 1, "good signal": 26}
    assert build["translation"]["all splits"]["reports"] == 3
    records = {record.record_id: record for record in Shards(built).split("train")}  # pyright: ignore[reportGeneralTypeIssues]
    assert records["4"].lead_mask.tolist() == [True] * 10 + [False, True]
    assert not records["4"].ecg[:, 10].any()


def test_records_without_a_report_stay_but_form_no_pair(built):
    shards = Shards(built)
    table = shards.reports("train")
    columns = shards.split("train").columns
    blank = [place for place, report in enumerate(columns.report_original) if not report.strip()]
    assert blank
    assert set(table.paired.tolist()) == set(range(23)) - set(blank)


def test_worker_processes_change_nothing(built, source, tmp_path):
    build(open_archive(source), tmp_path / "shards", Processes(2))
    assert content(tmp_path / "shards") == content(built)


def test_a_finished_folder_is_left_alone(built, source, capsys):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    print(build(open_archive(source), built))
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before
    assert "time: none, the folder was finished already" in capsys.readouterr().out


def test_summary(source, tmp_path, capsys):
    print(build(open_archive(source, name="mine"), tmp_path / "shards"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[:9] == [
        "records: 28 (train 23, validation 3, test 2)",
        f"rejected: 2 (listed in {tmp_path / 'shards' / 'rejects.csv'})",
        "  missing file: 1",
        "  unreadable signal: 1",
        "records by quality verdict (a record may have several):",
        "  empty report: 10",
        "  flat lead: 1 (V5 1)",
        "  good signal: 26",
        "  repaired lead: 1 (I 1)",
    ]
    assert printed[9].startswith("translated, all splits: ")
    assert printed[10].startswith("translated, test: ")
    assert printed[11].endswith(" records/s")
    assert printed[12] == f"shards: {tmp_path / 'shards'}"
    assert (tmp_path / "shards" / "mine-test.tfrecord-00000-of-00001").exists()


class Killed(BaseException):
    """Stands for a kill: nothing of the build catches it."""


def test_killed_at_every_write(built, source, tmp_path, monkeypatch):
    """Stops again and again, after one, two or three renames, and goes on in the same folder until it is finished."""
    out, replace = tmp_path / "shards", Path.replace
    renames, allowed = 0, 0

    def stopping(path: Path, target: Path) -> Path:
        nonlocal renames
        if renames == allowed:
            raise Killed
        renames += 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stopping)
    for stops in range(30):
        renames, allowed = 0, 1 + stops % 3
        try:
            build(open_archive(source), out)
        except Killed:
            with pytest.raises(EtpError):
                Shards(out)
            continue
        break
    assert 5 < stops < 29
    assert content(out) == content(built)


PROGRAM = """
import sys, time
from pathlib import Path
from etp_jax.data_prep import build
from etp_jax.data_prep.archives.ptbxl import open_archive
from etp_jax.shards.pool import Processes

if __name__ == "__main__":
    build.SHARD_BYTES = 9 * 24_000
    build.build(open_archive(Path(sys.argv[1])), Path(sys.argv[2]), Processes(2))
"""


def processes_of(marker: str) -> list[int]:
    """Running processes whose command line or environment holds the marker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_kill_9_and_resume(built, source, tmp_path):
    out, program = tmp_path / "shards", tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(source), str(out)]
    environment = {**os.environ, "BUILD_TEST": str(out)}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    wait_until(lambda: bool(list((out / ".parts").glob("ptbxl-*"))))
    process.send_signal(signals.SIGKILL)
    process.wait()
    with pytest.raises(EtpError, match="unfinished"):
        Shards(out)
    wait_until(lambda: not processes_of(f"BUILD_TEST={out}"))  # no worker outlives the main process
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)
    assert content(out) == content(built)


def test_a_shard_that_vanished_before_the_end_is_written_again(built, source, tmp_path, monkeypatch):
    out = tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "write_metadata", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            build(open_archive(source), out)
    (out / "ptbxl-train.tfrecord-00000-of-00003").unlink()
    (out / "ptbxl-train.tfrecord-00002-of-00003").write_bytes(b"cut")
    build(open_archive(source), out)
    assert content(out) == content(built)


def test_other_builds_and_other_folders_are_not_touched(built, source, tmp_path, monkeypatch):
    with pytest.raises(EtpError, match="holds shards of another source or preparation"):
        build(open_archive(source, 500), built)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(EtpError, match="is not empty and was not begun by `etp prep`"):
        build(open_archive(source), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "write_metadata", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            build(open_archive(source), tmp_path / "shards")
    with pytest.raises(EtpError, match="holds an unfinished build of another source"):
        build(open_archive(source, 500), tmp_path / "shards")


def test_missing_500_hz_files_are_rejects(source, tmp_path):
    summary = build(open_archive(source, 500), tmp_path / "shards")
    assert Shards(tmp_path / "shards").splits == {"train": 2}
    assert Shards(tmp_path / "shards").split("train")[1].ecg.shape == (5000, 12)
    assert summary.build["rejects"] == {"missing file": RECORDS - 2}
    check_shards(tmp_path / "shards")


def test_no_usable_record(source, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    write_table(tmp_path / "a/ptbxl_database.csv", [row_of(1)])
    (tmp_path / "a/scp_statements.csv").write_bytes((source / "scp_statements.csv").read_bytes())
    with pytest.raises(EtpError, match=r"no usable record; missing file: 00001_lr.hea"):
        build(open_archive(tmp_path / "a"), tmp_path / "b/shards")


def test_a_patient_in_two_splits_stops_the_build(source, tmp_path):
    write_table(tmp_path / "ptbxl_database.csv", [row_of(1), {**row_of(8), "patient_id": "1001"}])
    (tmp_path / "scp_statements.csv").write_bytes((source / "scp_statements.csv").read_bytes())
    with pytest.raises(EtpError, match="patient 1001 is in two splits"):
        build(open_archive(tmp_path), tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_records_with_one_id_are_rejected(source, tmp_path):
    folder = tmp_path / "archive"
    shutil.copytree(source, folder)
    write_table(folder / "ptbxl_database.csv", [row_of(1), row_of(2), {**row_of(8), "ecg_id": "1"}])
    summary = build(open_archive(folder), tmp_path / "shards")
    assert Shards(tmp_path / "shards").splits == {"train": 1}
    assert summary.build["rejects"] == {"repeated record id": 2}
    with (tmp_path / "shards/rejects.csv").open(newline="", encoding="utf-8") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["repeated record id: 2 records have it"] * 2


def test_a_signal_of_two_patients_is_rejected(source, tmp_path):
    folder = tmp_path / "archive"
    shutil.copytree(source, folder)
    rows = [row_of(1), row_of(2), {**row_of(8), "filename_lr": f"./{row_of(1)['filename_lr']}"}]
    rows += [{**row_of(11), "patient_id": "1002", "filename_lr": row_of(2)["filename_lr"]}]  # of the same patient
    write_table(folder / "ptbxl_database.csv", rows)
    summary = build(open_archive(folder), tmp_path / "shards")
    assert Shards(tmp_path / "shards").splits == {"train": 2}
    assert summary.build["rejects"] == {"repeated signal": 2}
    with (tmp_path / "shards/rejects.csv").open(newline="", encoding="utf-8") as file:
        reasons = {
            row["record_id"]: row["reason"].partition(" is that of several patients;")[0]
            for row in csv.DictReader(file)
        }
    path = row_of(1)["filename_lr"]
    assert reasons == {"1": f"repeated signal: {path}", "8": f"repeated signal: ./{path}"}


@pytest.mark.parametrize("other", ["a", "a.HEA", "a.dat", "./a", "sub/../a.hea"])
def test_a_signal_is_known_by_any_spelling(source, other):
    archive = open_archive(source)
    studies = [
        replace(study, signal=signal) for study, signal in zip(archive.studies, ("a.hea", other, "b"), strict=False)
    ]
    kept = build_module.without_repeats(replace(archive, studies=tuple(studies))).studies
    assert [study.signal for study in kept] == ["b"]


def test_an_out_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EtpError, match=r"file/shards/.parts: Not a directory; fix this and run"):
        build(open_archive(source), tmp_path / "file" / "shards")


@pytest.mark.slow
def test_a_full_disk(source, tmp_path):
    """A limit on the size of files stands for the full disk: the write itself fails."""
    out = tmp_path / "shards"
    code = (
        "import resource, sys; from pathlib import Path; from etp_jax.data_prep import build;"
        "from etp_jax.data_prep.archives.ptbxl import open_archive; from etp_jax.errors import EtpError\n"
        "from etp_jax.shards.pool import Processes\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "    try: build.build(open_archive(Path(sys.argv[1])), Path(sys.argv[2]), Processes(2))\n"
        "    except EtpError as error: print(error)\n"
    )
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, tmp_path / "program.py", source, out]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(f"{out}: File too large; fix this and run the same command again")
    assert not list(out.glob(".*.tmp"))
    with pytest.raises(EtpError, match="unfinished"):
        Shards(out)
    assert json.loads((out / ".parts/recipe.json").read_text())["fs"] == 100
