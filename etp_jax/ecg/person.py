"""Age and sex of the person, from the header of a WFDB or EDF file. Nothing else about a person is read.

Does not import jax.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path

from etp_jax.ecg.deidentify import plausible, sex_word
from etp_jax.ecg.wfdb_header import find
from etp_jax.errors import EtpError
from etp_jax.paths import read_file

_AGE = re.compile(r"^#.*?\bage\W+(\d{1,3})\b", re.IGNORECASE | re.MULTILINE)
_SEX = re.compile(r"^#.*?\b(?:sex|gender)\W+(\w+)", re.IGNORECASE | re.MULTILINE)
_MITDB = re.compile(r"^#\s*(\d{1,3})\s+([MF])\s", re.MULTILINE)


def read_person(path: Path) -> tuple[float, str]:
    """Reads age in years, NaN if unknown, and sex: `male`, `female` or empty.

    They are in a WFDB header's comments (`#Age: 56`, `# <age>: 69 <sex>: M`, `# 69 M ...`), or in an EDF+ file's
    patient field (`X F 02-MAY-1951 X`), where the age is that at the recording.
    """
    try:
        if path.suffix.lower() in (".edf", ".bdf", ".rec"):
            with path.open("rb") as file:
                return _of_edf(file.read(256).decode("latin-1"))
        return _of_wfdb(read_file(find(_header(path))).decode("latin-1"))
    except (EtpError, OSError):  # no header, or none that is a file
        return math.nan, ""


def _header(path: Path) -> Path:
    """The header beside a signal file, whose name has no suffix of its own in `records/00001_lr`."""
    return path.with_suffix(".hea") if path.suffix.lower() in (".hea", ".dat", ".mat") else Path(f"{path}.hea")


def _of_wfdb(text: str) -> tuple[float, str]:
    age, sex, both = _AGE.search(text), _SEX.search(text), _MITDB.search(text)
    years = age[1] if age else both[1] if both else ""
    word = sex[1] if sex else both[2] if both else ""
    return plausible(float(years) if years else None), sex_word(word)


def _of_edf(header: str) -> tuple[float, str]:
    _, sex, born, *_ = (*header[8:88].split(), "", "", "")
    try:
        start = datetime.strptime(header[168:176], "%d.%m.%y")
        age = (start - datetime.strptime(born, "%d-%b-%Y")).days / 365.25
    except ValueError:
        age = math.nan
    return plausible(math.floor(age) if math.isfinite(age) else None), sex_word(sex)
