"""Reading of WFDB records; the format is specified at https://wfdb.io/spec/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import wfdb
from numpy.typing import NDArray

from etp_jax.ecg.bounded import bounded
from etp_jax.ecg.channels import check_gaps, choose_channels, microvolts, unreadable
from etp_jax.ecg.leads import Recording
from etp_jax.ecg.wfdb_header import Channel, Header, find, read_header
from etp_jax.errors import EtpError
from etp_jax.paths import inside, regular

_INTEGERS = {"16": "<i2", "32": "<i4", "61": ">i2"}
"""Sample formats that are read without wfdb. The lowest integer of a format marks a missing sample."""
_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 3 / 2, "310": 4 / 3, "311": 4 / 3}
"""Bytes per sample of the formats that are not compressed."""
_FLAC = ("508", "516", "524")
GAP = "~"
"""Name of a segment without samples."""


def read_wfdb(path: Path) -> Recording:
    """Reads a WFDB record (path without `.hea`).

    Channels that are no voltages are left out. Channels with several samples per frame are read at their own sampling
    rate and not averaged. Segments are joined, with NaN in the gaps.

    Raises:
      EtpError: files are missing, truncated or damaged; a gain is unknown; no channel is a voltage; or the channels
        have several sampling rates. The message is `kind: detail`.
    """
    with unreadable(path.name):
        header = read_header(path)
        return _read_segments(path, header) if header.segments else _read_signals(path, header)


def _read_signals(path: Path, header: Header) -> Recording:
    """Reads a record that has no segments."""
    channels = header.channels
    kept, notes = choose_channels(
        path.name,
        [channel.name for channel in channels],
        [channel.unit for channel in channels],
        [header.fs * channel.frame for channel in channels],
    )
    for number in kept:
        if not 0 < abs(channels[number].gain) < math.inf:
            raise EtpError(
                f"gain: lead {channels[number].name} of {path.name} is not calibrated (gain 0 or none in the header)"
            )
    by_file = groupby(range(len(channels)), lambda n: (channels[n].file, channels[n].format, channels[n].offset))
    files = [numbers for numbers in (list(group) for _, group in by_file) if not set(kept).isdisjoint(numbers)]
    if all(_is_plain(channels[number]) for numbers in files for number in numbers):
        parts = [_read_file(path, header.samples, [channels[n] for n in numbers], kept, numbers) for numbers in files]
        signal = parts[0] if len(parts) == 1 else np.hstack(parts)
    elif packed := [channels[numbers[0]].file for numbers in files if channels[numbers[0]].format in _FLAC]:
        largest = max((regular(_beside(path, name)) for name in packed), key=lambda file: file.stat().st_size)
        signal = bounded(read_flac)(largest, path, header, kept)
    else:
        signal = _read_by_wfdb(path, header, kept)
    signal *= [microvolts(channels[number].unit) or math.nan for number in kept]
    fs = header.fs * channels[kept[0]].frame
    return Recording(signal, fs, tuple(channels[number].name for number in kept), tuple(notes))


def _is_plain(channel: Channel) -> bool:
    return channel.format in _INTEGERS and channel.frame == 1 and channel.skew == 0


def _read_file(
    path: Path, samples: int | None, channels: Sequence[Channel], kept: Sequence[int], numbers: Sequence[int]
) -> NDArray[np.float64]:
    """Reads the kept ones of the channels of one signal file, [T, kept], in physical units."""
    file, offset = _beside(path, channels[0].file), channels[0].offset
    data = np.fromfile(regular(file), _INTEGERS[channels[0].format], offset=offset)
    size, frame = file.stat().st_size - offset, data.itemsize * len(channels)
    if size != frame * (samples or max(size // frame, 1)):
        expected = f"{samples or 'whole'} samples of {len(channels)} leads"
        remedy = "copy it again"
        if size > frame * (samples or 0) and size % frame == 0:
            remedy = f"it holds {size // frame}: if no lead is missing in the header, correct its number of samples"
        raise EtpError(f"unreadable signal: {file.name} holds {size} bytes, not {expected}; {remedy}")
    data = data.reshape(-1, len(channels))
    columns = [column for column, number in enumerate(numbers) if number in kept]
    if len(columns) < len(channels):
        data, channels = data[:, columns], [channels[column] for column in columns]
    for channel, total in zip(channels, data.sum(axis=0, dtype=np.int64).tolist(), strict=True):
        _check_sum(path, channel, total)
    signal = (data - [float(channel.baseline) for channel in channels]) / [channel.gain for channel in channels]
    signal[data == np.iinfo(data.dtype).min] = np.nan
    return signal


def _beside(path: Path, name: str) -> Path:
    """Returns the file that a header names; it is beside the header."""
    try:
        return find(inside(path.parent, name, "its header", subfolders=False))
    except EtpError as error:
        raise EtpError(f"unreadable signal: {path.name} ({error})") from None


def read_flac(largest: Path, path: Path, header: Header, kept: Sequence[int]) -> NDArray[np.float64]:
    """Reads the kept channels [T, kept] of a record with FLAC files, in physical units.

    Args:
      largest: the largest of the FLAC files; the memory of the process that decodes them is limited by its size.
      path: the record.
      header: its header.
      kept: numbers of the channels.

    Raises:
      EtpError: a file is damaged, or is not what the header announces.
    """
    try:
        return _read_by_wfdb(path, header, kept)
    except (RuntimeError, ValueError):  # of libsndfile and wfdb; they name a temporary file
        raise EtpError(
            f"unreadable signal: {largest.name} is damaged, or no FLAC file as the header of {path.name} announces it; "
            "copy both again"
        ) from None


def _read_by_wfdb(path: Path, header: Header, kept: Sequence[int]) -> NDArray[np.float64]:
    """Reads the kept channels [T, kept] of all signal files with wfdb, in physical units."""
    names = list(dict.fromkeys(channel.file for channel in header.channels))
    lines = [f"r {len(header.channels)} 1 {header.samples or ''}"]
    for channel in header.channels:
        form = f"{channel.format}x{channel.frame}+{channel.offset}"
        scale = f"{channel.gain or 1.0!r}({channel.baseline})/mV"
        lines.append(f"{names.index(channel.file)}.dat {form} {scale} 0 0 {channel.initial} 0 0")
    with TemporaryDirectory() as folder:
        # wfdb gets a header of its own: it reads no Latin-1, and finds no file whose name differs in case. The skew is
        # undone below: where a frame has several samples, wfdb marks too few of those beyond the end as missing.
        Path(folder, "r.hea").write_text("\n".join([*lines, ""]), encoding="ascii")
        for number, name in enumerate(names):
            file = _beside(path, name)
            _check_size(file, header, [channel for channel in header.channels if channel.file == name])
            Path(folder, f"{number}.dat").symlink_to(file.resolve())
        record: Any = wfdb.rdrecord(f"{folder}/r", channels=list(kept), physical=False, smooth_frames=False)
    for number, digital in zip(kept, record.e_d_signal, strict=True):
        _check_sum(path, header.channels[number], int(digital.sum(dtype=np.int64)))
    physical = np.column_stack(record.dac(expanded=True))
    for column, number in enumerate(kept):
        late = min(header.channels[number].skew * header.channels[number].frame, len(physical))
        physical[:, column] = np.concatenate((physical[late:, column], np.full(late, np.nan)))
    return physical


def _check_size(file: Path, header: Header, channels: Sequence[Channel]) -> None:
    """Checks that a file holds the announced samples, before memory is taken for them."""
    form, size = channels[0].format, regular(file).stat().st_size - channels[0].offset
    width = sum(channel.frame for channel in channels)
    if form in _FLAC:
        import soundfile  # wfdb needs it for these formats only

        held = int(soundfile.info(str(file)).frames) * len(channels)
    elif form in _BYTES:
        held = int(size / _BYTES[form])
    else:
        raise EtpError(f"unreadable signal: {file.name} has format {form}, which is not known")
    if held < width * (header.samples or 1):
        expected = f"{header.samples or 'whole'} samples of {len(channels)} leads"
        raise EtpError(f"unreadable signal: {file.name} holds {size} bytes, not {expected}; copy it again")


def _check_sum(path: Path, channel: Channel, found: int) -> None:
    """Compares the sum of a channel with its checksum: modulo 2^16, signed or unsigned, or absent."""
    if channel.checksum and (found - channel.checksum) % 2**16:
        raise EtpError(f"checksum: lead {channel.name} of {path.name} differs from the header")


def _read_segments(path: Path, header: Header) -> Recording:
    """Reads a record that consists of segments, and joins them by the names of their channels."""
    if sum(length for _, length in header.segments) != (header.samples or 0):
        raise EtpError(f"segments: those of {path.name} do not add up to its {header.samples or 0} samples")
    named = dict.fromkeys(segment for segment in header.segments if segment[1])
    segments = {(name, length): _read_segment(path, header, name, length) for name, length in named}
    parts = [(segments[segment], segment[1]) for segment in header.segments if segment[1]]
    found = [part for part, _ in parts if part is not None]
    if not found:
        raise EtpError(f"segments: {path.name} holds no voltages")
    if len({part.fs for part in found}) > 1:
        raise EtpError(f"sampling rate: the segments of {path.name} have several; convert them to one")
    frame = round(found[0].fs / header.fs)
    # A segment that is named again counts as a gap: a short header can name one any number of times.
    held, whole = sum(len(part.signal) for part in segments.values() if part), frame * (header.samples or 0)
    channels = tuple(dict.fromkeys(name for part in found for name in part.channels))
    check_gaps(path.name, held, whole, len(channels))
    held = sum(len(part.signal) for part in found)
    if len({part.channels for part in found}) == 1:
        channels = found[0].channels  # also if a name occurs twice
    signal = np.full((whole, len(channels)), np.nan)
    start = 0
    for part, length in parts:
        if part is not None:
            places = range(len(channels)) if part.channels == channels else map(channels.index, part.channels)
            signal[start : start + len(part.signal), list(places)] = part.signal
        start += frame * length
    notes = [note for part in found for note in part.notes]
    if held < whole:
        notes.append(f"gaps of {(whole - held) / found[0].fs:g} s hold no samples")
    return Recording(signal, found[0].fs, channels, tuple(dict.fromkeys(notes)))


def _read_segment(path: Path, whole: Header, name: str, length: int) -> Recording | None:
    """Reads one segment; returns None for a gap or if no channel is a voltage."""
    if name == GAP:
        return None
    segment = _beside(path, name)
    header = read_header(segment)
    if header.segments or header.fs != whole.fs or header.samples not in (None, length):
        raise EtpError(f"segments: the header of {name} does not fit that of {path.name}")
    if not any(microvolts(channel.unit) for channel in header.channels):
        return None
    return _read_signals(segment, replace(header, samples=length))
