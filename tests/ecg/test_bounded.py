"""The child process that reads files whose libraries a damaged file can crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

import etp_jax
from etp_jax.ecg import bounded
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError
from tests.helpers import clinical_files
from tests.helpers.wfdb_samples import wave, write_flac

SAMPLES = wave(300, 12)
LAYOUT = Layout(fs=100, unit="uV")
CHILD = f"""
import os, sys, time
sys.path.insert(0, {str(Path(etp_jax.__file__).parents[1])!r})
from etp_jax.ecg import bounded_child
real = bounded_child.answer_to
class Bad:
    def __init__(self, reader): self.reader = reader
    def __getattr__(self, name): return self.reader
def circle(*arguments):
    while True: pass
def answer_to(module, name, path, *others):
    if path.name.startswith("crash"): os.kill(os.getpid(), 11)
    if path.name.startswith("hang"): time.sleep(60)
    if path.name.startswith("circle"):
        bounded_child.LEAST_S, bounded_child.import_module = 0.2, lambda name: Bad(circle)
    if path.name.startswith("large"):
        bounded_child.import_module = lambda name: Bad(lambda *arguments: bytearray(2**40))
    return real(module, name, path, *others)
bounded_child.answer_to = answer_to
bounded_child.serve(bounded_child.Connection(int(sys.argv[1])))
"""
"""A child that ends with SIGSEGV, waits, runs forever, or takes a TiB, by the file's name."""


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["ecg"] = SAMPLES


WRITERS: dict[str, Callable[[Path], object]] = {
    ".dat": lambda path: write_flac(path.with_suffix(""), SAMPLES, fs=100),
    ".mat": lambda path: scipy.io.savemat(path, {"val": SAMPLES}),
    ".h5": write_hdf5,
    ".parquet": lambda path: pd.DataFrame(SAMPLES, columns=pd.Index(LEADS)).to_parquet(path),
    ".scp": lambda path: path.write_bytes(clinical_files.scp(SAMPLES, LEADS, 10_000, nanovolts=1000)),
    ".xml": lambda path: path.write_text(clinical_files.aecg(SAMPLES, LEADS, 100, gain=1.0)),
}


def error_of(path: Path) -> str:
    with pytest.raises(EtpError) as error:
        read_signal(path, LAYOUT)
    return str(error.value)


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(bounded.bounded_child, "__file__", str(tmp_path / "child.py"))
    bounded._child.cache_clear()
    yield tmp_path
    bounded._child.cache_clear()


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_crash_of_the_reader_is_one_error_and_the_next_file_is_read(crashing: Path, suffix: str) -> None:
    for name in ("crash", "large", "good"):
        WRITERS[suffix](crashing / f"{name}{suffix}")
    for _ in range(2):
        message = f"unreadable signal: crash{suffix} is damaged: it ends its reader (-11)"
        assert error_of(crashing / f"crash{suffix}") == message
        np.testing.assert_allclose(read_signal(crashing / f"good{suffix}", LAYOUT).signal, SAMPLES, rtol=1e-12)
    assert error_of(crashing / f"large{suffix}") == f"size: large{suffix} takes more than 0.5 GiB of memory"


def test_a_reader_that_hangs_is_ended(crashing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[".mat"](crashing / "hang.mat")
    WRITERS[".mat"](crashing / "good.mat")
    read_signal(crashing / "good.mat", LAYOUT)
    WRITERS[".mat"](crashing / "circle.mat")
    message = "unreadable signal: circle.mat is damaged: its reader does not come to an end"
    assert error_of(crashing / "circle.mat") == message
    read_signal(crashing / "good.mat", LAYOUT)
    monkeypatch.setattr(bounded, "TIMEOUT", 0.1)
    assert error_of(crashing / "hang.mat") == "unreadable signal: hang.mat is not read within 0.1 s"
    monkeypatch.setattr(bounded, "TIMEOUT", 60)
    np.testing.assert_array_equal(read_signal(crashing / "good.mat", LAYOUT).signal, SAMPLES)


def test_one_child_reads_all_files(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"a{suffix}")
        read_signal(tmp_path / f"a{suffix}", LAYOUT)
    child, started = bounded._child(os.getpid()).process.pid, time.perf_counter()
    for _ in range(50):
        read_signal(tmp_path / "a.mat", LAYOUT)
    assert time.perf_counter() - started < 5
    assert bounded._child(os.getpid()).process.pid == child


def test_an_scp_file_that_claims_gigabytes_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "a.scp"
    content = clinical_files.scp(SAMPLES, LEADS, 10_000, huffman=True, claimed=2**31)
    path.write_bytes(content)
    assert path.name in error_of(path)
