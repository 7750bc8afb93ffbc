"""EDF, WFDB, CSV and DICOM files of random leads, gains, offsets and rates are read back within half a stored unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyedflib
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from tests.helpers.clinical_files import dicom_group, write_dicom


@dataclass(frozen=True)
class Case:
    """What is written: [T, leads] in microvolts."""

    signal: np.ndarray
    fs: int
    leads: Sequence[str]
    lsb: np.ndarray
    """[leads] size of a stored unit, in microvolts."""
    middle: np.ndarray
    """[leads] offset of each lead, in microvolts."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    leads = draw(st.permutations(LEADS).flatmap(lambda names: st.integers(1, 12).map(lambda count: names[:count])))
    fs = draw(st.sampled_from([50, 125, 250, 360, 500, 1000]))
    lsb = np.array([draw(st.sampled_from([0.153, 1.0, 2.5, 4.88, 5.0])) for _ in leads])
    middle = np.array([draw(st.integers(-3000, 3000)) for _ in leads], float)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Case(middle + rng.uniform(-4000, 4000, (fs, len(leads))), fs, leads, lsb, middle)


def write_edf(folder: Path, case: Case) -> np.ndarray:
    low, high = np.floor(case.middle - 4000), np.ceil(case.middle + 4000)
    channels = [
        {
            "label": f"ECG {lead}",
            "dimension": "uV",
            "sample_frequency": case.fs,
            "physical_min": low[number],
            "physical_max": high[number],
            "digital_min": -32768,
            "digital_max": 32767,
        }
        for number, lead in enumerate(case.leads)
    ]
    lsb = (high - low) / 65535
    stored = np.rint((case.signal - low) / lsb).astype(np.int32) - 32768  # pyedflib itself truncates
    with pyedflib.EdfWriter(str(folder / "a.edf"), len(case.leads)) as file:
        file.setSignalHeaders(channels)
        file.writeSamples(list(np.ascontiguousarray(stored.T)), digital=True)
    return lsb


def write_wfdb(folder: Path, case: Case) -> np.ndarray:
    lsb = np.maximum(case.lsb, 0.2)
    wfdb.wrsamp(
        "a",
        fs=case.fs,
        units=["uV"] * len(case.leads),
        sig_name=list(case.leads),
        d_signal=np.rint((case.signal - case.middle) / lsb).astype(np.int64),
        fmt=["16"] * len(case.leads),
        adc_gain=(1 / lsb).tolist(),
        baseline=np.rint(-case.middle / lsb).astype(int).tolist(),
        write_dir=str(folder),
    )
    # The baseline is a whole number, so the offset is rounded too.
    case.signal[:] += np.rint(case.middle / lsb) * lsb - case.middle
    return lsb


def write_csv(folder: Path, case: Case) -> np.ndarray:
    frame = pd.DataFrame(case.signal / 1000, columns=[f"{lead} (mV)" for lead in case.leads])
    frame.insert(0, "time", np.arange(len(frame)) / case.fs)
    frame.to_csv(
        folder / "a.csv", index=False, float_format="%.3f" if case.fs <= 1000 and 1000 % case.fs == 0 else "%.9f"
    )
    return np.ones(len(case.leads))


def write_dcm(folder: Path, case: Case) -> np.ndarray:
    lsb, middle = float(max(case.lsb.max(), 0.3)), float(case.middle.mean().round())
    stored = np.rint((case.signal - middle) / lsb).astype("<i4")
    write_dicom(folder / "a.dcm", [dicom_group(stored, case.leads, case.fs, gain=lsb, baseline=middle)])
    return np.full(len(case.leads), lsb)


WRITERS: dict[str, Callable[[Path, Case], np.ndarray]] = {
    "a.edf": write_edf,
    "a.hea": write_wfdb,
    "a.csv": write_csv,
    "a.dcm": write_dcm,
}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_values_are_read_back_within_half_a_stored_unit(
    tmp_path_factory: pytest.TempPathFactory, name: str, case: Case
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    lsb = WRITERS[name](folder, case)
    found = read_signal(folder / name, Layout())
    assert [channel.removeprefix("ECG ").removesuffix(" (mV)") for channel in found.channels] == list(case.leads)
    assert found.fs == pytest.approx(case.fs)
    assert (np.abs(found.signal - case.signal) <= lsb * 0.5 * (1 + 1e-6) + 1e-9).all()
