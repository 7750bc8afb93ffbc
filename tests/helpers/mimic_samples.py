"""A small folder of MIMIC-IV-ECG's layout, its signals written by wfdb itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import wfdb

from tests.helpers.ptbxl_samples import write_table
from tests.helpers.written_once import written_once

LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
"""In the order of the archive: aVF before aVL."""
PATIENTS = 20
RECORDS = 2 * PATIENTS
CELLS = ("  Sinus   rhythm. ", "", "Possible inferior infarct - age undetermined", "Abnormal EKG")


def study_of(number: int) -> str:
    return str(40_000_000 + 7 * number)


def patient_of(number: int) -> str:
    """Two studies a patient, not side by side."""
    return str(10_000_000 + number % PATIENTS)


def path_of(number: int) -> str:
    patient, study = patient_of(number), study_of(number)
    return f"files/p{patient[:4]}/p{patient}/s{study}/{study}"


def signal_of(number: int, seconds: int = 10) -> np.ndarray:
    """[500 a second, 12] millivolt in steps of 5 µV: sines of 1 Hz and 0.1, 0.2 ... 1.2 mV, in the archive's order."""
    time = np.arange(500 * seconds) / 500
    wave = np.sin(2 * np.pi * (time + number / 100))
    return np.rint(200 * wave[:, None] * 0.1 * np.arange(1, 13)) / 200


def record_row(number: int) -> dict[str, str]:
    return {
        "subject_id": patient_of(number),
        "study_id": study_of(number),
        "file_name": study_of(number),
        "ecg_time": "2180-07-23 08:44:00",
        "path": path_of(number),
    }


def report_row(number: int, cells: tuple[str, ...] = CELLS) -> dict[str, str]:
    row = {"subject_id": patient_of(number), "study_id": study_of(number), "cart_id": "6848296"}
    row |= {f"report_{place}": cells[place] if place < len(cells) else "" for place in range(18)}
    return {**row, "bandwidth": "0.005-150 Hz", "rr_interval": "659"}


def write_tables(source: Path, records: list[dict[str, str]], reports: list[dict[str, str]]) -> Path:
    write_table(source / "record_list.csv", records)
    write_table(source / "machine_measurements.csv", reports)
    return source


def write_signal(source: Path, number: int, seconds: int = 10) -> None:
    folder = (source / path_of(number)).parent
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        study_of(number),
        write_dir=str(folder),
        fs=500,
        units=["mV"] * 12,
        sig_name=LEADS,
        p_signal=signal_of(number, seconds),
        fmt=["16"] * 12,
        adc_gain=[200.0] * 12,
        baseline=[0] * 12,
    )


@written_once
def write_archive(source: Path) -> Path:
    """Writes the folder; the rows of its second table are in another order than those of the first."""
    source.mkdir()
    write_tables(source, [*map(record_row, range(RECORDS))], [*map(report_row, reversed(range(RECORDS)))])
    for number in range(RECORDS):
        write_signal(source, number)
    return source
