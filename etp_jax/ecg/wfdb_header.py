"""Headers of WFDB records, whose format is specified at https://wfdb.io/spec/header-files.html."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from etp_jax.errors import EtpError
from etp_jax.paths import read_file

# The header is parsed here and not by wfdb, for two reasons. wfdb looks up some 240 cells of a pandas table to parse a
# header, which takes 95 % of the time of `wfdb.rdsamp`. Where the header marks the gain as unknown, wfdb assumes 200
# units per millivolt.
_RECORD_LINE = re.compile(
    r"(?P<name>[^\s/]+)(?:/(?P<segments>\d+))?\s+(?P<channels>\d+)"
    r"(?:\s+(?P<fs>[\d.eE+]+)(?:/\S+)?(?:\s+(?P<samples>\d+)(?:\s.*)?)?)?"
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?"
    r"(?:\s+(?P<gain>[-+]?[\d.]+(?:[eE][-+]?\d+)?)(?:\((?P<baseline>-?\d{1,10})\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+\d+(?:\s+(?P<zero>-?\d{1,10})"
    r"(?:\s+(?P<initial>-?\d+)(?:\s+(?P<checksum>-?\d+)(?:\s+\d+(?:\s+(?P<name>\S.*))?)?)?)?)?)?)?"
)


@dataclass(frozen=True)
class Channel:
    """One signal line of a header."""

    file: str
    format: str
    frame: int
    """Number of samples in a frame, which is one tick of the record's clock."""
    skew: int
    """Number of frames by which the signal is late in its file."""
    offset: int
    """Number of bytes in the file before the first sample; 24 in a MATLAB 4 file."""
    gain: float
    """Stored units per physical unit; 0 if the signal is not calibrated."""
    baseline: int
    """Stored value that represents 0."""
    unit: str
    initial: int
    """First stored value, from which format 8 counts."""
    checksum: int
    """Sum of the stored values, modulo 2^16; 0 if the header has none, or the placeholder that CinC 2017 writes."""
    name: str


@dataclass(frozen=True)
class Header:
    """A header: either signals, or the segments that hold them."""

    fs: float
    """Frames per second."""
    samples: int | None
    """Number of frames; None if the header has no number: as many as the files hold."""
    channels: tuple[Channel, ...]
    segments: tuple[tuple[str, int], ...] = ()
    """Name and number of frames of each segment; `~` names a gap, and the layout segment has no frames."""
    comments: tuple[str, ...] = ()
    """Lines that begin with `#`."""


def find(path: Path) -> Path:
    """Returns the file of this name, or with name or suffix in upper or lower case; `path` itself if there is none."""
    cases = (path.name, path.stem + path.suffix.upper(), path.name.upper(), path.name.lower())
    # A list of the folder would take long where it holds 100,000 records.
    return next((other for other in map(path.with_name, cases) if other.exists()), path)


def read_header(path: Path) -> Header:
    """Reads the header of a record (path without `.hea`), in UTF-8 or Latin-1.

    Raises:
      EtpError: the sampling rate is missing or 0.
      ValueError: the header is damaged.
      FileNotFoundError: there is no header.
    """
    content = read_file(find(Path(f"{path}.hea")))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    stripped = [line.strip() for line in text.splitlines()]
    comments = tuple(line for line in stripped if line.startswith("#"))
    lines = [line for line in stripped if line and not line.startswith("#")]
    head = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    if head is None:
        raise ValueError("the header has no record line")
    fs = float(head["fs"] or 0)
    if not 0 < fs < math.inf:
        raise EtpError(f"sampling rate: the header of {path.name} gives {head['fs'] or 'none'}")
    samples = int(head["samples"] or 0) or None
    parts, announced = lines[1:], int(head["segments"] or head["channels"])
    if not parts or len(parts) != announced:
        kind = "segments" if head["segments"] else "signals"
        raise ValueError(f"the header announces {announced} {kind} and describes {len(parts)}")
    if head["segments"]:
        return Header(fs, samples, (), tuple(map(_segment, parts)), comments)
    return Header(fs, samples, tuple(map(_channel, parts)), (), comments)


def _segment(line: str) -> tuple[str, int]:
    name, length = line.split()
    return name, int(length)


def _channel(line: str) -> Channel:
    """Parses a signal line. Omitted fields take WFDB's default values, except for the gain, which is then 0."""
    fields = _SIGNAL_LINE.fullmatch(line)
    if fields is None:
        raise ValueError(f"header line {line[:80]!r}")
    return Channel(
        file=fields["file"],
        format=fields["format"],
        frame=int(fields["frame"] or 1) or 1,
        skew=int(fields["skew"] or 0),
        offset=int(fields["offset"] or 0),
        gain=float(fields["gain"] or 0),
        baseline=int(fields["baseline"] or fields["zero"] or 0),
        unit=fields["unit"] or "mV",
        initial=int(fields["initial"] or 0),
        checksum=int(fields["checksum"] or 0),
        name=fields["name"] or "",
    )
