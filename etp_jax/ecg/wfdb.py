"""Reading of WFDB records, whose format is specified at https://wfdb.io/spec/header-files.html."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from numpy.typing import NDArray

from etp_jax.ecg.leads import MICROVOLT, Recording
from etp_jax.errors import EtpError

# The header is parsed here and not by wfdb, for two reasons. wfdb looks up some 240 cells of a pandas table to parse a
# header, which takes 95 % of the time of `wfdb.rdsamp`. Where the header marks the gain as unknown, wfdb assumes 200
# units per millivolt.
_RECORD_LINE = re.compile(
    r"(?P<name>[^\s/]+)(?P<segments>/\d+)?\s+(?P<channels>\d+)"
    r"(?:\s+(?P<fs>[\d.eE+]+)(?:/\S+)?(?:\s+(?P<samples>\d+)(?:\s.*)?)?)?"
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?"
    r"(?:\s+(?P<gain>[-+]?[\d.]+(?:[eE][-+]?\d+)?)(?:\((?P<baseline>-?\d+)\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+\d+(?:\s+(?P<zero>-?\d+)(?:\s+-?\d+(?:\s+(?P<checksum>-?\d+)(?:\s+\d+(?:\s+(?P<name>\S.*))?)?)?)?)?)?)?"
)
_INTEGERS = {"16": "<i2", "32": "<i4"}
"""Sample formats that are read without wfdb. The lowest integer of a format marks a missing sample."""


@dataclass(frozen=True)
class _Channel:
    """One signal line of a header."""

    file: str
    format: str
    offset: int
    """Number of bytes in the file before the first sample; 24 in a MATLAB 4 file."""
    gain: float
    """Stored units per physical unit."""
    baseline: int
    """Stored value that represents 0."""
    unit: str
    checksum: int | None
    name: str


def read_wfdb(path: Path) -> Recording:
    """Reads a WFDB record (path without `.hea`).

    Raises:
      EtpError: files are missing, truncated or damaged; the gain is unknown; the unit is not a voltage; or the record
        has an unsupported structure (segments, several samples per frame). The message is `kind: detail`.
    """
    try:
        fs, samples, channels = _read_header(path)
        if all(channel.format in _INTEGERS for channel in channels):
            files = groupby(channels, lambda channel: (channel.file, channel.format, channel.offset))
            parts = [_read_file(path, samples, list(group)) for _, group in files]
            signal = parts[0] if len(parts) == 1 else np.hstack(parts)
        else:
            signal = _read_by_wfdb(path, channels)
        signal *= [MICROVOLT[channel.unit] for channel in channels]
        return Recording(signal, fs, tuple(channel.name for channel in channels))
    except FileNotFoundError as error:
        raise EtpError(f"missing file: {Path(error.filename or path).name}") from None
    # wfdb raises these on damaged headers and truncated signal files; it has no exception class of its own.
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None


def _read_header(path: Path) -> tuple[float, int | None, list[_Channel]]:
    """Returns the sampling rate, the number of samples (None: as many as the files hold) and the channels."""
    lines = [line.strip() for line in Path(f"{path}.hea").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    head = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    if head is None:
        raise ValueError("the header has no record line")
    if head["segments"]:
        raise EtpError(f"segments: {path.name} is divided into segments, which is not supported; join them")
    if not head["fs"]:
        raise EtpError(f"sampling rate: the header of {path.name} gives none")
    if not lines[1:] or len(lines[1:]) != int(head["channels"]):
        raise ValueError(f"the header announces {head['channels']} signals and describes {len(lines) - 1}")
    return float(head["fs"]), int(head["samples"] or 0) or None, [_channel(path, line) for line in lines[1:]]


def _channel(path: Path, line: str) -> _Channel:
    """Parses a signal line. Omitted fields take WFDB's default values, except for the gain, which is required."""
    fields = _SIGNAL_LINE.fullmatch(line)
    if fields is None:
        raise ValueError(f"header line {line!r}")
    name = fields["name"] or ""
    gain, unit = float(fields["gain"] or 0), fields["unit"] or "mV"
    if gain == 0:
        raise EtpError(f"gain: lead {name} of {path.name} is not calibrated (gain 0 or none in the header)")
    if unit not in MICROVOLT:
        raise EtpError(f"unit: {path.name} is in {unit!r}, not in one of {', '.join(MICROVOLT)}")
    if int(fields["frame"] or 1) != 1 or int(fields["skew"] or 0):
        raise EtpError(
            f"frames: lead {name} of {path.name} has several samples a frame or a skew, which is not supported"
        )
    return _Channel(
        file=fields["file"],
        format=fields["format"],
        offset=int(fields["offset"] or 0),
        gain=gain,
        baseline=int(fields["baseline"] or fields["zero"] or 0),
        unit=unit,
        checksum=None if fields["checksum"] is None else int(fields["checksum"]),
        name=name,
    )


def _read_file(path: Path, samples: int | None, channels: list[_Channel]) -> NDArray[np.float64]:
    """Reads the channels [T, channels] of one signal file, in physical units."""
    file, offset = path.with_name(channels[0].file), channels[0].offset
    data = np.fromfile(file, _INTEGERS[channels[0].format], offset=offset)
    size, frame = file.stat().st_size - offset, data.itemsize * len(channels)
    if size != frame * (samples or max(size // frame, 1)):
        expected = f"{samples or 'whole'} samples of {len(channels)} leads"
        raise EtpError(f"unreadable signal: {file.name} holds {size} bytes, not {expected}")
    data = data.reshape(-1, len(channels))
    _check_sums(path, channels, data)
    signal = (data - [float(channel.baseline) for channel in channels]) / [channel.gain for channel in channels]
    signal[data == np.iinfo(data.dtype).min] = np.nan
    return signal


def _read_by_wfdb(path: Path, channels: list[_Channel]) -> NDArray[np.float64]:
    """Reads the channels [T, channels] of all signal files with wfdb, in physical units."""
    record: Any = wfdb.rdrecord(str(path), physical=False)
    _check_sums(path, channels, record.d_signal)
    return record.dac()


def _check_sums(path: Path, channels: list[_Channel], data: NDArray[np.integer]) -> None:
    """Compares the sum of each channel with its checksum: modulo 2^16, signed or unsigned, or absent."""
    for channel, found in zip(channels, data.sum(axis=0, dtype=np.int64).tolist(), strict=True):
        if channel.checksum is not None and (found - channel.checksum) % 2**16:
            raise EtpError(f"checksum: lead {channel.name} of {path.name} differs from the header")
