"""Reading the signal of a WFDB record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.signal import MICROVOLT, Recording

# The plain header that PTB-XL and MIMIC-IV-ECG have: one signal file, 16 bits, one sample a frame. wfdb takes
# 3 ms to parse it, ten times as long as all other work on a record; so it is read here, and any other header by wfdb.
_RECORD_LINE = re.compile(r"[\w-]+ +(?P<channels>\d+) +(?P<fs>[\d.]+) +(?P<samples>\d+)(?: .*)?")
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+) 16 (?P<gain>[\d.]+)\((?P<baseline>-?\d+)\)/(?P<unit>\S+)"
    r" \d+ -?\d+ -?\d+ (?P<checksum>-?\d+) 0 (?P<channel>\S.*)"
)
_MISSING = -(2**15)
"""How 16 bits say that a sample is missing."""


def read_wfdb(path: Path) -> Recording:
    """Reads a WFDB record (path without `.hea`).

    Raises:
      EtpError: files are missing, cut or damaged, or the unit is not a voltage; `kind: detail`.
    """
    try:
        lines = Path(f"{path}.hea").read_text(encoding="utf-8").splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        head = _RECORD_LINE.fullmatch(lines[0])
        channels = [match for line in lines[1:] if (match := _SIGNAL_LINE.fullmatch(line))]
        plain = head is not None and len(channels) == len(lines) - 1 == int(head["channels"])
        if head is not None and plain and len({channel["file"] for channel in channels}) == 1:
            return _read_plain(path, head, channels)
        return _read_any(path)
    except FileNotFoundError as error:
        raise EtpError(f"missing file: {Path(error.filename or path).name}") from None
    # What wfdb raises on damaged headers and cut signal files; it has no exception of its own.
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None


def _read_plain(path: Path, head: re.Match[str], channels: list[re.Match[str]]) -> Recording:
    file = path.with_name(channels[0]["file"])
    data = np.fromfile(file, "<i2")
    if file.stat().st_size != 2 * int(head["samples"]) * len(channels):
        expected = f"{head['samples']} samples of {len(channels)} leads"
        raise EtpError(f"unreadable signal: {file.name} holds {file.stat().st_size} bytes, not {expected}")
    data = data.reshape(-1, len(channels))
    names = [channel["channel"] for channel in channels]
    _check_sums(path, names, data, [int(channel["checksum"]) for channel in channels])
    signal = (data - [float(channel["baseline"]) for channel in channels]) / [float(c["gain"]) for c in channels]
    signal[data == _MISSING] = np.nan
    return _recording(path, signal, float(head["fs"]), names, [channel["unit"] for channel in channels])


def _read_any(path: Path) -> Recording:
    record: Any = wfdb.rdrecord(str(path), physical=False)
    _check_sums(path, record.sig_name, record.d_signal, record.checksum)
    return _recording(path, record.dac(), float(record.fs), record.sig_name, record.units)


def _check_sums(path: Path, names: list[str], samples: NDArray[np.integer], noted: list[int | None]) -> None:
    """Compares the sum of each channel with the header, which gives it modulo 2^16, signed or not, or not at all."""
    for name, found, expected in zip(names, samples.sum(axis=0, dtype=np.int64).tolist(), noted, strict=True):
        if expected is not None and (found - expected) % 2**16:
            raise EtpError(f"checksum: lead {name} of {path.name} differs from the header")


def _recording(path: Path, signal: NDArray[np.float64], fs: float, names: list[str], units: list[str]) -> Recording:
    unknown = sorted(set(units) - set(MICROVOLT))
    if unknown:
        raise EtpError(f"unit: {path.name} is in {unknown[0]!r}, not in one of {', '.join(MICROVOLT)}")
    return Recording(signal * [MICROVOLT[unit] for unit in units], fs, tuple(names))
