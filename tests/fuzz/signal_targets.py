"""Fuzz targets: one ECG of each kind of file."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyedflib
import scipy.io

from etp_jax.ecg import prepare
from etp_jax.ecg.leads import LEADS, Filters, Layout
from etp_jax.ecg.read import read_signal
from tests.fuzz.target import Reader, Target
from tests.helpers import clinical_files as files
from tests.helpers.wfdb_samples import wave, write_flac, write_record

LAYOUT = Layout(fs=100, unit="mV")
STORED = wave(300, 12)
MILLIVOLTS = STORED / 1000
SMALL = (STORED // 500).astype(np.int16)
"""Whole millivolts."""


def _read(path: Path) -> object:
    """Reads and prepares an ECG, as `etp prep` and `etp predict` do."""
    recording = read_signal(path, LAYOUT)
    return prepare.prepare(recording, 100, 1000, LEADS, Filters())


def _all(folder: Path, *names: str) -> Mapping[str, Reader]:
    return {name: partial(_read, folder / name) for name in names}


def wfdb_records(folder: Path) -> Mapping[str, Reader]:
    write_record(folder / "plain", STORED, fs=100)
    write_record(folder / "wide", STORED[:, :2], LEADS[:2], fs=100, format="32", comments=("#Age: 56", "#Sex: F"))
    write_record(folder / "matlab", STORED, fs=100, format="16+24", suffix="mat")
    for form, size in {"8": 600, "80": 600, "212": 900, "310": 800, "311": 800, "24": 1800}.items():
        gain = 10**6 if form == "24" else 1000
        lines = [f"f{form}.dat {form} {gain}/mV 12 0 0 0 0 {lead}" for lead in LEADS[:2]]
        (folder / f"f{form}.hea").write_text("\n".join([f"f{form} 2 100 300", *lines, ""]), encoding="ascii")
        (folder / f"f{form}.dat").write_bytes(np.random.default_rng(0).bytes(size))
    lines = "whole/2 12 100 600\nplain 300\nplain 300\n"
    (folder / "whole.hea").write_text(lines, encoding="ascii")
    headers = {path.name: partial(_read, path.with_suffix("")) for path in folder.glob("*.hea")}
    data = {path.name: partial(_read, path.with_suffix("")) for path in folder.glob("*.dat")}
    return {**headers, **data}


def flac(folder: Path) -> Mapping[str, Reader]:
    write_flac(folder / "f8", STORED // 20, fs=100, bits=8, gain="50/mV")
    for bits in (16, 24):
        write_flac(folder / f"f{bits}", STORED, fs=100, bits=bits)
    return {path.name: partial(_read, folder / path.stem.split("_")[0]) for path in folder.iterdir()}


def edf(folder: Path) -> Mapping[str, Reader]:
    kinds = {"a.edf": pyedflib.FILETYPE_EDF, "b.edf": pyedflib.FILETYPE_EDFPLUS, "c.bdf": pyedflib.FILETYPE_BDFPLUS}
    for name, kind in kinds.items():
        writer = pyedflib.EdfWriter(str(folder / name), 3, file_type=kind)
        high = 2 ** (15 if name.endswith("edf") else 23) - 1
        for number in range(3):
            limits = {"physical_max": 3276.7, "physical_min": -3276.8, "digital_max": high, "digital_min": -high - 1}
            head = {
                "label": LEADS[number],
                "dimension": "uV",
                "sample_frequency": 100,
                "transducer": "",
                "prefilter": "",
            }
            writer.setSignalHeader(number, {**head, **limits})
        writer.writeSamples([STORED[:, number].astype(float) for number in range(3)])
        writer.close()
    content = (folder / "b.edf").read_bytes()
    (folder / "d.edf").write_bytes(content[:192] + b"EDF+D" + content[197:])
    return _all(folder, *kinds, "d.edf")


def matlab(folder: Path) -> Mapping[str, Reader]:
    scipy.io.savemat(folder / "plain.mat", {"val": SMALL.T})
    scipy.io.savemat(folder / "packed.mat", {"ECG": {"data": MILLIVOLTS, "fs": 100}}, do_compression=True)
    scipy.io.savemat(folder / "old.mat", {"val": MILLIVOLTS}, format="4")
    with h5py.File(folder / "new.mat", "w", userblock_size=512) as file:
        file.create_dataset("val", data=MILLIVOLTS, compression="gzip").attrs["MATLAB_class"] = np.bytes_("double")
    return _all(folder, "plain.mat", "packed.mat", "old.mat", "new.mat")


def numpy_arrays(folder: Path) -> Mapping[str, Reader]:
    np.save(folder / "floats.npy", MILLIVOLTS)
    np.save(folder / "integers.npy", np.asfortranarray(SMALL))
    np.savez(folder / "plain.npz", ecg=MILLIVOLTS)
    np.savez_compressed(folder / "packed.npz", ecg=MILLIVOLTS)
    np.savez(folder / "stack.npz", ecg=np.stack([MILLIVOLTS] * 3), exam_id=np.array([7, 8, 9]))
    np.savez_compressed(folder / "packed_stack.npz", ecg=np.stack([SMALL] * 3), name=np.array(["7", "8", "9"]))
    readers = dict(_all(folder, "floats.npy", "integers.npy", "plain.npz", "packed.npz"))
    stacks = ("stack.npz", "packed_stack.npz")
    return {**readers, **{name: partial(_read, folder / f"{name}#8") for name in stacks}}


def hdf5(folder: Path) -> Mapping[str, Reader]:
    with h5py.File(folder / "one.h5", "w") as file:
        file.create_dataset("ecg", data=MILLIVOLTS, compression="gzip")
    with h5py.File(folder / "stack.hdf5", "w") as file:
        file.create_dataset("tracings", data=np.stack([MILLIVOLTS] * 3), chunks=(1, 300, 12), compression="gzip")
        file["exam_id"] = np.array([7, 8, 9])
    return {**_all(folder, "one.h5"), "stack.hdf5": partial(_read, folder / "stack.hdf5#8")}


def parquet(folder: Path) -> Mapping[str, Reader]:
    pd.DataFrame(MILLIVOLTS, columns=pd.Index(LEADS)).to_parquet(folder / "one.parquet")
    lists = {lead: [column.tolist()] * 2 for lead, column in zip(LEADS, MILLIVOLTS.T, strict=True)}
    pd.DataFrame({"exam_id": [7, 8], **lists}).to_parquet(folder / "stack.parquet", compression="gzip")
    return {**_all(folder, "one.parquet"), "stack.parquet": partial(_read, folder / "stack.parquet#8")}


def text(folder: Path) -> Mapping[str, Reader]:
    frame = pd.DataFrame(MILLIVOLTS, columns=pd.Index(LEADS))
    frame.insert(0, "time (s)", np.arange(300) / 100)
    frame.to_csv(folder / "named.csv", index=False)
    frame.to_csv(folder / "german.tsv", sep="\t", decimal=",", index=False, encoding="utf-16")
    frame.drop(columns="time (s)").T.to_csv(folder / "rows.txt", sep=" ", header=False)
    (folder / "packed.csv.gz").write_bytes(gzip.compress((folder / "named.csv").read_bytes(), 1))
    return _all(folder, "named.csv", "german.tsv", "rows.txt", "packed.csv.gz")


def _clinical(kinds: Mapping[str, Callable[[], str | bytes]], folder: Path) -> Mapping[str, Reader]:
    for name, content in kinds.items():
        made = content()
        (folder / name).write_bytes(made if isinstance(made, bytes) else made.encode())
    return _all(folder, *kinds)


XML: dict[str, Callable[[], str | bytes]] = {
    "muse.xml": lambda: files.muse(STORED[:, [0, 1, 6, 7, 8, 9, 10, 11]], ("I", "II", *LEADS[6:]), 100),
    "aecg.xml": lambda: files.aecg(STORED, LEADS, 100),
    "philips.xml": lambda: files.philips(STORED, LEADS, 100),
    "xli.xml": lambda: files.philips(STORED, LEADS, 100, packed=True),
    "mortara.xml": lambda: files.mortara(STORED, LEADS, 100),
    "kardia.json": lambda: files.kardia(STORED[:, :6], LEADS[:6], 100),
}
BINARY: dict[str, Callable[[], str | bytes]] = {
    "plain.scp": lambda: files.scp(STORED, LEADS, 10_000),
    "huffman.scp": lambda: files.scp(STORED, LEADS, 10_000, differences=2, huffman=True),
    "beat.scp": lambda: files.scp(STORED, LEADS, 10_000, huffman=True, beat=STORED[:50] // 2),
    "a.ecg": lambda: files.ishne(STORED[:, :3], LEADS[:3], 100),
    "little.mwf": lambda: files.mfer(STORED, LEADS, 100),
    "big.mfer": lambda: files.mfer(STORED, LEADS, 100, big=True),
}


def dicom(folder: Path) -> Mapping[str, Reader]:
    files.write_dicom(folder / "a.dcm", [files.dicom_group(STORED, LEADS, 100)])
    return _all(folder, "a.dcm")


TARGETS: dict[str, Target] = {
    "wfdb": wfdb_records,
    "flac": flac,
    "edf": edf,
    "matlab": matlab,
    "numpy": numpy_arrays,
    "hdf5": hdf5,
    "parquet": parquet,
    "text": text,
    "xml": partial(_clinical, XML),
    "clinical": partial(_clinical, BINARY),
    "dicom": dicom,
}
