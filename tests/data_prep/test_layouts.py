"""Archives in the layouts of CODE-15, LUDB, CinC 2017 and DICOM, by the commands of docs/data.md."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from etp_jax.cli import main
from etp_jax.data_prep.archives.table import TableColumns, open_archive
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS, Layout, Recording
from etp_jax.ecg.prepare import prepare
from etp_jax.ecg.stacks import PADDING
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record
from tests.helpers import clinical_files
from tests.helpers.small_run import small_config, write_run, write_shards
from tests.helpers.wfdb_samples import write_record

COUNT = 120
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def beats(number: int, fs: int, seconds: float, leads: int) -> np.ndarray:
    """[T, leads] int16 in microvolts: narrow beats, wide ones in every third record."""
    rng = np.random.default_rng(number)
    times = np.arange(round(fs * seconds)) / fs
    width = 0.08 if number % 3 == 0 else 0.02
    wave = np.exp(-(((times[:, None] - np.arange(0.5, seconds, 0.8)) / width) ** 2)).sum(axis=1)
    return (wave[:, None] * rng.uniform(400, 1200, leads) + rng.normal(0, 10, (len(times), leads))).astype(np.int16)


def write_code15(folder: Path) -> None:
    """Two HDF5 files whose ids are not in the order of the table; the last row of each is empty, as in the original."""
    folder.mkdir()
    rows = []
    for part in range(2):
        numbers = np.random.default_rng(part).permutation(np.arange(part, COUNT, 2))
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"] = np.append(1000 + numbers, 0)
            tracings = file.create_dataset("tracings", (len(numbers) + 1, 4096, 12), np.float32)
            for row, number in enumerate(numbers.tolist()):
                tracings[row, 648:3448] = beats(number, 400, 7, 12) / 1000
        for number in sorted(numbers.tolist()):
            flags = [False] * 2 + [number % 3 == 0] + [False] * 2 + [number % 5 == 0]
            rows.append(
                [1000 + number, 30 + number % 60, number % 2 == 0, 50.5, *flags, 9000 + number // 2, "", "", ""]
            )
            rows[-1].append(f"exams_part{part}.hdf5")
    names = "exam_id age is_male nn_predicted_age 1dAVb RBBB LBBB SB ST AF patient_id death timey normal_ecg trace_file"
    pd.DataFrame(rows, columns=names.split()).to_csv(folder / "exams.csv", index=False)


def write_ludb(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    rows = []
    for number in range(1, COUNT + 1):
        rhythm = "Atrial flutter, typical" if number % 3 == 0 else "Sinus rhythm"
        comments = ["#<age>: 51", "#<sex>: F", "#<diagnoses>:", f"#Rhythm: {rhythm}."]
        names = [lead.lower() for lead in LEADS]
        signal = beats(number, 500, 10, 12)
        write_record(folder / "data" / str(number), signal, names, gain="1000(0)/mV", comments=comments)
        rows.append([number, "F\n" if number % 2 else "M\n", ">89\n" if number == 1 else "51\n", f"{rhythm}\n"])
    pd.DataFrame(rows, columns=["ID", "Sex", "Age", "Rhythms"]).to_csv(folder / "ludb.csv", index=False)


def write_cinc2017(folder: Path) -> None:
    folder = folder.with_name("training2017")
    folder.mkdir()
    for number in range(COUNT):
        signal = beats(number, 300, 9 + number % 3, 1)
        write_record(folder / f"A{number:05}", signal, ["ECG"], fs=300, format="16+24", suffix="mat")
    lines = [f"A{number:05},{'A' if number % 3 == 0 else 'N'}\n" for number in range(COUNT)]
    (folder / "REFERENCE.csv").write_text("".join(lines))


def write_dicom(folder: Path) -> None:
    folder.mkdir()
    rows = [["file", "patient", "finding"]]
    for number in range(COUNT):
        group = clinical_files.dicom_group(beats(number, 500, 10, 12), LEADS, 500, gain=1)
        says = "Left bundle branch block" if number % 3 == 0 else "Normal ECG"
        texts = (says, f"Confirmed by DR {clinical_files.FAMILY}", f"{clinical_files.GIVEN} was seen on 03-JUN-2014")
        clinical_files.write_dicom(folder / f"{number}.dcm", [group], texts)
        rows.append([f"{number}.dcm", f"p{number // 2}", "LBBB" if number % 3 == 0 else "NORM"])
    with (folder / "findings.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "CODE-15%": ("code15", write_code15),
    "LUDB": ("ludb", write_ludb),
    "CinC 2017": ("cinc2017", write_cinc2017),
    "A folder of DICOM files": ("dicom", write_dicom),
}


def commands(heading: str) -> list[str]:
    """The commands of a section of docs/data.md, each on one line."""
    section = DOCS.read_text(encoding="utf-8").split(f"\n### {heading}\n")[1]
    block = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0]
    return block.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run of 100 Hz, 12 leads and 10 s, as the documented commands build shards."""
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder / "run", small_config(write_shards(folder / "shards", samples=1000)))


def walk(folder: Path, heading: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """Writes the archive and runs the commands; returns the shards."""
    name, write = LAYOUTS[heading]
    write(folder / name)
    (folder / "runs").mkdir()
    (folder / "runs" / "mine").symlink_to(run)
    monkeypatch.chdir(folder)
    for command in commands(heading):
        if command.startswith("etp "):
            workers = ["--workers", "1"] * command.startswith("etp prep ")
            main.main([*shlex.split(command)[1:], *workers])
        elif not command.startswith("pip "):
            subprocess.run(command, shell=True, check=True)
    return Shards(folder / "shards" / name)


def records(shards: Shards) -> dict[str, Record]:
    splits = [shards.split(name) for name in shards.build["splits"]]
    return {split[place].record_id: split[place] for split in splits for place in range(len(split))}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Callable[[str], Shards]:
    """Walks through a layout, once for all tests of this module."""

    @cache
    def shards(heading: str) -> Shards:
        with pytest.MonkeyPatch.context() as monkeypatch:
            return walk(tmp_path_factory.mktemp("layout"), heading, run, monkeypatch)

    return shards


@pytest.mark.parametrize("heading", LAYOUTS)
def test_from_the_archive_to_figures(heading: str, walked: Callable[[str], Shards], run: Path) -> None:
    shards, name = walked(heading), LAYOUTS[heading][0]
    assert len(records(shards)) == COUNT and not shards.build["rejects"]
    (result,) = (run / "evaluation").glob(f"{name}-*.json")
    assert json.loads(result.read_text())["task"] == name


def test_code15(walked: Callable[[str], Shards]) -> None:
    shards = walked("CODE-15%")
    found = records(shards)
    assert shards.build["notes"] == {PADDING: COUNT}
    assert shards.build["verdicts"]["padded"] == COUNT
    for number in (0, 1, 57):
        record = found[f"{1000 + number}"]
        expected = prepare(Recording(beats(number, 400, 7, 12).astype(float), 400, LEADS), 100, 1000)
        np.testing.assert_allclose(record.ecg, expected.ecg, atol=1)
        assert (record.patient_id, record.age) == (str(9000 + number // 2), 30 + number % 60)
        assert record.sex == ("male" if number % 2 == 0 else "female")
        assert record.labels == ("LBBB",) * (number % 3 == 0) + ("AF",) * (number % 5 == 0)


def test_code15_with_a_csv_file_for_each_ecg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "exam_id age is_male nn_predicted_age 1dAVb RBBB LBBB SB ST AF patient_id death timey normal_ecg trace_file"
    rows = []
    (tmp_path / "code15").mkdir()
    for number in range(6):
        signal = pd.DataFrame(beats(number, 400, 7, 12) / 1000, columns=list(LEADS))
        signal.to_csv(tmp_path / "code15" / f"{number}.csv", index=number % 2 == 0)
        flags = [False] * 5 + [number % 2 == 0]
        rows.append([number, 30 + number, True, 50.5, *flags, 9000, False, 1.5, "", f"{number}.csv"])
    pd.DataFrame(rows, columns=names.split()).to_csv(tmp_path / "code15" / "exams.csv", index=False)
    monkeypatch.chdir(tmp_path)
    command = commands("CODE-15%")[0].replace("--row-column exam_id", "--workers 1")
    main.main(shlex.split(command)[1:])
    found = records(Shards(tmp_path / "shards" / "code15"))
    assert len(found) == 6
    for number in range(6):
        record = found[str(number)]
        expected = prepare(Recording(beats(number, 400, 7, 12).astype(float), 400, LEADS), 100, 1000)
        np.testing.assert_allclose(record.ecg, expected.ecg, atol=1)
        assert (record.age, record.sex, record.labels) == (30 + number, "male", ("AF",) * (number % 2 == 0))


def test_ludb(walked: Callable[[str], Shards]) -> None:
    found = records(walked("LUDB"))
    assert (found["3"].labels, found["3"].age, found["3"].sex) == (("Atrial flutter, typical",), 51, "female")
    assert (found["2"].labels, found["2"].sex) == (("Sinus rhythm",), "male")
    assert found["1"].age == 51  # the header fills what the table lacks
    expected = prepare(Recording(beats(3, 500, 10, 12).astype(float), 500, LEADS), 100, 1000)
    np.testing.assert_array_equal(found["3"].ecg, expected.ecg)


def test_cinc2017(walked: Callable[[str], Shards]) -> None:
    shards = walked("CinC 2017")
    record = records(shards)["A00004"]
    assert (record.labels, record.lead_mask.tolist()) == (("N",), [True] + [False] * 11)
    assert shards.build["notes"]["ECG read as I by --leads"] == COUNT
    expected = prepare(Recording(beats(4, 300, 10, 1).astype(float), 300, ("I",)), 100, 1000)
    np.testing.assert_array_equal(record.ecg, expected.ecg)


def test_dicom(walked: Callable[[str], Shards]) -> None:
    shards = walked("A folder of DICOM files")
    record = records(shards)["3.dcm"]
    assert record.statements == ("Left bundle branch block", "___ was seen on ___")
    assert (record.labels, record.age, record.sex) == (("LBBB",), 63, "female")
    assert shards.build["notes"] == {"report of the signal file": COUNT}


def test_nothing_of_a_patient_leaves_dicom_files(
    walked: Callable[[str], Shards], run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = walked("A folder of DICOM files")
    archive = shards.folder.parents[1] / "dicom"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    content = (archive / "0.dcm").read_bytes()
    for number, length in enumerate(np.linspace(140, len(content), 40, dtype=int).tolist()):
        (damaged / f"{number}.dcm").write_bytes(content[:length])
    task = str(shards.folder.parents[1] / "dicom.json")
    for record in (archive / "3.dcm", damaged):
        argv = ["predict", str(record), "--run", str(run), "--task", task, "--out", str(tmp_path / "out")]
        main.main(argv)
    private = (
        clinical_files.FAMILY,
        clinical_files.GIVEN,
        clinical_files.ID,
        clinical_files.BORN,
        "19510502",
        "JUN-2014",
    )
    written = [
        path for folder in (shards.folder, run, tmp_path / "out") for path in folder.rglob("*") if path.is_file()
    ]
    written.append(shards.folder.parents[1] / "dicom.json")
    texts = [path.read_bytes().lower() for path in written]
    texts += [text.lower().encode() for text in capfd.readouterr()]
    assert not [word for word in private for text in texts if word.lower().encode() in text]


def test_rows_that_are_not_understood(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ecg_id=np.arange(3), ecg=np.stack([beats(number, 100, 10, 12) for number in range(3)]))
    rows = [
        "file,row,AF,SR",
        "a.npz,0,1,0",
        "a.npz,1.0,,True",
        "a.npz,7,0,0",
        "a.npz,2,2,0",
        "a.npz,,0,0",
        "a.edf,1,0,0",
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    columns = TableColumns(signal_column="file", row_column="row", label_columns=("AF", "SR"))
    archive = open_archive(tmp_path / "t.csv", columns, Layout(fs=100, unit="uV"))
    build(archive, tmp_path / "shards")
    shards = Shards(tmp_path / "shards")
    found = records(shards)
    assert {name: record.labels for name, record in found.items()} == {"a.npz#0": ("AF",), "a.npz#1.0": ("SR",)}
    np.testing.assert_array_equal(found["a.npz#1.0"].ecg, beats(1, 100, 10, 12))
    assert shards.build["notes"]["empty cell of label AF counts as absent"] == 1
    reasons = {row["record_id"]: row["reason"] for row in csv.DictReader((tmp_path / "shards" / "rejects.csv").open())}
    assert reasons == {
        "a.npz#7": "stack: no row of a.npz has ecg_id 7",
        "a.npz#2": "labels: '2' in column AF is neither true nor false",
        "a.npz#": "row: the cell is empty",
        "a.edf#1": "row: a.edf holds no rows; files that do are .npz, .npy, .h5, .hdf5, .parquet",
    }
