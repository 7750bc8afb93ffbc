"""Leads, sampling rates and units that files of arrays state beside their samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError
from tests.helpers.wfdb_samples import wave

FS = 250
SIGNAL = np.cumsum(np.random.default_rng(0).integers(-20, 21, (900, 12)), axis=0) / 1000
TIMES = np.arange(900) / FS
BACK = LEADS[::-1]


def to_hdf5(path: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = list(array) if isinstance(array, tuple) else array


def to_attributes(path: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        signal = file.create_dataset("ecg", data=arrays["ecg"])
        for name, array in arrays.items():
            if name != "ecg":
                (file if name == "fs" else signal).attrs[name] = array


def to_matlab(path: Path, arrays: dict[str, Any]) -> None:
    savemat(
        path, {name: np.array(array, object) if isinstance(array, tuple) else array for name, array in arrays.items()}
    )


def to_structure(path: Path, arrays: dict[str, Any]) -> None:
    to_matlab(
        path, {"ECG": {name: np.array(value, object) if name == "leads" else value for name, value in arrays.items()}}
    )


def to_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def to_packed_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez_compressed(path, **arrays)


WRITERS: list[tuple[str, Callable[[Path, dict[str, Any]], None]]] = [
    ("a.h5", to_hdf5),
    ("a.hdf5", to_attributes),
    ("a.mat", to_matlab),
    ("b.mat", to_structure),
    ("a.npz", to_npz),
    ("b.npz", to_packed_npz),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_what_the_file_states_is_used(name: str, write: Callable[[Path, dict[str, Any]], None], tmp_path: Path) -> None:
    write(tmp_path / name, {"ecg": 1000 * SIGNAL[:, ::-1], "fs": FS, "leads": BACK, "units": "uV"})
    recording = read_signal(tmp_path / name, Layout())
    assert recording.fs == FS and recording.channels == BACK
    np.testing.assert_allclose(recording.signal, 1000 * SIGNAL[:, ::-1], atol=1e-9)
    assert any(note.startswith("sampling rate 250 Hz by ") for note in recording.notes)
    assert any(note.startswith("unit uV by ") for note in recording.notes)
    with pytest.raises(EtpError, match=rf"^sampling rate: {name} has 250 Hz by .*fs, but 500 Hz by --fs$"):
        read_signal(tmp_path / name, Layout(fs=500))
    with pytest.raises(EtpError, match=rf"^unit: {name} is in uV by .*units, but in mV by --unit$"):
        read_signal(tmp_path / name, Layout(unit="mV"))
    given = read_signal(tmp_path / name, Layout(leads=LEADS))
    assert given.channels == BACK and "not by --leads" in given.notes[-1]


@pytest.mark.parametrize(("name", "write"), [("a.h5", to_hdf5), ("a.mat", to_matlab), ("a.npz", to_npz)])
def test_times_of_the_samples(name: str, write: Callable[[Path, dict[str, Any]], None], tmp_path: Path) -> None:
    write(tmp_path / name, {"ecg": SIGNAL, "time": TIMES})
    assert read_signal(tmp_path / name, Layout()).fs == FS
    with pytest.raises(EtpError, match="has 250 Hz by time, but 500 Hz by --fs"):
        read_signal(tmp_path / name, Layout(fs=500))
    write(tmp_path / name, {"t": TIMES, "ecg": SIGNAL[:, 1], "lead": "II"})
    found = read_signal(tmp_path / name, Layout())
    assert found.fs == FS and found.channels == ("II",)
    write(tmp_path / name, {**{lead: SIGNAL[:, n] for n, lead in enumerate(LEADS)}, "t": TIMES, "Fs": FS})
    found = read_signal(tmp_path / name, Layout())
    assert found.fs == FS
    np.testing.assert_allclose(found.signal[:, found.channels.index("V2")], 1000 * SIGNAL[:, 7], atol=1e-9)


def test_texts_that_name_no_channels(tmp_path: Path) -> None:
    to_npz(
        tmp_path / "a.npz", {"ecg": SIGNAL, "NYHA": "II", "SR": 1, "unit": "ward", "names": np.array(["I", "a", "b"])}
    )
    recording = read_signal(tmp_path / "a.npz", Layout(fs=FS))
    assert recording.channels == LEADS and recording.notes == ("unit ward is no voltage", "no unit given: mV assumed")


def test_stacks_state_their_leads_and_the_rate_of_each_row(tmp_path: Path) -> None:
    stack = np.stack([SIGNAL[:, ::-1] + 1, SIGNAL + 1])
    to_hdf5(tmp_path / "a.h5", {"ecg": stack, "exam_id": [7, 9], "sampling_rate": [250, 500], "leads": BACK})
    assert read_signal(tmp_path / "a.h5#7", Layout()).fs == 250
    second = read_signal(tmp_path / "a.h5#9", Layout())
    assert second.fs == 500 and second.channels == BACK
    with pytest.raises(EtpError, match=r"a.h5 has 500 Hz by sampling_rate, but 250 Hz by --fs"):
        read_signal(tmp_path / "a.h5#9", Layout(fs=250))
    rows = {"id": [1, 2], "fs": [250, 500], "I": list(stack[:, :, 0]), "II": list(stack[:, :, 1])}
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert read_signal(tmp_path / "a.parquet#2", Layout()).fs == 500


def test_times_in_parquet(tmp_path: Path) -> None:
    pd.DataFrame(SIGNAL, columns=list(LEADS)).assign(time=TIMES).to_parquet(tmp_path / "a.parquet")
    assert read_signal(tmp_path / "a.parquet", Layout()).fs == FS
    with pytest.raises(EtpError, match=r"a.parquet has 250 Hz by time, but 500 Hz by --fs"):
        read_signal(tmp_path / "a.parquet", Layout(fs=500))


def test_texts_of_matlab_7_3(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["val"] = 1000 * SIGNAL[:, ::-1].T
        file["unit"] = np.array([[ord(letter)] for letter in "uV"], np.uint16)
        file["unit"].attrs["MATLAB_class"] = np.bytes_("char")
        cells = []
        for number, lead in enumerate(BACK):
            cells.append(file.create_dataset(f"#refs#/{number}", data=np.array([[ord(c)] for c in lead], np.uint16)))
        file["leads"] = np.array([[cell.ref] for cell in cells], h5py.ref_dtype)
        file["leads"].attrs["MATLAB_class"] = np.bytes_("cell")
    recording = read_signal(tmp_path / "a.mat", Layout(fs=FS))
    assert recording.channels == BACK
    np.testing.assert_allclose(recording.signal, 1000 * SIGNAL[:, ::-1], atol=1e-9)


def test_names_in_one_text_or_in_a_structure_per_channel(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"val": SIGNAL, "labels": ", ".join(BACK)})
    assert read_signal(tmp_path / "a.mat", Layout(fs=FS)).channels == BACK
    channels = np.array([(lead, 1.0) for lead in BACK], [("labels", object), ("radius", object)])
    savemat(tmp_path / "a.mat", {"EEG": {"data": SIGNAL.T, "srate": FS, "chanlocs": channels}})
    assert read_signal(tmp_path / "a.mat", Layout()).channels == BACK
    for text in (" ".join(BACK), "/".join(BACK), str(list(BACK))):
        to_npz(tmp_path / "a.npz", {"ecg": SIGNAL, "leads": text})
        assert read_signal(tmp_path / "a.npz", Layout(fs=FS)).channels == BACK


@pytest.mark.parametrize("name", ["scale", "lsb", "adc_gain", "resolution", "scale_factor", "add_offset", "baseline"])
def test_whole_numbers_beside_a_scale_are_refused(tmp_path: Path, name: str) -> None:
    stored = wave(300, 12)
    for value in (4.88, np.full(12, 4.88)):
        np.savez(tmp_path / "a.npz", ecg=stored, **{"fs": 500, "unit": "uV", name: value})
        with pytest.raises(EtpError, match=rf"unit: a.npz holds whole numbers and {name} \(4.88\)"):
            read_signal(tmp_path / "a.npz", Layout())
    neutral = 0 if name in ("add_offset", "baseline") else 1
    for samples, value in ((stored, neutral), (stored + 0.5, 4.88)):  # no scale; samples that have been scaled
        np.savez(tmp_path / "a.npz", ecg=samples, **{"fs": 500, "unit": "uV", name: value})
        np.testing.assert_array_equal(read_signal(tmp_path / "a.npz", Layout()).signal, samples)


def test_dates_in_parquet_are_times(tmp_path: Path) -> None:
    frame = pd.DataFrame({"II": wave(300, 1)[:, 0] / 1000, "time": pd.date_range("2020", periods=300, freq="4ms")})
    for dates in (frame["time"], frame["time"].dt.tz_localize("CET"), frame["time"] - frame["time"][0]):
        frame.assign(time=dates).to_parquet(tmp_path / "a.parquet")
        assert read_signal(tmp_path / "a.parquet", Layout()).fs == 250
        with pytest.raises(EtpError, match="has 250 Hz by time"):
            read_signal(tmp_path / "a.parquet", Layout(fs=500))


def test_a_unit_for_each_row(tmp_path: Path) -> None:
    values = wave(300, 1)[:, 0] / 4
    rows = {"ecg_id": [3, 1], "unit": ["uV", "mV"], "II": [values.tolist(), (values / 1000).tolist()]}
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", ecg=np.stack([values, values / 1000])[:, :, None], id=[3, 1], unit=["uV", "mV"])
    for path in (tmp_path / "a.parquet", tmp_path / "a.npz"):
        for row in (1, 3):
            recording = read_signal(path.with_name(f"{path.name}#{row}"), Layout(fs=500, leads=("II",)))
            np.testing.assert_allclose(recording.signal[:, 0], values)


@pytest.mark.parametrize("name", ["record", "record_id", "ecg_id", "Patient ID", "filename", "id"])
def test_a_table_of_several_ecgs_is_refused(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({name: ["a"] * 150 + ["b"] * 150, "I": SIGNAL[:300, 0], "II": SIGNAL[:300, 1]})
    for path, write in ((tmp_path / "a.csv", frame.to_csv), (tmp_path / "a.parquet", frame.to_parquet)):
        write(path, index=False)
        with pytest.raises(EtpError, match=f"{path.name} holds 2 ECGs by its column {name}"):
            read_signal(path, Layout(fs=500))
    for same in (frame.assign(**{name: "a"}), frame.assign(**{name: range(300)})):
        same.to_csv(tmp_path / "a.csv", index=False)
        assert read_signal(tmp_path / "a.csv", Layout(fs=500)).signal.shape[0] == 300
