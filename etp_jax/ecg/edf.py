"""Reading of EDF, EDF+ and BDF files; the format is specified at https://www.edfplus.info/specs/."""

from __future__ import annotations

import math
import re
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import edfio
import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.channels import check_gaps, choose_channels, microvolts
from etp_jax.ecg.leads import Layout, Recording, lead_of
from etp_jax.errors import EtpError, option

# edfio reads more files than pyedflib, which refuses odd dates, equal limits, unknown numbers of data records and gaps.
_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)[\x14\x15]")
_BYTES = {edfio.Edf: 2, edfio.Bdf: 3}
"""Bytes per sample."""


def read_edf(path: Path, layout: Layout) -> Recording:
    """Reads the voltages of one sampling rate of an EDF or BDF file; its first byte decides which of the two it is.

    Values are those of pyedflib. Data records are placed by their time-stamps, also in a file that calls itself
    continuous. Channels without a unit are in that of the layout, or in that of the channels with the same limits.
    """
    edf, notes = _open(path)
    signals: list[Any] = []
    for signal in edf.signals:
        if flaw := _flaw(signal):
            notes.append(f"channel {signal.label} left out: {flaw}")
        else:
            signals.append(signal)
    if not signals:
        raise EtpError(f"unreadable signal: {path.name} has no channel ({'; '.join(notes) or 'annotations only'})")
    duration = Fraction(str(edf.data_record_duration))
    if duration <= 0:
        raise EtpError(f"sampling rate: the data records of {path.name} last {float(duration):g} s")
    rates = [float(signal.samples_per_data_record / duration) for signal in signals]
    units = [one.physical_dimension.strip() or layout.unit or _unit_by_limits(one, signals) for one in signals]
    if "" in units and not any(map(microvolts, units)):
        raise EtpError(f"unit: {path.name} does not contain it; give {option('unit')}")
    kept, left_out = choose_channels(path.name, [signal.label for signal in signals], units, rates)
    chosen = [signals[number] for number in kept]
    signal = np.column_stack([_values(signals[n]) * (microvolts(units[n]) or math.nan) for n in kept])
    bare = [one.label for one in chosen if not one.physical_dimension.strip()]
    unit = layout.unit or "" if bare else ""
    notes += [f"unit {unit} by {option('unit')}"] * bool(unit)
    if bare and not unit:
        notes.append(f"{', '.join(bare)} without a unit: read in that of the leads with the same limits")
    signal, gaps = _place(path, edf, signal, rates[kept[0]])
    notes += gaps
    return Recording(signal, rates[kept[0]], tuple(one.label for one in chosen), (*notes, *left_out), unit)


def _open(path: Path) -> tuple[Any, list[str]]:
    """Reads the file, and notes on what its header gets wrong."""
    content = path.read_bytes()
    is_bdf = content[:1] == b"\xff"
    if len(content) < 512 or not (is_bdf or content[:8].strip(b" \0") == b"0"):
        raise EtpError(f"unreadable signal: {path.name} is neither EDF nor BDF")
    count = int(content[252:256].strip(b" \0"))
    size = 256 * (1 + count)
    if len(content) < size:
        raise EtpError(f"unreadable signal: {path.name} ends within its header; copy it again")
    # Some writers fill fields with zero bytes in place of spaces. The header's length follows from its signals.
    header = (content[:184] + str(size).encode().ljust(8) + content[192:size]).replace(b"\0", b" ")
    for start, end in ((244, 252), (256 + 104 * count, 256 + 120 * count)):  # some write 0,5 s or 3276,7 uV
        header = header[:start] + header[start:end].replace(b",", b".") + header[end:]
    content = header + content[size:]
    announced = int(header[236:244])
    encoding = "latin-1"
    try:
        header[8:].decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on truncated files, for which there is a note
        read: Any = edfio.read_bdf if is_bdf else edfio.read_edf
        edf = read(content, header_encoding=encoding)
        held = edf.num_data_records
        if not held:
            raise EtpError(f"unreadable signal: {path.name} holds no complete data record")
        end = size + announced * sum(one.samples_per_data_record for one in edf._signals) * _BYTES[type(edf)]
        if 0 < announced < held and not content[end:].strip(b"\0"):
            edf = read(content[:end], header_encoding=encoding)
            return edf, [f"zeros after the {announced} data records that the header announces left out"]
    differs = announced not in (-1, held)
    return edf, [f"the header announces {announced} data records, the file holds {held}"] * differs


def _unit_by_limits(signal: Any, signals: list[Any]) -> str:
    """Returns the unit of the leads with the same limits as a lead without a unit; empty if they have none or several.

    Equal limits mean equal gains, as of the leads of one amplifier.
    """
    if lead_of(signal.label) is None:
        return ""
    alike = {
        one.physical_dimension.strip()
        for one in signals
        if lead_of(one.label)
        and (one.physical_range, one.digital_range) == (signal.physical_range, signal.digital_range)
    }
    return alike.pop() if len(alike := alike - {""}) == 1 else ""


def _flaw(signal: Any) -> str:
    """Returns why the values of a channel cannot be computed; empty if they can."""
    try:
        digital, physical = signal.digital_range, signal.physical_range
    except ValueError:
        return "its limits are not numbers"
    if digital.min == digital.max or physical.min == physical.max:
        return "its limits are equal"
    if not np.isfinite(physical).all():
        return "its limits are not finite"
    return "" if signal.samples_per_data_record > 0 else "it has no samples"


def _values(signal: Any) -> NDArray[np.float64]:
    """Returns the physical values of a channel, to the last bit those of edflib, on which pyedflib rests."""
    low, high = map(_limit, signal.physical_range)
    gain = (high - low) / (signal.digital_max - signal.digital_min)
    return (signal.digital + (high / gain - signal.digital_max)) * gain


def _limit(value: float) -> float:
    """Returns a limit as edflib parses it: whole part plus fraction, which is not always the nearest float."""
    whole, _, fraction = f"{Decimal(str(value)):f}".partition(".")
    return int(whole) + math.copysign(int(fraction or 0) / 10 ** len(fraction), value)


def _place(path: Path, edf: Any, signal: NDArray[np.float64], fs: float) -> tuple[NDArray[np.float64], list[str]]:
    """Places the data records by their time-stamps, with NaN in the gaps; also returns notes.

    Where a file that calls itself continuous has no sound time-stamps, its data records follow each other.
    """
    length = len(signal) // edf.num_data_records
    is_continuous = edf.reserved[3:5] != "+D"
    if is_continuous and not any(one._is_annotation_signal for one in edf._signals):
        return signal, []
    try:
        starts = _starts(path, edf, length, fs)
    except EtpError as error:
        if is_continuous:
            return signal, [f"{error}; read without gaps, as its header calls it continuous"]
        raise
    whole = starts[-1] + length
    check_gaps(path.name, len(signal), whole, signal.shape[1])
    placed = np.full((whole, signal.shape[1]), np.nan)
    for number, start in enumerate(starts):
        placed[start : start + length] = signal[number * length : (number + 1) * length]
    notes = [f"gaps of {(whole - len(signal)) / fs:g} s hold no samples"] * (whole > len(signal))
    return placed, notes


def _starts(path: Path, edf: Any, length: int, fs: float) -> list[int]:
    """Returns the first sample of each data record of `length` samples, by its time-stamp."""
    starts = [round(onset * fs) for onset in _onsets(path, edf)]
    starts = [start - starts[0] for start in starts]
    for number in range(1, len(starts)):
        end = starts[number - 1] + length
        if starts[number] < end - 1:
            raise EtpError(f"gaps: data record {number + 1} of {path.name} begins before the one ahead of it has ended")
        if starts[number] <= end + 1:  # time-stamps are rounded
            starts[number] = end
    return starts


def _onsets(path: Path, edf: Any) -> list[Fraction]:
    """Returns the start of each data record, in seconds: the first time-stamp in its first annotation channel."""
    # edfio's public interface hides the annotation channels, and the time-stamps with them.
    keeper = next((signal for signal in edf._signals if signal._is_annotation_signal), None)
    if keeper is None:
        raise EtpError(f"gaps: {path.name} is discontinuous (EDF+D) but has no annotation channel with its time-stamps")
    data, width = keeper.digital.tobytes(), keeper.samples_per_data_record * _BYTES[type(edf)]
    onsets = []
    for number in range(edf.num_data_records):
        stamp = _ONSET.match(data, number * width, (number + 1) * width)
        if stamp is None:
            raise EtpError(f"gaps: data record {number + 1} of {path.name} has no time-stamp")
        onsets.append(Fraction(stamp[1].decode()))
    return onsets
