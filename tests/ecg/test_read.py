"""The dispatch by suffix, MATLAB and NumPy files, and hostile files of every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.ecg import read as read_module
from etp_jax.ecg.leads import LEADS, Layout, Recording
from etp_jax.ecg.read import SUFFIXES, read_signal
from etp_jax.errors import EtpError
from etp_jax.predict.run import records_in
from tests.helpers.lacking import lacking
from tests.helpers.wfdb_samples import wave, write_record

SAMPLES = wave(300, 12)
LAYOUT = Layout(fs=500, unit="uV")


def save_v73(path: Path, content: dict[str, Any]) -> None:
    """Writes what MATLAB writes with `save -v7.3`: HDF5 after 512 bytes, axes reversed, classes as attributes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("#refs#")["a"] = np.zeros((2, 3))
        for name, value in content.items():
            group = file
            if isinstance(value, dict):
                group = file.create_group(name)
                group.attrs["MATLAB_class"] = np.bytes_("struct")
            for key, item in value.items() if isinstance(value, dict) else [(name, value)]:
                text = isinstance(item, str)
                data = np.array([list(map(ord, item))], np.uint16) if text else np.atleast_2d(item)
                dataset = group.create_dataset(key, data=data.T)
                kind = {"float64": "double", "float32": "single"}.get(str(data.dtype), str(data.dtype))
                dataset.attrs["MATLAB_class"] = np.bytes_("char" if text else kind)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def save_v5(path: Path, content: dict[str, Any]) -> None:
    scipy.io.savemat(path, content)


def error_of(path: Path, layout: Layout = LAYOUT) -> str:
    with pytest.raises(EtpError) as error:
        read_signal(path, layout)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_layout_is_checked_for_every_kind_of_file(tmp_path: Path) -> None:
    write_record(tmp_path / "a", SAMPLES)
    for layout in (Layout(fs=0), Layout(fs=-1), Layout(unit="mm")):
        assert "--fs is" in error_of(tmp_path / "a", layout) or "'mm' is not one of" in error_of(tmp_path / "a", layout)


@pytest.mark.parametrize("packed", [False, True])
def test_logical_matrices_are_no_samples(packed: bool, tmp_path: Path) -> None:
    flags = SAMPLES > 0
    scipy.io.savemat(tmp_path / "a.mat", {"val": flags}, do_compression=packed)
    np.save(tmp_path / "a.npy", flags)
    np.savez(tmp_path / "a.npz", val=flags)
    np.save(tmp_path / "b.npy", flags.astype(float))
    for name in ("a.mat", "a.npy", "a.npz", "b.npy"):
        assert re.search(r"not numbers|0 arrays of samples|holds only 0 and 1", error_of(tmp_path / name))
    scipy.io.savemat(tmp_path / "a.mat", {"val": SAMPLES.astype(np.int16), "usable": flags, "s": {"m": flags}})
    np.testing.assert_array_equal(read_signal(tmp_path / "a.mat", LAYOUT).signal, SAMPLES.astype(np.int16))


@pytest.mark.parametrize("save", [save_v5, save_v73])
@pytest.mark.parametrize(
    "content",
    [
        {"val": SAMPLES.T},
        {"val": SAMPLES},
        {"val": SAMPLES.astype(np.float32), "fs": 500.0, "name": "rhythm"},
        {"ECG": {"sex": "Male", "age": 57.0, "data": SAMPLES.T.astype(np.float64)}},
        {"val": SAMPLES.T, "t": np.arange(300) / 500},
    ],
)
def test_a_matrix_of_any_name_also_in_a_structure(tmp_path: Path, save: Any, content: dict[str, Any]) -> None:
    save(tmp_path / "a.mat", content)
    found = read_signal(tmp_path / "a.mat", LAYOUT)
    np.testing.assert_array_equal(found.signal, SAMPLES)
    assert (found.channels, found.fs) == (LEADS, 500)


@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_one_variable_a_lead(tmp_path: Path, save: Any) -> None:
    leads = {f"V{number + 1}": SAMPLES[:, 6 + number] for number in range(3)}
    save(tmp_path / "a.mat", {**leads, "lead_II": SAMPLES[:, 1], "t": np.arange(300) / 500, "fs": 500.0})
    found = read_signal(tmp_path / "a.mat", LAYOUT)
    columns = {"lead_II": 1, "V1": 6, "V2": 7, "V3": 8}
    np.testing.assert_array_equal(found.signal, SAMPLES[:, [columns[name] for name in found.channels]])
    assert set(found.channels) == set(columns) and found.notes == ("array t left out",)
    save(tmp_path / "b.mat", {"ecg": {"I": SAMPLES[:, 0], "V1": SAMPLES[:, 6]}})
    np.testing.assert_array_equal(read_signal(tmp_path / "b.mat", LAYOUT).signal, SAMPLES[:, [0, 6]])
    save(tmp_path / "c.mat", {"I": SAMPLES[:, 0], "V1": SAMPLES[:20, 6]})
    assert "have several lengths: I 300, V1 20" in error_of(tmp_path / "c.mat")


@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_a_vector(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.mat", {"val": SAMPLES[:, 1].astype(np.int16), "label": "N"})
    found = read_signal(tmp_path / "a.mat", Layout(fs=300, unit="uV", leads=("II",)))
    np.testing.assert_array_equal(found.signal[:, 0], SAMPLES[:, 1])
    assert found.channels == ("II",)
    assert error_of(tmp_path / "a.mat").startswith("lead count: a.mat holds 300 numbers for 12 leads; name them with")


@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_several_arrays_are_named(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.mat", {"raw": SAMPLES, "filtered": SAMPLES[:100]})
    message = error_of(tmp_path / "a.mat")
    assert "2 arrays of samples, not one" in message
    assert "raw (300 x 12)" in message and "filtered (100 x 12)" in message
    save(tmp_path / "b.mat", {"name": "text"})
    assert error_of(tmp_path / "b.mat").endswith(
        "holds 0 arrays of samples, not one: name; save one matrix, samples by leads"
    )


def test_matlab_73_without_h5py(tmp_path: Path) -> None:
    save_v73(tmp_path / "a.mat", {"val": SAMPLES})
    with lacking("h5py", tmp_path):
        message = error_of(tmp_path / "a.mat")
    assert "is of MATLAB 7.3, which needs h5py; pip install 'etp-jax[clinical]'" in message


def test_a_challenge_record_is_not_read_as_matlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path / "A0001", SAMPLES, format="16+24", suffix="mat")
    monkeypatch.setitem(read_module.READERS, ".mat", lambda path, layout: pytest.fail("loadmat"))
    np.testing.assert_allclose(read_signal(tmp_path / "A0001.mat", Layout()).signal, SAMPLES, rtol=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_of_a_matlab_file_gives_a_reason_or_numbers(tmp_path_factory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.mat"
    scipy.io.savemat(path, {"val": SAMPLES[:20], "info": {"age": 5.0}}, do_compression=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert read_signal(path, LAYOUT).signal.shape[1] == 12
    except EtpError as error:
        assert "\n" not in str(error)


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (500000000000, 12), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999999999, 12), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 300"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': ((((((("),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (12, 300), }"),
        npy("{'descr': '<c16', 'fortran_order': False, 'shape': (4,), }"),
        npy("{'descr': '<U4', 'fortran_order': False, 'shape': (4,), }"),
        b"\x93NUMPY",
        b"",
    ],
)
def test_hostile_numpy_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert error_of(tmp_path / "a.npy").startswith("unreadable signal: a.npy ")


@pytest.mark.parametrize(
    "error", [Exception("odd"), MemoryError(), RecursionError("deep\nand long"), ZeroDivisionError()]
)
def test_whatever_a_reader_raises_names_the_file(tmp_path: Path, monkeypatch, error: BaseException) -> None:
    def fail(path: Path, layout: Layout) -> Recording:
        raise error

    (tmp_path / "a.edf").write_bytes(b"x")
    monkeypatch.setitem(read_module.READERS, ".edf", fail)
    assert error_of(tmp_path / "a.edf").startswith("unreadable signal: a.edf (")
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        read_signal(tmp_path / "a.edf", LAYOUT)


@pytest.mark.parametrize("name", ["a.xyz", "a.DCM", "muse.xyz.XML", "a.docx", "a.zip"])
@pytest.mark.parametrize("exists", [True, False])
def test_unknown_suffixes(tmp_path: Path, name: str, exists: bool) -> None:
    if exists:
        (tmp_path / name).write_bytes(b"something")
    suffix = Path(name).suffix.lower()
    if suffix not in read_module.READERS:
        assert error_of(tmp_path / name).startswith(f"kind not read: {suffix}; read are .hea, .dat, .edf, .bdf, ")


def test_names_of_records_may_hold_a_point(tmp_path: Path) -> None:
    write_record(tmp_path / "rec.001", SAMPLES)
    for name in ("rec.001", "rec.001.hea", "rec.001.dat"):
        np.testing.assert_allclose(read_signal(tmp_path / name, Layout()).signal, SAMPLES, rtol=1e-15)


def test_records_in_a_folder(tmp_path: Path) -> None:
    write_record(tmp_path / "a", SAMPLES)
    write_record(tmp_path / "b", SAMPLES, suffix="mat")
    for name in ("b.hea", "b.mat"):
        (tmp_path / name).rename(tmp_path / name.upper())
    others = ["c.EDF", "d.bdf", "e.Rec", "f.npy", "g.csv", "h.csv.gz", "i.MAT"]
    for name in (*others, "README.txt", "notes.xyz", "predictions.csv", "Makefile"):
        (tmp_path / name).write_bytes(b"")
    found = records_in(tmp_path, tmp_path / "predictions.csv")
    assert [path.name for path in found] == ["B.HEA", "a.hea", *others]
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)
