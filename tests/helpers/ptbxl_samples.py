"""A small folder of PTB-XL's layout, written by wfdb itself."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import wfdb

from tests.helpers.written_once import written_once

LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
RECORDS = 30
CODES = ("NORM", "AFIB", "SR", "IMI")


def signal_of(number: int, rate: int = 100) -> np.ndarray:
    """[10 s, 12] whole microvolts, as millivolt."""
    return np.random.default_rng((number, rate)).integers(-2000, 2000, (10 * rate, 12)) / 1000


def row_of(number: int) -> dict[str, str]:
    """The database row of a record; every fold has some."""
    return {
        "ecg_id": str(number),
        "patient_id": f"{1000 + number}.0",
        "age": ("56.0", "300.0", "")[number % 3],
        "sex": ("0", "1", "")[number % 3],
        "report": ("sinusrhythmus. normales ekg", "Vorhofflimmern", " ")[number % 3],
        "scp_codes": ("{'NORM': 100.0, 'SR': 0.0}", "{'AFIB': 80.0}", "{}")[number % 3],
        "strat_fold": str(number % 10 + 1),
        "filename_lr": f"records100/00000/{number:05d}_lr",
        "filename_hr": f"records500/00000/{number:05d}_hr",
    }


def write_signal(source: Path, number: int, rate: int = 100, **changes: object) -> None:
    """Writes one WFDB record; `changes` are arguments of `wfdb.wrsamp`."""
    folder = source / f"records{rate}" / "00000"
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"fs": rate, "units": ["mV"] * 12, "sig_name": LEADS, "p_signal": signal_of(number, rate)}
    arguments = {**arguments, "fmt": ["16"] * 12, "adc_gain": [1000.0] * 12, "baseline": [0] * 12, **changes}
    wfdb.wrsamp(f"{number:05d}_{'lr' if rate == 100 else 'hr'}", write_dir=str(folder), **arguments)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@written_once
def write_archive(source: Path) -> Path:
    """Writes the folder: 100 Hz for all records, 500 Hz for the first two."""
    source.mkdir()
    write_table(source / "ptbxl_database.csv", [row_of(number) for number in range(RECORDS)])
    write_table(source / "scp_statements.csv", [{"": code, "description": code.lower()} for code in CODES])
    for number in range(RECORDS):
        write_signal(source, number)
    for number in range(2):
        write_signal(source, number, rate=500)
    return source
