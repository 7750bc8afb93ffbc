"""Values that stand for samples which were not recorded, and values that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from etp_jax.ecg.arrays import as_recording
from etp_jax.ecg.leads import LEADS, Layout, Recording
from etp_jax.ecg.missing import without_marks
from etp_jax.ecg.read import read_signal

FS = 250
SIGNAL = np.cumsum(np.random.default_rng(0).integers(-20, 21, (900, 12)), axis=0).clip(-900, 900) / 1000
"""Whole microvolts, in millivolt."""


def to_csv(path: Path, signal: np.ndarray) -> None:
    pd.DataFrame(signal, columns=list(LEADS)).to_csv(path, index=False)


def to_parquet(path: Path, signal: np.ndarray) -> None:
    pd.DataFrame(signal, columns=list(LEADS)).to_parquet(path)


WRITERS: list[tuple[str, Callable[[Path, np.ndarray], None]]] = [
    ("a.csv", to_csv),
    ("a.parquet", to_parquet),
    ("a.npy", lambda path, signal: np.save(path, signal)),
]


@pytest.mark.parametrize("mark", [-999.0, -9999.0, 9999.0, 32767.0, -32768.0, -1e6])
@pytest.mark.parametrize(("unit", "scale"), [("mV", 1.0), ("uV", 1000.0)])
def test_marks_are_missing_samples(mark: float, unit: str, scale: float, tmp_path: Path) -> None:
    signal = SIGNAL * scale
    signal[:, 4] /= 4  # -999 uV is far from others only in a lead of low voltage
    signal[100:120, 4] = signal[[300, 400], 0] = mark
    missing = signal == mark
    for name, write in WRITERS:
        write(tmp_path / name, signal)
        found = read_signal(tmp_path / name, Layout(fs=FS, unit=unit))
        np.testing.assert_array_equal(np.isnan(found.signal), missing)
        np.testing.assert_allclose(found.signal[~missing], signal[~missing] / scale * 1000, atol=1e-6)
        note = f"samples of {mark:g} {unit}, far from all others, read as missing: I (2), aVL (20)"
        assert note in found.notes
    found = as_recording(signal, FS, unit=unit)
    np.testing.assert_array_equal(np.isnan(found.signal), missing)


def test_two_marks(tmp_path: Path) -> None:
    signal = SIGNAL.copy()
    signal[5:9, 1], signal[20:25, 1] = -999, 999
    to_csv(tmp_path / "a.csv", signal)
    assert np.isnan(read_signal(tmp_path / "a.csv", Layout(fs=FS)).signal).sum() == 9
    signal[5:9, 1], signal[20:25, 1] = -999, -9999
    to_csv(tmp_path / "a.csv", signal)
    assert np.isnan(read_signal(tmp_path / "a.csv", Layout(fs=FS)).signal).sum() == 9


def test_a_mark_in_wfdb(tmp_path: Path) -> None:
    digital = (1000 * SIGNAL[:, :1]).astype(int)
    digital[50:60] = -9999
    names = {"record_name": "r", "fs": FS, "units": ["mV"], "sig_name": ["II"], "fmt": ["16"]}
    wfdb.wrsamp(**names, d_signal=digital, adc_gain=[1000], baseline=[0], write_dir=str(tmp_path))
    found = read_signal(tmp_path / "r", Layout())
    assert np.isnan(found.signal).sum() == 10
    assert found.notes == ("samples of -9.999 mV, far from all others, read as missing: II (10)",)


def clipped(limit: float) -> np.ndarray:
    """A lead that rises through all values to a limit, and stays there."""
    return np.concatenate((1000 * SIGNAL[:, 0], np.minimum(np.linspace(0, 2 * limit, 400), limit)))


@pytest.mark.parametrize(
    "values",
    [
        1000 * SIGNAL[:, 0],
        np.clip(1000 * SIGNAL[:, 0], -300, 300),
        clipped(32767),
        clipped(-9999),
        np.where(np.arange(900) == 7, 1e6, 1000 * SIGNAL[:, 0]),  # a single artifact
        np.where(np.arange(900) % 200 == 7, 2000 + np.arange(900), 1000 * SIGNAL[:, 0]),  # stimuli of a pacemaker
        np.where(np.arange(900) % 200 == 7, 3000, 1000 * SIGNAL[:, 0]),  # the same, all of one height
        np.where(np.arange(900) < 450, 0.0, 1000.0),
        1000 * np.sin(np.arange(900) * np.pi / 2),
        np.zeros(900),
        np.full(900, np.nan),
    ],
)
def test_extremes_of_an_ecg_stay(values: np.ndarray) -> None:
    recording = Recording(values[:, None], FS, ("II",))
    assert without_marks(recording) is recording
