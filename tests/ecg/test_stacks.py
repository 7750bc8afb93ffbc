"""Files with many ECGs: HDF5 as CODE-15 has it, npz, npy and Parquet; and the same kinds with one ECG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from etp_jax.ecg.leads import LEADS, Layout, Recording
from etp_jax.ecg.read import read_signal
from etp_jax.ecg.stacks import PADDING
from etp_jax.errors import EtpError
from tests.helpers.lacking import lacking
from tests.helpers.wfdb_samples import wave

COUNT, SAMPLES = 5, 300
STACK = np.stack([(wave(SAMPLES, 12) + number).astype(np.float32) / 1000 for number in range(COUNT)])
"""[N, T, leads] in millivolts."""
IDS = np.array([40, 7, 123, 9, 1000])
LAYOUT = Layout(fs=400, unit="mV")
AT = slice(20, -30)
"""Samples of a row that are not padding."""


def padded() -> np.ndarray:
    stack = STACK.copy()
    stack[:, : AT.start] = 0
    stack[:, AT.stop :] = 0
    return stack


def save_hdf5(path: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            values = np.asarray(values)
            file[name] = values.astype("S") if values.dtype.kind == "U" else values


def save_parquet(path: Path, arrays: dict[str, Any]) -> None:
    frame = {}
    for name, values in arrays.items():
        if np.ndim(values) == 1:
            frame[name] = values
        else:
            frame |= {lead: list(values[:, :, number]) for number, lead in enumerate(LEADS)}
    pd.DataFrame(frame).to_parquet(path, row_group_size=2)


def save_nested_parquet(path: Path, arrays: dict[str, Any]) -> None:
    frame = {
        name: values if np.ndim(values) == 1 else [row.tolist() for row in values] for name, values in arrays.items()
    }
    pd.DataFrame(frame).to_parquet(path)


SAVERS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "a.hdf5": save_hdf5,
    "a.H5": save_hdf5,
    "a.npz": lambda path, arrays: np.savez(path, allow_pickle=False, **arrays),
    "packed.npz": lambda path, arrays: np.savez_compressed(path, allow_pickle=False, **arrays),
    "a.parquet": save_parquet,
    "nested.parquet": save_nested_parquet,
}


def error_of(path: Path, layout: Layout = LAYOUT) -> str:
    with pytest.raises(EtpError) as error:
        read_signal(path, layout)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(found: Recording, number: int, samples: slice = slice(None)) -> None:
    np.testing.assert_allclose(found.signal, STACK[number, samples].astype(float) * 1000, rtol=1e-12)
    assert found.fs == 400
    assert found.channels == LEADS


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("ids", [IDS, IDS.astype(str), IDS.astype(np.uint16)])
def test_a_row_is_found_by_its_id(tmp_path: Path, name: str, ids: np.ndarray) -> None:
    SAVERS[name](tmp_path / name, {"exam_id": ids, "tracings": padded()})
    for number, key in enumerate(IDS):
        found = read_signal(tmp_path / f"{name}#{key}", LAYOUT)
        same(found, number, AT)
        assert found.notes == (PADDING,)
    assert error_of(tmp_path / f"{name}#8") == f"stack: no row of {name} has exam_id 8"


@pytest.mark.parametrize("name", [name for name in SAVERS if name != "a.parquet"])
def test_leads_by_samples_and_rows_by_number(tmp_path: Path, name: str) -> None:
    SAVERS[name](tmp_path / name, {"ecg": STACK.transpose(0, 2, 1)})
    for number, text in enumerate(["0", "1", "2.0"]):
        found = read_signal(tmp_path / f"{name}#{text}", LAYOUT)
        same(found, number)
        assert found.notes == ("stack without ids: rows are counted from 0",)
    assert "'5' is no number of a row from 0 to 4" in error_of(tmp_path / f"{name}#5")
    assert "'x' is no number of a row" in error_of(tmp_path / f"{name}#x")


def test_an_npy_stack(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STACK)
    same(read_signal(tmp_path / "a.npy#3", LAYOUT), 3)
    assert "a.npy holds 5 ECGs; name one of them as FILE#ROW" in error_of(tmp_path / "a.npy")


def test_a_single_lead(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.h5", {"ecg": STACK[:, :, 1], "id": IDS})
    found = read_signal(tmp_path / "a.h5#123", Layout(fs=400, unit="mV", leads=("II",)))
    np.testing.assert_allclose(found.signal[:, 0], STACK[2, :, 1].astype(float) * 1000)


@pytest.mark.parametrize("name", SAVERS)
def test_a_stack_without_a_row(tmp_path: Path, name: str) -> None:
    SAVERS[name](tmp_path / name, {"exam_id": IDS, "tracings": STACK})
    message = error_of(tmp_path / name)
    assert f"{name} holds 5 ECGs" in message and "--row-column" in message


def test_ids_that_are_not_unique(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.h5", {"exam_id": [1, 2, 2, 3, 4], "file_id": [5, 5, 5, 5, 6], "tracings": STACK})
    assert "several arrays of ids: exam_id, file_id" in error_of(tmp_path / "a.h5#1")
    save_hdf5(tmp_path / "b.h5", {"exam_id": [1, 2, 2, 3, 4], "tracings": STACK})
    same(read_signal(tmp_path / "b.h5#3", LAYOUT), 3)
    assert error_of(tmp_path / "b.h5#2") == "stack: 2 rows of b.h5 have exam_id 2"
    save_hdf5(tmp_path / "c.h5", {"exam_id": IDS, "patient_id": [5, 5, 5, 5, 6], "tracings": STACK})
    same(read_signal(tmp_path / "c.h5#7", LAYOUT), 1)


@pytest.mark.parametrize("ids", [IDS.astype(float), IDS[:, None], IDS.astype(float).astype(str)])
def test_ids_of_other_forms(tmp_path: Path, ids: np.ndarray) -> None:
    """Without them, 7 would be the number of a row."""
    save_hdf5(tmp_path / "a.hdf5", {"exam_id": ids, "patient_id": np.arange(COUNT), "ecg": STACK})
    for row in ("7", "7.0"):
        found = read_signal(tmp_path / f"a.hdf5#{row}", LAYOUT)
        np.testing.assert_allclose(found.signal, STACK[1] * 1000.0)


def test_ids_of_another_number(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.hdf5", {"exam_id": np.arange(COUNT + 1), "ecg": STACK})
    with pytest.raises(EtpError, match="holds 5 ECGs and 6 ids in exam_id"):
        read_signal(tmp_path / "a.hdf5#1", LAYOUT)


def test_an_array_for_each_record(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.h5", {"records/r1": STACK[0], "records/r2": STACK[1, :200]})
    same(read_signal(tmp_path / "a.h5#records/r1", LAYOUT), 0)
    same(read_signal(tmp_path / "a.h5#records/r2", LAYOUT), 1, slice(200))
    assert "holds 2 arrays of ECGs, not one: records/r1 (300 x 12), records/r2 (200 x 12)" in error_of(
        tmp_path / "a.h5#records/r3"
    )


@pytest.mark.parametrize("name", ["a.hdf5", "a.npz", "packed.npz"])
def test_a_file_of_one_ecg(tmp_path: Path, name: str) -> None:
    SAVERS[name](tmp_path / name, {"ecg": STACK[0].T, "fs": np.array(400)})
    same(read_signal(tmp_path / name, LAYOUT), 0)
    SAVERS[name](tmp_path / name, {"V1": STACK[0, :, 6], "II": STACK[0, :, 1], "time": np.arange(SAMPLES)})
    found = read_signal(tmp_path / name, LAYOUT)
    by_name = dict(zip(found.channels, found.signal.T, strict=True))
    np.testing.assert_allclose(by_name["V1"], STACK[0, :, 6].astype(float) * 1000)
    assert found.notes == ("array time left out",)


def test_a_parquet_file_of_one_ecg(tmp_path: Path) -> None:
    frame = pd.DataFrame(STACK[0], columns=[f"{lead} (uV)" for lead in LEADS])
    frame.insert(0, "time", np.arange(SAMPLES) / 400)
    frame.to_parquet(tmp_path / "a.parquet")
    found = read_signal(tmp_path / "a.parquet", Layout(fs=400))
    np.testing.assert_allclose(found.signal, STACK[0])
    assert (found.channels, found.notes) == (LEADS, ("column time left out",))
    assert "lead names" in error_of(_saved(tmp_path / "b.parquet", pd.DataFrame({"a": [1.0], "b": [2.0]})))


def _saved(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(path)
    return path


def test_a_row_of_a_huge_stack_is_read_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        tracings = file.create_dataset("tracings", (10**7, SAMPLES, 12), np.float32, chunks=(1, SAMPLES, 12))
        tracings[9_999_999] = STACK[4]
    same(read_signal(tmp_path / "a.hdf5#9999999", LAYOUT), 4)


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("tracings", (3, 10**12, 12), np.float32, chunks=(1, 1000, 12))
    assert error_of(tmp_path / "a.hdf5#0").startswith("size: ")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_dataset("ecg", (10**12, 12), np.float32, chunks=(1000, 12))
    assert error_of(tmp_path / "b.hdf5").startswith("size: ")


def test_a_changed_file_is_opened_again(tmp_path: Path) -> None:
    for number in range(2):
        save_hdf5(tmp_path / "new.hdf5", {"tracings": STACK[number:]})
        (tmp_path / "new.hdf5").replace(tmp_path / "a.hdf5")
        same(read_signal(tmp_path / "a.hdf5#0", LAYOUT), number)


@pytest.mark.parametrize("name", SAVERS)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    SAVERS[name](tmp_path / name, {"exam_id": IDS, "tracings": STACK})
    content = (tmp_path / name).read_bytes()
    for kept in (0, 10, 500, len(content) // 2):
        (tmp_path / name).write_bytes(content[:kept])
        for row in ("", "#40"):
            assert error_of(tmp_path / f"{name}{row}")


def test_what_the_layout_must_state(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.h5", {"exam_id": IDS, "tracings": STACK})
    assert "give --fs" in error_of(tmp_path / "a.h5#40", Layout(unit="mV"))
    assert "for 2 leads; name them with --leads" in error_of(tmp_path / "a.h5#40", Layout(fs=400, leads=("I", "II")))
    assert "no unit given: mV assumed" in read_signal(tmp_path / "a.h5#40", Layout(fs=400)).notes


def test_without_the_extra(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.h5", {"ecg": STACK[0]})
    with lacking("h5py", tmp_path):
        assert error_of(tmp_path / "a.h5") == "kind not read: a.h5 needs h5py; pip install 'etp-jax[clinical]'"
